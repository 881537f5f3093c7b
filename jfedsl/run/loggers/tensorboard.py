"""TensorBoard events, if the extra `tensorboard` is installed."""

from typing import Any

from jfedsl.run.hooks import Hook, Point, RunStart
from jfedsl.run.storage.metrics import Row, known, rows_before


class TensorBoard(Hook):
    """Every numeric column of metrics.csv as a scalar; does nothing without tensorboardX.

    TensorBoard hides events of an earlier process past the checkpoint from which a run goes on.
    """

    def begin(self, start: RunStart) -> None:
        """Takes the folder; a run that had no events yet gets those of its first rounds too."""
        self._folder, self._round = start.folder / "tensorboard", start.round
        self._pending: list[Row] = []  # rows that are not among the events yet
        self._writer: Any = None
        self._missing = False  # whether the library is
        if not self._folder.exists():
            self._round = 0
            task = start.experiment.record
            self._pending = rows_before(start.folder, start.round, task)

    def on_rows(self, rows: list[Row]) -> None:
        """Keeps rows until the call is over."""
        self._pending += rows

    def between_calls(self, point: Point) -> None:
        """Writes events; waits for the first rounds, because the library takes long to import."""
        if point.rows:
            self._write()

    def close(self) -> None:
        """Writes the events that are left, and ends them."""
        self._write()
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        rows, self._pending = self._pending, []
        if rows and self._writer is None and not self._missing:
            self._open()
        if not rows or self._writer is None:
            return
        for row in rows:
            for column, value in known(row).items():
                if column != "round":
                    self._writer.add_scalar(column, value, row["round"])
        self._writer.flush()

    def _open(self) -> None:
        """Opens the file, if tensorboardX is installed."""
        try:  # here, because the library imports PyTorch if it can, which takes over a second
            from tensorboardX import SummaryWriter
        except ImportError:
            self._missing = True
        else:
            self._writer = SummaryWriter(str(self._folder), purge_step=self._round + 1)
