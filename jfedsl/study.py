"""Settings compared over seeds: runs in folders of their own, a table and a picture."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfedsl.config import Config
from jfedsl.errors import flag_error
from jfedsl.runtime import figures
from jfedsl.runtime.metrics import read
from jfedsl.runtime.workdir import write_atomically
from jfedsl.training import train

Changes = Mapping[str, Any]


class Outcome(NamedTuple):
    """What the runs of one setting came to, one entry a seed.

    Attributes:
      name: of the setting.
      summaries: as in summary.json.
      curves: (round, megabytes sent so far, test accuracy) at the evaluations of each run.
    """

    name: str
    summaries: list[dict[str, Any]]
    curves: list[figures.Curve]


def compare(base: Config, settings: Mapping[str, Changes], seeds: Sequence[int]) -> list[Outcome]:
    """Trains every setting with every seed; the same call again goes on where it was.

    Args:
      base: of all runs; its `workdir` is the folder of the study, one of a run each within.
      settings: what each changes, by its name.
      seeds: of the runs.

    Raises:
      UserError: no folder, or settings that cannot work.
    """
    if not base.workdir:
        raise flag_error("workdir", "", "a folder for the study")
    outcomes = []
    for name, changes in settings.items():
        summaries: list[dict[str, Any]] = []
        curves: list[figures.Curve] = []
        for seed in seeds:
            folder = Path(base.workdir) / name.replace(" ", "_") / f"seed_{seed}"
            config = dataclasses.replace(base, **changes, seed=seed, workdir=str(folder))
            summaries.append(train(config))
            rows = [r for r in read(folder / "metrics.csv") if r["test_accuracy"] is not None]
            curves.append(
                [(r["round"], r["cumulative_bytes"] / 1e6, r["test_accuracy"]) for r in rows]
            )
            final = summaries[-1]["final_accuracy"]
            if base.progress != "none":
                print(f"{name}, seed {seed}: test accuracy {final:.4f}", flush=True)
        outcomes.append(Outcome(name, summaries, curves))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Accuracy (mean, least to greatest), megabytes and client FLOPs of settings, as Markdown."""
    lines = [
        "| setting | test accuracy | MB sent | of which model | MFLOPs of a client, an example |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, summaries, _ in outcomes:
        final = [s["final_accuracy"] for s in summaries]
        sent = np.mean([sum(s["bytes"].values()) for s in summaries]) / 1e6
        model = np.mean([s["bytes"]["model_up"] + s["bytes"]["model_down"] for s in summaries])
        flops = np.mean([s["client_flops"]["pruned"] for s in summaries])
        lines.append(
            f"| {name} | {np.mean(final):.4f} ({min(final):.4f} to {max(final):.4f}) "
            f"| {sent:.1f} | {model / 1e6:.2f} | {flops / 1e6:.3f} |"
        )
    return "\n".join(lines)


def report(base: Config, outcomes: Sequence[Outcome], title: str) -> str:
    """Writes `table.md` and `accuracy.png` into the folder of the study; returns the table."""
    folder, text = Path(base.workdir), table(outcomes)
    write_atomically(folder / "table.md", text + "\n")
    curves = {name: runs for name, _, runs in outcomes}
    figures.spread(curves, title, folder / "accuracy.png")
    return text
