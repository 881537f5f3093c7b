"""The host loop: build, run rounds, evaluate, log, save."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfedsl.build import Experiment, build
from jfedsl.config import Config
from jfedsl.errors import TrainingError, flag_error
from jfedsl.observer import Observer
from jfedsl.protocol.rounds import RoundRecord
from jfedsl.protocol.state import State
from jfedsl.protocol.traffic import uncompressed_bytes
from jfedsl.runs import CHECKPOINTS, weights_of
from jfedsl.runtime import figures, workdir
from jfedsl.runtime.checkpoint import Checkpoints, any_in
from jfedsl.runtime.compilation import compiled, keep_programs, without_noise
from jfedsl.runtime.events import Events
from jfedsl.runtime.metrics import KEPT, STREAMS, Metrics, Row, summarise
from jfedsl.runtime.progress import Progress
from jfedsl.runtime.timeline import timeline
from jfedsl.simulation import columns, costs_of
from jfedsl.summary import environment
from jfedsl.wireless.cost import Cost

# A call this long keeps the progress moving and a loss that is not finite from going on unseen.
MOST_ROUNDS_A_CALL = 50


def train(config: Config) -> dict[str, Any]:
    """Trains or resumes a run and leaves its metrics, checkpoints, summary and pictures.

    Args:
      config: of the run; without `workdir` a new dated folder under runs/ is made.

    Returns:
      The summary, as in summary.json, with the folder as `workdir`.

    Raises:
      UserError: a setting that cannot work; no folder has been made or changed.
      TrainingError: a loss or a weight is not finite.
    """
    workdir.check(config)
    keep_programs(config.compilation_cache)
    with without_noise():
        experiment = _prepare(config)
    with workdir.hold(config) as folder:
        if config.progress != "none":
            print("\n".join([f"workdir: {folder}", *experiment.notes]), flush=True)
        return _Run(config, experiment, folder).finish()


def _prepare(config: Config) -> Experiment:
    """The run put together, with the weights it starts from."""
    experiment = build(config)
    started = config.workdir and any_in(Path(config.workdir) / CHECKPOINTS)
    if not config.init_from or started:
        return experiment
    initial = weights_of(
        Path(config.init_from), config.data_dir, experiment.scheme.model, experiment.initial
    )
    return experiment._replace(initial=initial)


class _Run:
    """One run in its folder: what the host keeps beside the state on the device."""

    def __init__(self, config: Config, experiment: Experiment, folder: Path) -> None:
        self.config, self.experiment, self.folder = config, experiment, folder
        self.checkpoints = Checkpoints(folder / CHECKPOINTS)
        template = jax.eval_shape(experiment.init)
        restored = self.checkpoints.restore(template)
        self.round, self.cumulative_bytes, self.cumulative_seconds = 0, 0, 0.0
        if restored is None:
            with without_noise():
                self.state = experiment.init()
        else:
            self.round, self.state, counters = restored
            self.cumulative_bytes = counters["cumulative_bytes"]
            self.cumulative_seconds = counters["cumulative_seconds"]
        self.last: tuple[Cost, np.ndarray] | None = None  # round, with its participants
        if self.round > config.rounds:
            raise flag_error("rounds", config.rounds, f"at least the {self.round} already done")
        workdir.record(config, folder)
        scheme = experiment.scheme
        simulated = scheme.radio is not None
        self.metrics = Metrics(folder / "metrics.csv", self.round, scheme.pruner.names, simulated)
        self.events = Events(folder / "tensorboard", self.round)
        self.observer = None
        if config.measure_constants_every is not None:
            self.observer = Observer(config, experiment, folder, self.round)
        self._draw_labels()

    def finish(self) -> dict[str, Any]:
        """Runs the rounds that are left; writes summary and pictures."""
        progress = Progress(self.config.progress, self.round, self.config.rounds)
        try:
            self._rounds(progress)
        finally:
            progress.close()
            self.events.close()
            self.checkpoints.close()
        return self._report()

    def _rounds(self, progress: Progress) -> None:
        """Compiled calls between absolute multiples of eval_every and checkpoint_every."""
        config = self.config
        if self.round == config.rounds:
            return
        capacity = min(config.eval_every, config.checkpoint_every, MOST_ROUNDS_A_CALL)
        data, key = self.experiment.data, self.experiment.key
        progress.note("compiling the round (once)")
        rounds = self.experiment.rounds(min(capacity, config.rounds))
        run = compiled(rounds, data, key, self.state, 1)
        records = jax.eval_shape(rounds, data, key, self.state, 1)[1]
        costs = compiled(costs_of(self.experiment), data, records)
        progress.note("compiling the evaluation (once)")
        evaluate = compiled(self.experiment.evaluate(), data, self.state, self.experiment.test)
        self._observe()
        progress.note("training")
        while self.round < config.rounds:
            began = time.perf_counter()
            end = self._next_boundary()
            count = end - self.round
            self.state, record = run(data, key, self.state, count)
            record, cost = jax.device_get((record, costs(data, record)))
            rows = self._rows(record, cost, count)
            evaluation = {}
            if end % config.eval_every == 0 or end == config.rounds:
                evaluation = self._evaluate(evaluate, rows)
            seconds = (time.perf_counter() - began) / count
            rows[-1].update(evaluation)
            self._log([{**row, "host_seconds": seconds} for row in rows])
            self.round = end
            progress.update(end, rows[-1]["train_loss"], evaluation.get("test_accuracy"))
            self._observe()
            if end % config.checkpoint_every == 0 or end == config.rounds:
                self._save()

    def _observe(self) -> None:
        if self.observer is not None:
            self.observer.observe(self.state, self.round)

    def _next_boundary(self) -> int:
        def after(every: int) -> int:
            return (self.round // every + 1) * every

        config = self.config
        boundaries = map(after, (config.eval_every, config.checkpoint_every, MOST_ROUNDS_A_CALL))
        measured = () if self.observer is None else (self.observer.next_due(self.round),)
        return min(*boundaries, *measured, config.rounds)

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

    def _log(self, rows: list[Row]) -> None:
        self.metrics.append(rows)
        self.events.append(rows)

    def _row(self, record: RoundRecord, cost: Cost | None, i: int) -> Row:
        sent = {s: int(np.sum(getattr(record, f"{s}_bytes")[i], dtype=np.int64)) for s in STREAMS}
        self.cumulative_bytes += sum(sent.values())
        clock: Row = {}
        if cost is not None:
            self.cumulative_seconds += float(cost.seconds[i])
            clock = {**columns(cost, i), "cumulative_simulated_seconds": self.cumulative_seconds}
        overlap, names = float(record.mask_overlap[i]), self.experiment.scheme.pruner.names
        kept = zip(names, record.kept_fractions[i].tolist(), strict=True)
        return {
            "round": self.round + i + 1,
            "train_loss": float(record.train_loss[i]) if record.arrived[i].any() else None,
            **{f"{stream}_bytes": count for stream, count in sent.items()},
            "cumulative_bytes": self.cumulative_bytes,
            **clock,
            "participants": record.participants.shape[1],
            "pruned_fraction": float(record.pruned_fraction[i]),
            "mask_overlap": overlap if names and np.isfinite(overlap) else None,
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
        counters = {
            "cumulative_bytes": self.cumulative_bytes,
            "cumulative_seconds": self.cumulative_seconds,
        }
        self.checkpoints.save(self.round, self.state, counters)

    def _not_finite(self) -> str | None:
        """The first part of the state with a number that is not finite."""
        state: State = jax.device_get(self.state)
        for leaf in jax.tree.leaves(state.clients):
            finite = np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
            if not finite.all():
                return f"client {int(np.argmin(finite))}"
        for name, part in (("the server", state.server), ("the aggregator", state.aggregator)):
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(part)):
                return name
        return None

    def _failure(self, what: str) -> TrainingError:
        last = self.checkpoints.latest()
        kept = (
            "there is no checkpoint" if last is None else f"the last checkpoint is of round {last}"
        )
        return TrainingError(f"{what} is not finite; {kept} ({self.folder})")

    def _report(self) -> dict[str, Any]:
        config, rows = self.config, self.metrics.rows()
        params, stats = jax.eval_shape(lambda: self.experiment.initial)
        summary = summarise(rows, config.target_accuracy)
        summary["uncompressed_bytes"] = uncompressed_bytes(
            self.experiment.scheme, params, stats, self.experiment.image.shape, self.round
        )
        summary["client_flops"] = self.experiment.client_flops._asdict()
        summary["links"] = config.expressions
        if self.observer is not None:
            summary["convergence"] = self.observer.report()
        summary["environment"] = environment()
        workdir.write_atomically(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        title = self._title()
        figures.curves(rows, config.target_accuracy, title, self.folder / "curves.png")
        figures.traffic(rows, title, self.folder / "traffic.png")
        if self.experiment.scheme.pruner.names:
            figures.masks(rows, title, self.folder / "masks.png")
        if self.last is not None:
            timeline(*self.last, f"Round {self.round}: {title}", self.folder / "timeline.png")
        return {**summary, "workdir": str(self.folder)}

    def _draw_labels(self) -> None:
        picture = self.folder / "labels.png"
        if picture.exists():
            return
        counts = self.experiment.label_counts
        figures.labels(counts, f"Examples of {self._clients()}", picture)

    def _title(self) -> str:
        config = self.config
        return f"{config.algorithm}, {config.model} on {self._clients()}"

    def _clients(self) -> str:
        config = self.config
        return f"{config.dataset}, {config.clients} clients ({config.partition})"
