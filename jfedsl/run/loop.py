"""The host loop of a run: compiled calls of many rounds, and the hooks between them."""

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jfedsl.config.cuts import parse
from jfedsl.engine.checkpoint_layout import to_checkpoint_layout
from jfedsl.engine.finite import finite, first_not_finite
from jfedsl.engine.parts import cuts_of
from jfedsl.engine.rounds import RoundRecord, next_tested
from jfedsl.errors import DivergedError, Stopped
from jfedsl.run.clock import Last, costs_of
from jfedsl.run.hooks import Hook, Point, RunStart, Saved, check_names
from jfedsl.run.processes import distributed
from jfedsl.run.processes.compilation import compiled
from jfedsl.run.processes.stopping import Stop
from jfedsl.run.rows import Totals, first_not_finite_loss, rows_of
from jfedsl.run.storage.checkpoint import RESERVED, Checkpoints
from jfedsl.run.storage.kept import CUTS
from jfedsl.run.storage.metrics import Row, with_digits
from jfedsl.run.storage.names import flatten, merged
from jfedsl.run.storage.task_record import TaskRecord, record_of
from jfedsl.wireless.cost import Cost

# A call this long keeps the progress moving and a loss that is not finite from going on unseen.
MOST_ROUNDS_A_CALL = 50
_MOST_SECONDS_A_CALL = 5  # as signals wait for it; a single round may take longer
_ENDED_EARLY = "ended_early"  # in the checkpoint of a run that a hook has ended, and the summary


class Compiled(NamedTuple):
    """The compiled functions of a run."""

    rounds: Callable[..., Any]
    costs: Callable[..., Any]
    evaluate: Callable[..., Any]


class Loop:
    """Trains the rounds of a run that are left."""

    def __init__(
        self, start: RunStart, checkpoints: Checkpoints, hooks: Sequence[Hook], until: int,
        functions: Compiled | None = None,
    ) -> None:  # fmt: skip
        """Goes on from a start, at most until a round; the hooks have begun.

        Args:
          start: where the run stands.
          checkpoints: of the run.
          hooks: that act between the calls.
          until: the last round of the loop.
          functions: of the same experiment, where an earlier loop has compiled them.

        Raises:
          UserError: two hooks save something under one name.
        """
        spec, values = start.experiment.spec, start.saved.values
        self._config, self._experiment, self._folder = start.config, start.experiment, start.folder
        self._checkpoints, self._hooks = checkpoints, hooks
        self._round, self._state = start.round, start.state
        self._until = until
        self.functions = functions  # None until they are compiled
        self._files = start.saved.files  # seals stay, even if the hook of a file is gone
        bytes_, seconds = values.get("cumulative_bytes", 0), values.get("cumulative_seconds", 0.0)
        self._totals = Totals(bytes_, seconds)
        self._end_reason = ""
        ended_early = values.get(_ENDED_EARLY) and start.round < start.config.rounds
        self._ended_early = bool(ended_early) and self._should_end()
        self._rounds_a_call = 1  # until it is known how long a round takes
        self._finite = jax.jit(partial(finite, spec))
        self._to_checkpoint_layout = to_checkpoint_layout(spec)
        reserved = dict.fromkeys(RESERVED)
        check_names(hooks, Saved({**self._counters(), **reserved}, arrays=flatten(start.state)))

    def run(self, stop: Stop) -> None:
        """Trains until its last round, or until a hook ends the run or interrupts it.

        Args:
          stop: takes the signals; within a call they wait.

        Raises:
          DivergedError: a loss or a weight is not finite.
          TrainingError: a checkpoint cannot be written.
          Stopped: a signal interrupted the run; a checkpoint has been saved.
        """
        if self._ended:
            return
        functions = self.functions = self.functions or self._compile()
        self._between_calls([], None)
        self._announce("training")
        with stop.later():
            while not self._ended:
                self._call(functions)

    def entries(self) -> dict[str, Any]:
        """Entries of the summary: how a hook ended the run before its last round, or None."""
        planned = {"planned_rounds": self._config.rounds, "reason": self._end_reason}
        return {_ENDED_EARLY: planned if self._ended_early else None}

    def final_test(self) -> dict[str, float]:
        """The test set's entries of summary.json, where a validation set took its place before.

        All processes compute them together.
        """
        experiment = self._experiment
        if experiment.validation is None:
            return {}
        task = record_of(experiment.spec.task)
        row = task.row_of(
            jax.device_get(experiment.evaluate()(experiment.data, self._state, experiment.test))
        )
        return {TaskRecord.final(column): row[column] for column in task.columns}

    @property
    def is_complete(self) -> bool:
        """Whether no round of the run is left, or a hook has ended it."""
        return self._ended_early or self._round == self._config.rounds

    @property
    def _ended(self) -> bool:
        return self.is_complete or self._round == self._until

    def _compile(self) -> Compiled:
        """Compiles what is called again and again."""
        data, key, state = self._experiment.data, self._experiment.key, self._state
        self._announce("compiling the round (once)")
        rounds = self._experiment.rounds(min(*self._every(), self._config.rounds))
        run = compiled(rounds, data, key, state, 1)
        records = jax.eval_shape(rounds, data, key, state, 1)[1]
        costs = compiled(costs_of(self._experiment), data, records)
        self._announce("compiling the evaluation (once)")
        evaluate = compiled(self._experiment.evaluate(), data, state, self._experiment.evaluated)
        return Compiled(run, costs, evaluate)

    def _call(self, functions: Compiled) -> None:
        """One compiled call, and what follows it until the next."""
        config, data, began = self._config, self._experiment.data, time.perf_counter()
        tested, end = self._next_boundaries()
        first, count = self._round + 1, end - self._round
        for hook in self._hooks:
            self._state = hook.before_call(self._round, self._state)
        self._state, record = functions.rounds(data, self._experiment.key, self._state, count)
        for hook in self._hooks:
            hook.during_call(end, self._state)
        record, cost = jax.device_get((record, functions.costs(data, record)))
        rows = self._rows(record, cost, range(first, end + 1))
        is_tested = end in (tested, config.rounds)
        if is_tested:
            rows[-1].update(self._evaluate(functions.evaluate, rows))
        seconds = (time.perf_counter() - began) / count
        rows = self._log(rows, seconds)
        self._round = end
        of_call = jax.tree.map(lambda x: x[:count], record)
        self._between_calls(rows, _last(cost, record, count), of_call)
        self._ended_early = is_tested and end != config.rounds and self._should_end()
        if due := self._ended or end % config.checkpoint_every == 0:
            self._save()
        self._obey_interruptions(seconds, saved=due)

    def _obey_interruptions(self, seconds: float, saved: bool) -> None:
        """Stops all processes if a hook in one asks for it; they also agree how long a call is.

        Args:
          seconds: that a round of the last call took here.
          saved: whether there is a checkpoint of the state.
        """
        errors = [e for hook in self._hooks if (e := hook.interruption()) is not None]
        number = max((getattr(error, "number", signal.SIGHUP) for error in errors), default=0)
        number, micros = distributed.largest([number, min(int(seconds * 1e6), 2**30)])
        self._rounds_a_call = max(1, int(_MOST_SECONDS_A_CALL * 1e6 / max(1, micros)))
        if not number:
            return
        if not saved:
            self._save()
        if errors and not isinstance(errors[0], Stopped):
            raise errors[0]
        raise Stopped(f"interrupted after round {self._round}; checkpoint saved", number)

    def _should_end(self) -> bool:
        """Whether a hook in any process ends the run here; keeps the reasons."""
        asking = [hook for hook in self._hooks if hook.should_end()]
        ends = bool(distributed.largest([bool(asking)])[0])
        reasons = [hook.end_reason() for hook in asking]
        self._end_reason = ", ".join(reasons) or "a hook of another process ended it"
        return ends

    def _announce(self, text: str) -> None:
        for hook in self._hooks:
            hook.announce(text)

    def _log(self, rows: list[Row], host_seconds: float = 0.0) -> list[Row]:
        """Gives rows to the hooks, as metrics.csv has them, with `host_seconds`; returns them."""
        rows = [with_digits({**row, "host_seconds": host_seconds}) for row in rows]
        for hook in self._hooks:
            hook.on_rows(rows)
        return rows

    def _between_calls(
        self, rows: list[Row], last: Last | None, record: RoundRecord | None = None
    ) -> None:
        for hook in self._hooks:
            hook.between_calls(Point(self._round, self._state, rows, last, record))

    def _every(self) -> list[int]:
        """Numbers of rounds; no compiled call crosses a multiple of one."""
        each = [hook.every for hook in self._hooks if hook.every is not None]
        return [self._config.checkpoint_every, MOST_ROUNDS_A_CALL, *each]

    def _next_boundaries(self) -> tuple[int, int]:
        """The next round to test, and the end of the next call."""
        period = self._experiment.spec.aggregate_every
        tested = next_tested(self._round, self._config.eval_every, period)
        following = [(self._round // every + 1) * every for every in self._every()]
        due = [d for hook in self._hooks if (d := hook.next_due(self._round)) is not None]
        most = self._round + self._rounds_a_call
        return tested, min(*following, *due, most, tested, self._until)

    def _rows(self, record: RoundRecord, cost: Cost | None, rounds: range) -> list[Row]:
        """Rows of the rounds of a call.

        Raises:
          DivergedError: a loss is not finite; the rows of the rounds before it have been logged.
        """
        spec, bad = self._experiment.spec, first_not_finite_loss(record, len(rounds))
        whole = rounds if bad is None else rounds[: bad[0]]
        rows, self._totals = rows_of(spec, record, cost, whole, self._totals)
        if bad is not None:
            self._log(rows)
            raise self._failure(f"round {rounds[bad[0]]}: the loss of client {bad[1]}")
        return rows

    def _evaluate(self, evaluate: Callable[..., Any], rows: list[Row]) -> Row:
        """The columns of evaluation of the last of these rows.

        Raises:
          DivergedError: the loss is not finite; the rows have been logged.
        """
        experiment, task = self._experiment, self._experiment.record
        result = jax.device_get(evaluate(experiment.data, self._state, experiment.evaluated))
        row = task.row_of(result)
        if not np.isfinite(row[task.loss]):
            self._log(rows)
            where = self._not_finite() or "all weights are finite"
            raise self._failure(f"round {rows[-1]['round']}: the {task.split} loss ({where})")
        return row

    def _save(self) -> None:
        where = self._not_finite()
        if where is not None:
            raise self._failure(f"round {self._round}: a weight or moment of {where}")
        parts = [hook.on_checkpoint() for hook in self._hooks]
        self._files = {**self._files, **merged([part.files for part in parts])}
        counters = merged([self._counters(), *(part.values for part in parts)])
        arrays = merged([part.arrays for part in parts])
        self._checkpoints.save(
            self._round, self._to_checkpoint_layout(self._state), counters, arrays
        )

    def _counters(self) -> dict[str, Any]:
        """Plain values of the run itself in a checkpoint."""
        chosen = {}
        if parse(self._config.cut or "").by_resource:
            chosen = {CUTS: cuts_of(self._experiment.spec).tolist()}
        return {
            **chosen,
            "cumulative_bytes": self._totals.bytes,
            "cumulative_seconds": self._totals.seconds,
            "files": self._files,
            _ENDED_EARLY: self._ended_early,
        }

    def _not_finite(self) -> str | None:
        """The first part of the state with a number that is not finite."""
        clients, others = jax.device_get(self._finite(self._state))
        return first_not_finite(clients, others, np.asarray(self._state.participants))

    def _failure(self, what: str) -> DivergedError:
        last = self._checkpoints.latest()
        kept = f"the last checkpoint is of round {last}" if last else "there is no checkpoint"
        return DivergedError(f"{what} is not finite; {kept} ({self._folder})")


def _last(cost: Cost | None, record: RoundRecord, count: int) -> Last | None:
    """What the last of `count` rounds cost, and its participants."""
    if cost is None:
        return None
    last: Last = jax.tree.map(lambda x: x[count - 1], (cost, record.participants))
    return last
