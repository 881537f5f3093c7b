"""Makes all tables and figures of this repository again, from one build.

jfedsl evidence --workdir=runs/evidence
jfedsl evidence --workdir=runs/evidence --only=digits,methods --processes=4
jfedsl evidence --workdir=runs/evidence --results=experiments/results --again=2

Chooses learning rates on validation data, trains every study of presets/studies that the results
pages show, and writes tables, figures and records of the runs into --results. Runs that are
recorded there are not trained again. The same command resumes after an interruption. --again trains
runs anew that it draws from the records, and compares them to the printed digits.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jfedsl.commands.evidence_tasks import STEPS, Evidence, names_of
from jfedsl.errors import TrainingError, UserError, flag_error, no_effect, one_line
from jfedsl.files.paths import local
from jfedsl.run.script import start as run_script
from jfedsl.run.storage.workdir import write_atomically
from jfedsl.studies.pages import refreshed
from jfedsl.studies.sweep import shard_of


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of its own."""
    flags.DEFINE_string("workdir", "", "Folder of the runs.", values)
    flags.DEFINE_string(
        "results", "", "Folder of tables, figures and records. Default: results in --workdir.",
        values,
    )  # fmt: skip
    flags.DEFINE_list("only", [], "Some of the studies. Default: all.", values)
    flags.DEFINE_integer(
        "processes", 2, "Processes that train, one for a core or two.", flag_values=values
    )
    flags.DEFINE_string("data_dir", "", "Folder of prepared data sets, see train.", values)
    flags.DEFINE_multi_string(
        "set", [], "A flag for every study, such as --set=--rounds=2, to try this out.", values
    )
    flags.DEFINE_list("pages", [], "Documents whose tables are written anew at the end.", values)
    flags.DEFINE_integer("again", 0, "Recorded runs to train anew and compare.", flag_values=values)
    flags.DEFINE_integer("draw", 0, "Seed that draws the runs of --again.", flag_values=values)
    flags.DEFINE_string("shard", "", "Part i/n of the work of --step, for one process.", values)
    flags.DEFINE_enum("step", "", ["", *STEPS], "Which step --shard does.", values)


def main(given: flags.FlagValues) -> None:
    """Makes the studies, or one process's part of them, or compares some runs."""
    if not given.workdir:
        raise flag_error("workdir", "", "a folder for the runs")
    workdir = local("workdir", given.workdir)
    results = local("results", given.results) if given.results else workdir / "results"
    data = [f"--data_dir={given.data_dir}"] if given.data_dir else []
    extra = ["--progress=none", *data, *given.set]
    evidence = Evidence(names_of(given.only), workdir, results, extra)
    if given.processes < 1:
        raise flag_error("processes", given.processes, "at least 1")
    if given.again < 0:
        raise flag_error("again", given.again, "at least 0")
    if given.shard and not given.step:
        raise no_effect("shard", given.shard, "without --step")
    pages = [_page(path) for path in given.pages]
    if given.step:
        _do_part(evidence, given.step, shard_of(given.shard or "1/1"))
    elif given.again:
        _compare(evidence, given.again, given.draw)
    else:
        make(evidence, given.processes)
        _refresh(pages, results)


def _do_part(evidence: Evidence, step: str, shard: tuple[int, int]) -> None:
    """Trains the runs of every n-th task; a task that fails is printed, and the others go on."""
    number, shards = shard
    mine = list(evidence.tasks(step))[number - 1 :: shards]
    for i, task in enumerate(mine, 1):
        print(f"{step} {i}/{len(mine)}: {task.study}, {task.setting or 'all'}", flush=True)
        try:
            evidence.do(step, task)
        except (UserError, RuntimeError) as error:  # JAX raises the latter without memory
            print(f"{task.study}, {task.setting}: failed: {one_line(str(error))}", flush=True)


def make(evidence: Evidence, processes: int) -> None:
    """Trains in several processes, step by step, then writes the results of every study.

    Args:
      evidence: the studies.
      processes: number of processes.

    Raises:
      UserError: no study can be made.
      TrainingError: some studies could not be finished; the others are written.
    """
    missing = evidence.refused()
    names = [name for name in evidence.names if name not in missing]
    if not names:
        raise UserError("; ".join(missing.values()))
    for name, text in missing.items():
        print(f"{name} is left out: {text}", flush=True)
    for step in STEPS:
        _spawn(step, names, processes)
    for name in names:
        try:
            evidence.write(name)
            print(f"written: {evidence.results / name}", flush=True)
        except UserError as error:
            missing[name] = str(error)
    if missing:
        texts = (f"{name} ({text})" for name, text in missing.items())
        raise TrainingError(f"not finished: {'; '.join(texts)}")


def _spawn(step: str, names: Sequence[str], processes: int) -> None:
    """Runs the parts of a step of some studies in processes of their own, and waits for them.

    Raises:
      TrainingError: a process ended in another way than having done its part.
    """
    program = "from jfedsl.commands.main import main; main()"
    own = [sys.executable, "-c", program, "evidence", *sys.argv[1:]]
    own += [f"--only={','.join(names)}", f"--step={step}"]
    parts: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(processes):
            parts.append(subprocess.Popen([*own, f"--shard={number + 1}/{processes}"]))
        statuses = [part.wait() for part in parts]
    except BaseException:
        for part in parts:
            part.terminate()  # each saves its run
        for part in parts:
            part.wait()
        raise
    if any(statuses):
        status = max(statuses, key=abs)
        raise TrainingError(f"a process of step {step} ended with status {status}")


def _page(path: str) -> Path:
    """A document of --pages.

    Raises:
      UserError: there is no such file.
    """
    page = local("pages", path)
    if not page.is_file():
        raise flag_error("pages", path, "files that are there")
    return page


def _refresh(pages: Sequence[Path], results: Path) -> None:
    """Writes the tables of results in documents anew; see `pages.refreshed`."""
    for page in pages:
        try:
            text = refreshed(page.read_text(), results)
        except UserError as error:
            raise UserError(f"--pages={page}: {error}") from None
        write_atomically(page, text)
        print(f"written: {page}", flush=True)


def _compare(evidence: Evidence, count: int, seed: int) -> None:
    """Trains recorded runs anew.

    Raises:
      TrainingError: a run prints other digits than its record.
    """
    lines = evidence.compare(count, seed)
    if lines:
        print("\n".join(lines), flush=True)
        raise TrainingError("other digits than recorded; see above")
    print("the same digits as recorded")


def start() -> None:
    """Runs it on the command line."""
    run_script(lambda _: main(flags.FLAGS), define=define, about=__doc__ or "")
