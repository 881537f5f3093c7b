"""The files that every run has beside its checkpoints: metrics, summary and pictures."""

from typing import Any

import jax

from jfedsl.config.titles import model_title
from jfedsl.data.sources import title as title_of
from jfedsl.engine.streams import LOCAL
from jfedsl.engine.traffic import uncompressed_bytes
from jfedsl.run.clock import Last, from_plain, to_plain
from jfedsl.run.hooks import Hook, Point, RunStart, Saved
from jfedsl.run.storage import workdir
from jfedsl.run.storage.metrics import METRICS, Metrics, Row, summarise
from jfedsl.run.summary import environment

_LAST = "last"  # in a checkpoint: what the last round cost, for the timeline


class RunLogger(Hook):
    """Writes metrics, summary and pictures; for one process of a run."""

    def __init__(self, start: RunStart) -> None:
        """Opens the metrics; rows past the rounds of the start are cut off.

        Raises:
          UserError: metrics.csv is damaged, and the checkpoint has no copy of it.
        """
        self._config, self._experiment = start.config, start.experiment
        self._folder, spec = start.folder, start.experiment.spec
        workdir.record(start.config, start.folder)
        seal = start.saved.files.get(METRICS)
        simulated = spec.radio is not None
        streams = [s.column for s in spec.algorithm.streams if s.direction != LOCAL]
        names, path = spec.pruner.names, start.folder / METRICS
        self._task = start.experiment.record
        adapters = spec.adapters is not None and spec.adapters.reports_error
        reports = [*spec.algorithm.reports, *spec.algorithm.columns(spec)]
        self._metrics = Metrics(
            path, names, simulated, seal, streams, self._task, adapters, reports
        )
        self._last: Last | None = from_plain(start.saved.values.get(_LAST))

    def on_rows(self, rows: list[Row]) -> None:
        """Writes rows of metrics.csv."""
        self._metrics.append(rows)

    def between_calls(self, point: Point) -> None:
        """Draws the labels if the picture is missing; Matplotlib takes long to import, so later."""
        if point.rows:
            self._last = point.last
            self._draw_labels()

    def on_checkpoint(self) -> Saved:
        """The seal of metrics.csv, and what the last round cost."""
        return Saved({_LAST: to_plain(self._last)}, {METRICS: self._metrics.seal()})

    def finish(self, entries: dict[str, Any]) -> dict[str, Any]:
        """Writes summary.json and the pictures of the finished run.

        Args:
          entries: of the other hooks, which summary.json has too.

        Returns:
          The summary, with the folder as `workdir`.
        """
        from jfedsl.run.plots import curves, style  # here, as Matplotlib takes long to import
        from jfedsl.run.plots.timeline import timeline

        config, rows, spec = self._config, self._metrics.rows(), self._experiment.spec
        client = jax.eval_shape(self._experiment.fresh)
        summary = summarise(rows, config.target_accuracy, spec.aggregate_every, self._task)
        summary["uncompressed_bytes"] = uncompressed_bytes(
            spec, client.params, client.stats, self._experiment.image.shape, len(rows)
        )
        summary["client_flops"] = self._experiment.client_flops._asdict()
        summary["compressors"] = config.expressions
        summary |= entries
        summary["environment"] = environment()
        workdir.write_summary(self._folder, summary)
        self._draw_labels()
        title = f"{config.algorithm}, {model_title(config)} on {self._clients()}"
        figures = {
            "curves": curves.curves(rows, config.target_accuracy, title, self._task),
            "traffic": curves.traffic(rows, title),
        }
        if spec.pruner.names:
            figures["masks"] = curves.masks(rows, title)
        if self._last is not None:
            figures["timeline"] = timeline(*self._last, f"Round {len(rows)}: {title}")
        for name, figure in figures.items():
            style.save_each(figure, self._folder / name, config.figure_format)
        return {**summary, "workdir": str(self._folder)}

    def _draw_labels(self) -> None:
        counts, formats = self._experiment.label_counts, self._config.figure_format
        missing = any(not (self._folder / f"labels.{kind}").exists() for kind in formats)
        if counts is not None and missing:
            from jfedsl.run.plots import classes, style  # here, as Matplotlib takes long to import

            title, names = f"Examples of {self._clients()}", self._experiment.class_names
            figure = classes.labels(counts, title, names)
            style.save_each(figure, self._folder / "labels", formats)

    def _clients(self) -> str:
        config = self._config
        return f"{title_of(config.dataset)}, {config.clients} clients ({config.partition})"
