"""Cuts that are chosen anew during a run, by measured links and speeds of devices."""

from typing import Any

import jax
import numpy as np

from jfedsl.config import Config
from jfedsl.engine.parts import cuts_of
from jfedsl.engine.recut import with_new_cuts
from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import RunSpec, State
from jfedsl.engine.traffic import uncompressed_bytes
from jfedsl.run.assemble import Experiment
from jfedsl.run.assemble.cuts_by_resource import Links, links_of
from jfedsl.run.hooks import Hook, Point, RunStart, Saved
from jfedsl.run.restore import prepared
from jfedsl.run.storage.kept import CUTS

_MEASURED = "measured links"  # in a checkpoint: sums since the last choice, [4, C]
_STRETCHES = "stretches of cuts"  # in a checkpoint: of the cuts so far, see `Replanning`


def resumed(
    config: Config, experiment: Experiment, round_: int, state: State, saved: Saved
) -> tuple[Experiment, State]:
    """The run with the cuts of a checkpoint, or with new ones if they are to be chosen there.

    Where the choice leaves all cuts as they are, the experiment that was given.

    Args:
      config: all settings of the run.
      experiment: the run with the cuts that it began with.
      round_: completed rounds.
      state: of the checkpoint, in its layout.
      saved: what the checkpoint holds beside the state.
    """
    if config.replan_every is None:
        return experiment, state
    held = np.asarray(saved.values[CUTS])
    if not np.array_equal(held, cuts_of(experiment.spec)):  # as of a newer checkpoint
        experiment = prepared(config, held)
    if round_ % config.replan_every or round_ >= config.rounds:
        return experiment, state
    assert experiment.choose_cuts is not None
    chosen = experiment.choose_cuts(_links(config, saved.arrays[_MEASURED]))
    if np.array_equal(chosen, cuts_of(experiment.spec)):
        return experiment, state
    new = prepared(config, chosen)._replace(choose_cuts=experiment.choose_cuts)  # costs are kept
    specs, partition = (experiment.spec, new.spec), new.data.partition
    return new, with_new_cuts(*specs, new.key, partition, new.fresh(), state)


def _links(config: Config, sums: np.ndarray) -> Links:
    """Geometric means of what was measured; what is known before the run of a client never seen.

    Under Rayleigh fading the mean time of a bit has no limit, that of its logarithm has one.
    """
    known, (count, *logs) = links_of(config), sums
    means = (np.exp(each / np.maximum(count, 1)) for each in logs)
    before = known.flops, known.up, known.down
    flops, up, down = (np.where(count > 0, *pair) for pair in zip(means, before, strict=True))
    return Links(flops, up, down, known.memory)


class Replanning(Hook):
    """Measures links and devices from one choice of cuts to the next.

    A stretch is `[first round, client-side layers of each of the pruner's groups, participants of
    each]`: what ran between two choices.
    """

    def __init__(self, start: RunStart) -> None:
        """Goes on with the sums of a checkpoint, unless cuts were chosen just now."""
        config, self._experiment = start.config, start.experiment
        assert config.replan_every is not None
        self.every, spec = config.replan_every, start.experiment.spec
        self._names = [layer.name for layer in spec.model]
        self._sums = np.zeros((4, spec.clients))
        if start.round % self.every:
            self._sums += start.saved.arrays[_MEASURED]
        assert spec.cuts is not None
        stretch = [start.round, list(spec.cuts.of_group), list(spec.group_sizes)]
        self._stretches = list(start.saved.values.get(_STRETCHES, ()))
        chosen_now = start.round % self.every == 0 and start.round < config.rounds
        if chosen_now or not self._stretches:
            self._stretches.append(stretch)
        self._round = start.round

    def between_calls(self, point: Point) -> None:
        """Adds what the rounds of a call took."""
        self._round = point.round
        if point.record is not None:
            first = point.round - len(point.record.participants)
            _add(self._experiment.spec, self._sums, first, point.record)

    def on_checkpoint(self) -> Saved:
        """What was measured since the last choice, and the stretches so far."""
        return Saved({_STRETCHES: self._stretches}, arrays={_MEASURED: self._sums})

    def finish(self, entries: dict[str, Any]) -> dict[str, Any]:
        """Adds which participants were cut where, and the bytes that this took uncompressed."""
        # None may have followed the last choice, where another hook ended the run there.
        self._stretches = [s for s in self._stretches if s[0] < self._round]
        rows = [
            {"from_round": first + 1, "participants": self._by_name(cuts, sizes)}
            for first, cuts, sizes in self._stretches
        ]
        return {**entries, "cuts": rows, "uncompressed_bytes": self._uncompressed()}

    def _uncompressed(self) -> dict[str, int]:
        """Bytes of each stream in all stretches together, see `uncompressed_bytes`."""
        spec, totals = self._experiment.spec, dict[str, int]()
        client = jax.eval_shape(self._experiment.fresh)
        inputs = client.params, client.stats, self._experiment.image.shape
        ends = [first for first, _, _ in self._stretches[1:]] + [self._round]
        assert spec.cuts is not None
        for (first, cuts, sizes), end in zip(self._stretches, ends, strict=True):
            of_stretch = spec.cuts._replace(of_group=tuple(cuts))
            then = spec._replace(cuts=of_stretch, group_sizes=tuple(sizes))
            for column, count in uncompressed_bytes(then, *inputs, end - first).items():
                totals[column] = totals.get(column, 0) + count
        return totals

    def _by_name(self, cuts: list[int], sizes: list[int]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for cut, size in sorted(zip(cuts, sizes, strict=True)):
            name = self._names[cut - 1]
            counts[name] = counts.get(name, 0) + size
        return counts


def _add(spec: RunSpec, sums: np.ndarray, first: int, record: RoundRecord) -> None:
    """Adds logarithms of speeds and rates of a call's rounds to sums `[4, C]`."""
    conditions = record.conditions
    assert conditions is not None and spec.radio is not None
    forward = np.asarray(spec.radio.flop_counts.forward).sum(axis=1)
    group = np.zeros(spec.clients, int)
    for number, members in enumerate(spec.pruner.groups):
        group[members] = number
    for i, ids in enumerate(record.participants):
        start = (first + i) - (first + i) % spec.aggregate_every
        row = spec.pruner.config_of_round[min(start, len(spec.pruner.config_of_round) - 1)]
        flops = forward[np.asarray(spec.pruner.width_configs[row])[group[ids]]]
        rates = flops / conditions.forward[i], conditions.up_rate[i], conditions.down_rate[i]
        seen = conditions.reachable[i] & (conditions.forward[i] > 0)
        logs = np.log(np.where(seen, np.asarray(rates, np.float64), 1.0))
        sums[:, ids] += np.vstack([seen, logs])
