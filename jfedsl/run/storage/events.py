"""TensorBoard events beside metrics.csv, if the extra `tensorboard` is installed."""

from pathlib import Path
from typing import Any

from jfedsl.run.storage.metrics import Row


class Events:
    """Every numeric column of a run's metrics as a scalar; does nothing without tensorboardX."""

    def __init__(self, folder: Path, rounds: int) -> None:
        """Continues after `rounds` rounds; TensorBoard hides later events of an earlier process."""
        self._folder, self._rounds = folder, rounds
        self._writer: Any = None

    def append(self, rows: list[Row]) -> None:
        """Adds rows and flushes them."""
        if self._writer is None and not self._open():
            return
        for row in rows:
            for column, value in row.items():
                if column != "round" and value is not None:
                    self._writer.add_scalar(column, value, row["round"])
        self._writer.flush()

    def _open(self) -> bool:
        """Opens the file; returns whether tensorboardX is installed."""
        try:  # here, because the library imports PyTorch if it can, which takes over a second
            from tensorboardX import SummaryWriter
        except ImportError:
            return False
        self._writer = SummaryWriter(str(self._folder), purge_step=self._rounds + 1)
        return True

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
