"""TensorBoard events beside metrics.csv, where the extra `tensorboard` is installed."""

from pathlib import Path
from typing import Any

from jfedsl.runtime.metrics import Row


class Events:
    """Every numeric column of a run's metrics as a scalar; does nothing without tensorboardX."""

    def __init__(self, folder: Path, rounds: int) -> None:
        """Continues after `rounds`; TensorBoard hides what an interrupted run wrote past them."""
        self._writer: Any = None
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=rounds + 1)

    def append(self, rows: list[Row]) -> None:
        """Adds rows and flushes them."""
        if self._writer is None:
            return
        for row in rows:
            for column, value in row.items():
                if column != "round" and value is not None:
                    self._writer.add_scalar(column, value, row["round"])
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
