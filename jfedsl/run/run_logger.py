"""What a run leaves in its folder beside checkpoints: metrics, events, summary and pictures."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfedsl.config import Config
from jfedsl.engine.streams import LOCAL
from jfedsl.engine.traffic import uncompressed_bytes
from jfedsl.files.seals import Seal
from jfedsl.run.assemble import Experiment
from jfedsl.run.progress import Progress
from jfedsl.run.storage import workdir
from jfedsl.run.storage.events import Events
from jfedsl.run.storage.metrics import METRICS, Metrics, Row, summarise
from jfedsl.run.summary import environment
from jfedsl.wireless.cost import Cost


class RunLogger:
    """Written by one process of a run."""

    def __init__(
        self,
        config: Config,
        experiment: Experiment,
        folder: Path,
        rounds: int,
        seal: Seal | None,
    ) -> None:
        """Opens the files; what is in them past `rounds` is cut off.

        Args:
          config: of the run.
          experiment: of the run.
          folder: of the run.
          rounds: completed so far.
          seal: of the metrics then; None for a run that begins.
        """
        self._config, self._experiment, self._folder = config, experiment, folder
        workdir.record(config, folder)
        spec = experiment.spec
        simulated = spec.radio is not None
        streams = [s.column for s in spec.algorithm.streams if s.direction != LOCAL]
        names = spec.pruner.names
        self._metrics = Metrics(folder / METRICS, names, simulated, seal, streams)
        self._events = Events(folder / "tensorboard", rounds)
        self._pending: list[Row] = []
        self._progress = Progress(config.progress, rounds, config.rounds)
        self.unshown: OSError | None = None  # what kept an `update` from being shown

    def note(self, text: str) -> None:
        """Says what is going on."""
        self._progress.note(text)

    def log(self, rows: list[Row]) -> None:
        """Writes rows of metrics; events follow with the next `update` or at the end."""
        self._metrics.append(rows)
        self._pending += rows

    def seals(self) -> dict[str, Seal]:
        """Of the metrics by the name of their file, for a checkpoint."""
        return {METRICS: self._metrics.seal()}

    def update(self, rounds: int, loss: float | None, accuracy: float | None) -> None:
        """Shows how far the run is.

        An error, such as of a terminal that is gone, waits in `unshown`: raised here it would take
        rounds with it that no checkpoint has yet.
        """
        try:
            self._progress.update(rounds, loss, accuracy)
        except OSError as error:
            self.unshown = error
        # After the first rounds are shown, as the libraries for both take long to import.
        self._write_events()
        self._draw_labels()
        self._progress.start(rounds)

    def close(self) -> None:
        """Ends the progress and the events."""
        self._progress.close()
        self._write_events()
        self._events.close()

    def report(
        self, convergence: dict[str, Any] | None, last: tuple[Cost, np.ndarray] | None
    ) -> dict[str, Any]:
        """Writes summary and pictures of the finished run.

        Args:
          convergence: the bound beside what was measured, if it was.
          last: what the last round cost, with its participants, if there is a network.

        Returns:
          The summary, with the folder as `workdir`.
        """
        from jfedsl.run.plots import figures  # here, as Matplotlib takes long to import
        from jfedsl.run.plots.timeline import timeline

        config, rows, spec = self._config, self._metrics.rows(), self._experiment.spec
        client = jax.eval_shape(self._experiment.fresh)
        summary = summarise(rows, config.target_accuracy, spec.aggregate_every)
        summary["uncompressed_bytes"] = uncompressed_bytes(
            spec, client.params, client.stats, self._experiment.image.shape, len(rows)
        )
        summary["client_flops"] = self._experiment.client_flops._asdict()
        summary["compressors"] = config.expressions
        if config.measure_constants_every is not None:
            summary["convergence"] = convergence
        summary["environment"] = environment()
        workdir.write_summary(self._folder, summary)
        self._draw_labels()
        title = f"{config.algorithm}, {config.model} on {self._clients()}"
        figures.curves(rows, config.target_accuracy, title, self._folder / "curves.png")
        figures.traffic(rows, title, self._folder / "traffic.png")
        if spec.pruner.names:
            figures.masks(rows, title, self._folder / "masks.png")
        if last is not None:
            timeline(*last, f"Round {len(rows)}: {title}", self._folder / "timeline.png")
        return {**summary, "workdir": str(self._folder)}

    def _write_events(self) -> None:
        if self._pending:
            self._events.append(self._pending)
            self._pending = []

    def _draw_labels(self) -> None:
        picture = self._folder / "labels.png"
        if not picture.exists():
            from jfedsl.run.plots import figures  # here, as Matplotlib takes long to import

            figures.labels(self._experiment.label_counts, f"Examples of {self._clients()}", picture)

    def _clients(self) -> str:
        config = self._config
        return f"{config.dataset}, {config.clients} clients ({config.partition})"
