"""Measuring the convergence bound's constants: along a run, and of a run as it stands."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfedsl.config import Config
from jfedsl.config.idle import idle
from jfedsl.engine.state import State
from jfedsl.errors import UserError, flag_error
from jfedsl.files.paths import Name, local
from jfedsl.files.signed import parsed
from jfedsl.run.assemble import Experiment
from jfedsl.run.convergence import Row, report, shown, step_size
from jfedsl.run.hooks import Hook, Point, Saved
from jfedsl.run.processes import distributed
from jfedsl.run.processes.compilation import compiled
from jfedsl.run.restore import restore_run
from jfedsl.run.storage import ledger
from jfedsl.theory.measure import Effort, Measurement, Objective

MEASURED = "constants.jsonl"
_BETWEEN = 4  # f and its gradient are measured this many times as often as all constants


class ConstantsRecorder(Hook):
    """Measures the bound's constants every so many rounds, and f and its gradient more often.

    Each measurement is a line of constants.jsonl.
    """

    def __init__(
        self, config: Config, experiment: Experiment, folder: Path, seal: ledger.Seal | None
    ) -> None:
        """Opens the file; lines past the seal, whole or torn, are cut off.

        Args:
          config: settings, with `measure_constants_every`.
          experiment: the run, put together.
          folder: the workdir.
          seal: seal of the file in the checkpoint to resume from; None starts a new file.

        Raises:
          UserError: the file is damaged, and the checkpoint has no copy of it.
        """
        assert config.measure_constants_every is not None
        self._every = config.measure_constants_every
        self._config, self._experiment = config, experiment
        self._ledger, kept = None, ""
        if distributed.first():
            self._ledger = ledger.Ledger(folder / MEASURED, "", seal)
            kept = self._ledger.text
        # What is measured next depends on the rows, and must be the same in all processes.
        self._rows = _parsed(distributed.texts(kept)[0])
        self._functions: dict[str, Any] = {}

    def between_calls(self, point: Point) -> None:
        """Measures what is due and not yet measured: all constants, or only f and its gradient."""
        done = any(row["round"] == point.round for row in self._rows)
        last = point.round == self._config.rounds
        if done or not (last or point.round in (0, self.next_due(point.round - 1))):
            return
        all_constants = last or point.round % self._every == 0
        measured = self._call("measure" if all_constants else "objective", point.state)
        row = {"round": point.round, **as_row(measured)}
        self._rows.append(row)
        if self._ledger is not None:
            self._ledger.append(json.dumps(row) + "\n")

    def on_checkpoint(self) -> Saved:
        """The seal of constants.jsonl, in the process that writes it."""
        return Saved(files={} if self._ledger is None else {MEASURED: self._ledger.seal()})

    def finish(self, entries: dict[str, Any]) -> dict[str, Any]:
        """Adds the bound as the entry `convergence`."""
        return {**entries, "convergence": self.report()}

    def next_due(self, round_: int) -> int:
        """The first round after `round_` at which anything is measured; the last round aside.

        f and its gradient are measured more often than the constants, and also after 1, 2, 4, 8,
        ... rounds, because gradients change fastest at the beginning.
        """
        step = max(1, self._every // _BETWEEN)
        following = [(round_ // every + 1) * every for every in (self._every, step)]
        return min(*following, max(1, 2 ** round_.bit_length()))

    def _call(self, name: str, state: State) -> Any:
        """The result of one of the experiment's functions, which is compiled at its first call."""
        experiment = self._experiment
        arguments = (experiment.data, experiment.key, state)
        if name not in self._functions:
            size = step_size(self._config)
            function = experiment.measure(size) if name == "measure" else experiment.objective()
            self._functions[name] = compiled(function, *arguments)
        return self._functions[name](*arguments)

    def report(self) -> dict[str, Any] | None:
        """The bound beside the measurements so far; see `jfedsl.run.convergence.report`.

        None with fewer than two measurements, without one of all constants, and for a step size
        of 0.
        """
        rows = sorted(self._rows, key=lambda row: row["round"])
        enough = len(rows) > 1 and any("beta" in row for row in rows)
        if not enough or step_size(self._config) == 0:
            return None
        return report(self._config, self._experiment, rows)


def read(path: Name) -> list[Row]:
    """The measurements in a file, without a torn last line; an empty list if there is no file.

    Raises:
      UserError: the file is damaged, or holds something else.
    """
    path = local("measurements", path)
    if not ledger.exists(path):
        return []
    text = ledger.read(path)
    try:
        rows = _parsed(text)
    except ValueError as error:
        raise UserError(f"{path}: not a file of measurements ({error})") from error
    if not all(isinstance(row, dict) and {"round", "loss"} <= row.keys() for row in rows):
        raise UserError(f"{path}: not a file of measurements; put the file back or delete it")
    return rows


def _parsed(text: str) -> list[Row]:
    return [parsed(line) for line in text.splitlines()]


def as_row(measured: Measurement | Objective) -> Row:
    """A measurement as plain values: `[value, standard error]` by name, None if unknown."""
    estimates = jax.device_get(measured)._asdict()
    if "draws" in estimates:
        estimates |= estimates.pop("draws")._asdict()
    return {name: [_plain(part) for part in pair] for name, pair in estimates.items()}


def _plain(value: Any) -> Any:
    values = np.asarray(value, np.float64)
    listed = [float(f"{x:.9g}") if np.isfinite(x) else None for x in values.ravel()]
    return listed if values.ndim else listed[0]


def measure_run(
    workdir: Name, effort: Effort, data_dir: Name | None = None, plugin: Name = ""
) -> str:
    """Measures the constants of a run at its newest checkpoint; returns the text of `table`.

    Args:
      workdir: folder of the run.
      effort: how many gradients to compute.
      data_dir: folder of its data set, if that has moved.
      plugin: its plugins that have moved.

    Raises:
      UserError: there is no run, it has no checkpoint that can be read, or the bound does not
        cover its algorithm.
    """
    config, experiment, state = restore_run(workdir, data_dir, plugin)
    if "measure_constants_every" in idle(config):
        allowed, reason = "a run that the bound covers", f"this is one of {config.algorithm}"
        raise flag_error("workdir", workdir, allowed, reason=reason)
    if experiment.spec.cuts is not None:
        allowed = "a run with one cut, as the bound covers"
        raise flag_error("workdir", workdir, allowed, reason=f"this one has --cut={config.cut}")
    arguments = (experiment.data, experiment.key, state)
    measured = compiled(experiment.measure(step_size(config), effort), *arguments)(*arguments)
    row = {"round": int(state.round), **as_row(measured)}
    return table(row, [layer.name for layer in experiment.spec.model])


def table(row: Row, layers: list[str]) -> str:
    """Constants with their standard errors, as Markdown; layers without parameters are left out.

    Args:
      row: a measurement of all constants.
      layers: names of the model's layers.
    """
    scalars = {k: v for k, v in row.items() if k != "round" and not isinstance(v[0], list)}
    lines = [f"| after round {row['round']} | value | standard error |", "| --- | --- | --- |"]
    lines += [f"| {name} | {shown(v)} | {shown(e)} |" for name, (v, e) in scalars.items()]
    each = [k for k, v in row.items() if k != "round" and isinstance(v[0], list)]
    lines += ["", f"| layer | {' | '.join(each)} |", "| --- " * (1 + len(each)) + "|"]
    for i, layer in enumerate(layers):
        if row["weight"][0][i]:
            pairs = [f"{shown(row[k][0][i])} +- {shown(row[k][1][i])}" for k in each]
            lines.append(f"| {layer} | {' | '.join(pairs)} |")
    return "\n".join(lines)
