"""TensorBoard events, if the extra `tensorboard` is installed."""

import time
from typing import Any

from jfedsl.run.hooks import Hook, Point, RunStart, Saved
from jfedsl.run.storage.metrics import Row, known

_SENT = "round in tensorboard"  # in a checkpoint: the last one among the events


class TensorBoard(Hook):
    """Every numeric column of metrics.csv as a scalar; does nothing without tensorboardX.

    TensorBoard hides events of an earlier process past the checkpoint from which a run goes on.
    """

    def begin(self, start: RunStart) -> None:
        """Takes the folder, and the rounds before the start that are not among its events."""
        self._folder = start.folder / "tensorboard"
        self._sent = start.saved.values.get(_SENT, 0) if self._folder.exists() else 0
        self._pending = list(start.rows[self._sent :])
        self._writer: Any = None
        self._missing = False  # whether the library is

    def on_rows(self, rows: list[Row]) -> None:
        """Keeps rows until the call is over."""
        self._pending += rows

    def between_calls(self, point: Point) -> None:
        """Writes events; waits for the first rounds, because the library takes long to import."""
        if point.rows:
            self._write()

    def on_checkpoint(self) -> Saved:
        """The last round among the events."""
        return Saved({_SENT: self._sent})

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
        self._sent = rows[-1]["round"]

    def _open(self) -> None:
        """Opens the file, if tensorboardX is installed."""
        try:  # here, because the library imports PyTorch if it can, which takes over a second
            from tensorboardX import SummaryWriter
        except ImportError:
            self._missing = True
        else:
            # The library's names tell seconds apart, and it overwrites a file of the same name.
            suffix = f".{time.time_ns()}"
            self._writer = SummaryWriter(
                str(self._folder), purge_step=self._sent + 1, filename_suffix=suffix
            )
