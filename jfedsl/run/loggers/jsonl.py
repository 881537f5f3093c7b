"""metrics.jsonl, the rows of metrics.csv as JSON."""

import json
import math

from jfedsl.run.hooks import Hook, RunStart
from jfedsl.run.storage.metrics import METRICS, Row, as_written, columns_in, known
from jfedsl.run.storage.workdir import write_atomically

FILE = "metrics.jsonl"


class JsonLines(Hook):
    """An object for each round, without the columns that are empty in it.

    A run that goes on writes the file anew from metrics.csv, which has been cut off or put back as
    its checkpoint says. So the file is as exact as metrics.csv after a kill at any moment.
    """

    def begin(self, start: RunStart) -> None:
        """Writes the rounds before the start."""
        self._path = start.folder / FILE
        self._columns = columns_in(start.folder / METRICS)
        write_atomically(self._path, _lines(as_written(start.rows, self._columns)))

    def on_rows(self, rows: list[Row]) -> None:
        """Adds rounds."""
        with open(self._path, "a") as file:
            file.write(_lines(as_written(rows, self._columns)))


def _lines(rows: list[Row]) -> str:
    """A line of JSON for each row; null for a number that is not finite, which JSON lacks."""
    finite = (
        {name: value if math.isfinite(value) else None for name, value in known(row).items()}
        for row in rows
    )
    return "".join(f"{json.dumps(row)}\n" for row in finite)
