"""The host loop: build, run rounds, evaluate, log, save."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfedsl.config import Config
from jfedsl.config.canonical import refuse_idle
from jfedsl.engine.checkpoint_layout import from_checkpoint_layout, to_checkpoint_layout
from jfedsl.engine.finite import finite, first_not_finite
from jfedsl.engine.rounds import RoundRecord, next_tested, sent_bytes
from jfedsl.errors import Stopped, TrainingError, flag_error
from jfedsl.files.seals import Seal
from jfedsl.run.assemble import Experiment
from jfedsl.run.client_store import Staging
from jfedsl.run.clock import Last, columns, costs_of, from_plain, to_plain
from jfedsl.run.constants_recorder import MEASURED, ConstantsRecorder
from jfedsl.run.finished import already_done
from jfedsl.run.processes import distributed
from jfedsl.run.processes.compilation import compiled, keep_programs
from jfedsl.run.processes.stopping import Stop
from jfedsl.run.restore import prepared
from jfedsl.run.run_logger import RunLogger
from jfedsl.run.storage import workdir
from jfedsl.run.storage.checkpoint import Checkpoints
from jfedsl.run.storage.fingerprints import agree, hold
from jfedsl.run.storage.kept import CHECKPOINTS
from jfedsl.run.storage.metrics import KEPT, METRICS, STREAMS, Row
from jfedsl.wireless.cost import Cost

# A call this long keeps the progress moving and a loss that is not finite from going on unseen.
MOST_ROUNDS_A_CALL = 50
_NOTHING_SENT = dict.fromkeys(STREAMS, 0)
_MOST_SECONDS_A_CALL = 5  # as signals wait for it; a single round may take longer


def train(config: Config) -> dict[str, Any]:
    """Trains or resumes a run and leaves its metrics, checkpoints, summary and pictures.

    Args:
      config: of the run; without `workdir` a new dated folder under runs/ is made.

    Returns:
      The summary, as in summary.json, with the folder as `workdir`; nothing in other processes of
      the run than the first.

    Raises:
      UserError: a setting that cannot work, or that has no effect on a new run; no folder has been
        made or changed.
      TrainingError: a loss or a weight is not finite.
      Stopped: told so by SIGINT or SIGTERM, a `KeyboardInterrupt`; a checkpoint has been saved
        unless no round was done.
    """
    kept = (Path(config.workdir, name) for name in (workdir.CONFIG, CHECKPOINTS))
    if not (config.workdir and any(map(os.path.exists, kept))):
        refuse_idle([config])
    return train_setting(config)


@jax.enable_x64(False)  # a run has the same numbers whatever JAX_ENABLE_X64 is
def train_setting(config: Config) -> dict[str, Any]:
    """As `train`, for one of several settings: flags of them all may mean nothing in one."""
    done = already_done(config)
    if done is not None:
        if config.progress != "none":
            print(f"workdir: {done['workdir']}\nall {config.rounds} rounds are done", flush=True)
        return done
    with Stop() as stop:
        distributed.join(config)
        distributed.start_devices()
        with distributed.ending_together():
            return _train(config, stop)


def _train(config: Config, stop: Stop) -> dict[str, Any]:
    """As `train`, in processes that have joined."""
    distributed.agree(config)
    workdir.check(config)
    keep_programs(config.compilation_cache)
    experiment = prepared(config)
    agree(experiment.fingerprint)
    with distributed.only_first(lambda: hold(config, experiment.fingerprint)) as folder:
        if config.progress != "none" and distributed.first():
            print("\n".join([f"workdir: {folder}", *experiment.notes]), flush=True)
        try:
            return _Run(config, experiment, Path(folder), stop).finish()
        except (Stopped, OSError) as error:
            setattr(error, "folder", folder)  # noqa: B010 (no field of an OSError)
            raise


class _Run:
    """One run in its folder: what the host keeps beside the state on the devices."""

    def __init__(self, config: Config, experiment: Experiment, folder: Path, stop: Stop) -> None:
        self.config, self.experiment, self.folder, self.stop = config, experiment, folder, stop
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, config, experiment.fingerprint)
        self.finite = jax.jit(partial(finite, experiment.spec))
        self.to_checkpoint_layout = to_checkpoint_layout(experiment.spec)
        self.rounds_a_call = 1  # as long as nobody knows how long a round takes
        self.round, self.cumulative_bytes, self.cumulative_seconds = 0, 0, 0.0
        restored = self.checkpoints.restore(jax.eval_shape(experiment.init))
        stored: dict[str, np.ndarray] = {}
        self.last: Last | None = None  # round
        self.seals: dict[str, Seal] = {}  # of files at the last checkpoint, by name
        if restored is None:
            self.state = experiment.init()
        else:
            self.round, state, stored, counters = restored
            self.state = from_checkpoint_layout(experiment.spec, state)
            self.cumulative_bytes = counters["cumulative_bytes"]
            self.cumulative_seconds = counters["cumulative_seconds"]
            self.seals, self.last = counters["files"], from_plain(counters["last"])
        if self.round > config.rounds:
            raise flag_error("rounds", config.rounds, f"at least the {self.round} already done")
        if restored is not None and config.progress != "none" and distributed.first():
            print(f"resuming after round {self.round} of {config.rounds}", flush=True)
        self.staging = (
            Staging(experiment, self.state, stored) if experiment.spec.memory_on_host else None
        )
        self.run_logger = None
        if distributed.first():
            self.run_logger = RunLogger(
                config, experiment, folder, self.round, self.seals.get(METRICS)
            )
        self.recorder = None
        if config.measure_constants_every is not None:
            self.recorder = ConstantsRecorder(config, experiment, folder, self.seals.get(MEASURED))

    def finish(self) -> dict[str, Any]:
        """Runs the rounds that are left; writes summary and pictures."""
        try:
            self._rounds()
        finally:
            if self.run_logger is not None:
                self.run_logger.close()
            self.checkpoints.close()
        if self.run_logger is None:
            return {}
        convergence = None if self.recorder is None else self.recorder.report()
        return self.run_logger.report(convergence, self.last)

    def _rounds(self) -> None:
        """Compiles what is called again and again, and calls it."""
        config, data, key = self.config, self.experiment.data, self.experiment.key
        if self.round == config.rounds:
            return
        self._note("compiling the round (once)")
        rounds = self.experiment.rounds(min(*self._every(), config.rounds))
        run = compiled(rounds, data, key, self.state, 1)
        records = jax.eval_shape(rounds, data, key, self.state, 1)[1]
        costs = compiled(costs_of(self.experiment), data, records)
        self._note("compiling the evaluation (once)")
        evaluate = compiled(self.experiment.evaluate(), data, self.state, self.experiment.test)
        self._observe()
        self._note("training")
        with self.stop.later():
            self._calls(run, costs, evaluate)

    def _calls(self, run: Any, costs: Any, evaluate: Any) -> None:
        """Compiled calls from one round to test, or to save, to the next."""
        config, data, key = self.config, self.experiment.data, self.experiment.key
        while self.round < config.rounds:
            began = time.perf_counter()
            tested, end = self._next_boundaries()
            count = end - self.round
            if self.staging is not None:
                self.state = self.staging.before(self.state, self.round)
            self.state, record = run(data, key, self.state, count)
            if self.staging is not None and end < config.rounds:
                self.staging.prepare(end)
            record, cost = jax.device_get((record, costs(data, record)))
            rows = self._rows(record, cost, count)
            testing = end in (tested, config.rounds)
            evaluation = self._evaluate(evaluate, rows) if testing else {}
            seconds = (time.perf_counter() - began) / count
            rows[-1].update(evaluation)
            self._log([{**row, "host_seconds": seconds} for row in rows])
            self.round = end
            if self.run_logger is not None:
                self.run_logger.update(end, rows[-1]["train_loss"], evaluation.get("test_accuracy"))
            self._observe()
            if due := end % config.checkpoint_every == 0 or end == config.rounds:
                self._save()
            self._agree_to_go_on(seconds, saved=due)

    def _agree_to_go_on(self, seconds: float, saved: bool) -> None:
        """Ends all, with the state `saved`, if a signal asked one to or nothing can be shown."""
        unshown = None if self.run_logger is None else self.run_logger.unshown
        own = self.stop.asked or (signal.SIGHUP if unshown else 0)
        asked, micros = distributed.largest([own, min(int(seconds * 1e6), 2**30)])
        self.rounds_a_call = max(1, int(_MOST_SECONDS_A_CALL * 1e6 / max(1, micros)))
        if not asked:
            return
        if not saved:
            self._save()
        if unshown and not self.stop.asked:
            raise unshown
        raise Stopped(f"interrupted after round {self.round}; checkpoint saved", asked)

    def _note(self, text: str) -> None:
        if self.run_logger is not None:
            self.run_logger.note(text)

    def _log(self, rows: list[Row]) -> None:
        if self.run_logger is not None:
            self.run_logger.log(rows)

    def _every(self) -> list[int]:
        """Rounds of which no compiled call crosses a multiple."""
        periods = [] if self.staging is None else [self.experiment.spec.aggregate_every]
        return [self.config.checkpoint_every, MOST_ROUNDS_A_CALL, *periods]

    def _observe(self) -> None:
        if self.recorder is not None:
            self.recorder.observe(self.state, self.round)

    def _next_boundaries(self) -> tuple[int, int]:
        """The next round to test, and the end of the next call."""
        period = self.experiment.spec.aggregate_every
        tested = next_tested(self.round, self.config.eval_every, period)
        following = [(self.round // every + 1) * every for every in self._every()]
        following += [] if self.recorder is None else [self.recorder.next_due(self.round)]
        most = self.round + self.rounds_a_call
        return tested, min(*following, most, tested, self.config.rounds)

    def _rows(self, record: RoundRecord, cost: Cost | None, count: int) -> list[Row]:
        """Rows of the rounds of one call; a loss that is not finite ends the run.

        Raises:
          TrainingError: after the rows of the rounds before it have been written.
        """
        rows: list[Row] = []
        for i in range(count):
            finite = np.isfinite(record.losses[i])
            if not finite.all():
                self._log([{**row, "host_seconds": 0.0} for row in rows])
                client = record.participants[i][np.argwhere(~finite)[0][1]]
                raise self._failure(f"round {self.round + i + 1}: the loss of client {client}")
            rows.append(self._row(record, cost, i))
        if cost is not None:
            self.last = jax.tree.map(lambda x: x[count - 1], (cost, record.participants))
        return rows

    def _row(self, record: RoundRecord, cost: Cost | None, i: int) -> Row:
        sent = sent_bytes(self.experiment.spec, record, i)
        self.cumulative_bytes += sum(sent.values())
        clock: Row = {}
        if cost is not None:
            self.cumulative_seconds += float(cost.seconds[i])
            clock = {**columns(cost, i), "cumulative_simulated_seconds": self.cumulative_seconds}
        overlap, names = float(record.mask_overlap[i]), self.experiment.spec.pruner.names
        kept = zip(names, record.kept_fractions[i].tolist(), strict=True)
        return {
            "round": self.round + i + 1,
            "train_loss": float(record.train_loss[i]) if record.took_part[i].any() else None,
            **{f"{stream}_bytes": count for stream, count in {**_NOTHING_SENT, **sent}.items()},
            "cumulative_bytes": self.cumulative_bytes,
            **clock,
            "participants": record.participants.shape[1],
            "pruned_fraction": float(record.pruned_fraction[i]),
            "mask_overlap": overlap if names and overlap >= 0 else None,
            **{f"{KEPT}{name}": fraction for name, fraction in kept},
        }

    def _evaluate(self, evaluate: Any, rows: list[Row]) -> Row:
        """Test columns after the last of these rounds; a loss that is not finite ends the run."""
        result = jax.device_get(evaluate(self.experiment.data, self.state, self.experiment.test))
        row = {name: float(value) for name, value in vars(result).items()}
        if not np.isfinite(row["test_loss"]):
            self._log([{**row, "host_seconds": 0.0} for row in rows])
            where = self._not_finite() or "all weights are finite"
            raise self._failure(f"round {rows[-1]['round']}: the test loss ({where})")
        return row

    def _save(self) -> None:
        where = self._not_finite()
        if where is not None:
            raise self._failure(f"round {self.round}: a weight or moment of {where}")
        for writer in (self.run_logger, self.recorder):
            self.seals |= {} if writer is None else writer.seals()
        counters = {
            "cumulative_bytes": self.cumulative_bytes,
            "cumulative_seconds": self.cumulative_seconds,
            "files": self.seals,
            "last": to_plain(self.last),
        }
        stored = {} if self.staging is None else self.staging.stored()
        self.checkpoints.save(self.round, self.to_checkpoint_layout(self.state), counters, stored)

    def _not_finite(self) -> str | None:
        """The first part of the state with a number that is not finite."""
        clients, others = jax.device_get(self.finite(self.state))
        return first_not_finite(clients, others, np.asarray(self.state.participants))

    def _failure(self, what: str) -> TrainingError:
        last = self.checkpoints.latest()
        kept = f"the last checkpoint is of round {last}" if last else "there is no checkpoint"
        return TrainingError(f"{what} is not finite; {kept} ({self.folder})")
