"""The study of the questions of arXiv 2412.06414: its runs, figures and tables."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from jfedsl.config import Config
from jfedsl.config.canonical import canonical
from jfedsl.config.titles import model_title
from jfedsl.data.sources import title as title_of
from jfedsl.errors import flag_error
from jfedsl.run.assemble.shares import counted
from jfedsl.run.plots.spread import spread
from jfedsl.run.plots.style import save_each
from jfedsl.run.storage.metrics import STREAMS
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.studies.axes import JOULES, MEGABYTES, ROUND, SECONDS
from jfedsl.studies.columns import (
    Column,
    median_round_seconds,
    megabytes,
    simulated,
    to_target,
)
from jfedsl.studies.outcome import Outcome, metric_of
from jfedsl.studies.provenance import made_by
from jfedsl.studies.questions import Question, questions
from jfedsl.studies.study import Changes, run_configs, train_seeds
from jfedsl.studies.tables import contents

AXES = (ROUND, MEGABYTES, SECONDS, JOULES)
COLUMNS: dict[str, Column] = {
    "MB sent": megabytes(*STREAMS),
    "seconds": simulated("seconds"),
    "median s a round": median_round_seconds,
    "device joules": simulated("energy_joules"),
    "rounds to target": to_target("rounds"),
    "MB to target": to_target("bytes", 1e6),
    "seconds to target": to_target("seconds"),
    "device joules to target": to_target("joules"),
}

# The canonical flags of a config: equal for configs that train the same.
_Key = tuple[tuple[str, str], ...]


def conduct(
    base: Config,
    cuts: Sequence[str],
    seeds: Sequence[int],
    rates: Mapping[str, float] | None = None,
    only: Sequence[str] = (),
) -> str:
    """Trains every setting with every seed; writes a figure, a CSV file and a table per question.

    A question's files are written as soon as its runs are finished. Settings that several questions
    share are trained once.

    Args:
      base: the light setting; its `workdir` is the folder of the study.
      cuts: cuts to compare.
      seeds: of every setting.
      rates: learning rates of rivals, see `questions`.
      only: names of the questions to ask; empty for all.

    Returns:
      The tables as Markdown, and what made them.

    Raises:
      UserError: wrong settings, see `questions` and `run_configs`, or an unknown question.
    """
    base = counted(base)  # partitions are compared with as many clients
    every = questions(base, cuts, rates)
    asked = _asked(every, only)
    names, settings = _distinct_settings(base, every)
    configs = run_configs(base, settings, seeds)  # refuses what is wrong before any training
    trained: dict[str, Outcome] = {}
    text, texts = "", list[str]()
    for name, question in asked.items():
        outcomes = []
        for label, changes in question.settings.items():
            setting = names[_key(base, changes)]
            if setting not in trained:
                trained[setting] = train_seeds(setting, configs[setting], AXES)
            outcomes.append(trained[setting]._replace(name=label))
        texts.append(_write(base, name, question.title, outcomes, seeds))
        made = made_by(s for outcome in trained.values() for s in outcome.summaries)
        text = "\n\n".join([*texts, made])
        write_atomically(Path(base.workdir, "tables.md"), text + "\n")
        if base.progress != "none":
            print(f"drawn: {Path(base.workdir, name)}.{base.figure_format[0]}", flush=True)
    return text


def _distinct_settings(
    base: Config, questions: Mapping[str, Question]
) -> tuple[dict[_Key, str], dict[str, Changes]]:
    """The distinct settings of all questions, each under the label that it has first.

    The questions that are not asked count too, so that the names of folders do not depend on it.

    Returns:
      Labels by the settings' keys, and what the settings change by label.
    """
    names: dict[_Key, str] = {}
    settings: dict[str, Changes] = {}
    for question in questions.values():
        for label, changes in question.settings.items():
            key = _key(base, changes)
            if key not in names:
                names[key] = label
                settings[label] = changes
    return names, settings


def _asked(questions: Mapping[str, Question], names: Sequence[str]) -> Mapping[str, Question]:
    """The questions with these names, in the study's order; all questions if there are no names."""
    allowed = f"some of {', '.join(questions)}, each once"
    for name in names:
        if name not in questions:
            raise flag_error("only", name, allowed, questions)
    if len(set(names)) < len(names):
        raise flag_error("only", ",".join(names), allowed)
    return {name: q for name, q in questions.items() if not names or name in names}


def _key(base: Config, changes: Changes) -> _Key:
    return tuple(canonical(dataclasses.replace(base, **changes)).items())


def _write(
    base: Config, name: str, title: str, outcomes: Sequence[Outcome], seeds: Sequence[int]
) -> str:
    """Writes the figure and the CSV file of a question; returns its table as Markdown."""
    curves = {o.name: o.curves for o in outcomes}
    caption = f"{title}: {model_title(base)} on {title_of(base.dataset)}, {base.clients} clients"
    figure = spread(curves, [axis.label for axis in AXES], caption, metric_of(outcomes))
    save_each(figure, Path(base.workdir, name), base.figure_format)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [axis.column for axis in AXES]
    writer.writerow(["setting", "seed", *columns, f"{metric_of(outcomes)}, deployed"])
    for outcome in outcomes:
        for seed, points in zip(seeds, outcome.curves, strict=True):
            writer.writerows([outcome.name, seed, *(f"{x:.6g}" for x in p)] for p in points)
    write_atomically(Path(base.workdir, f"{name}.csv"), buffer.getvalue())
    return f"### {title}\n\n{contents(outcomes, COLUMNS)}"
