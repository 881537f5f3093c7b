"""Results of `accelerator.py`: lines of JSON that are written as they come, and their table."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Line = dict[str, Any]


class Measure(NamedTuple):
    """A number that was measured.

    Attributes:
      quantity: what it is, with its unit.
      value: of it.
      target: to reach; None where there is none.
      at_most: whether smaller is better.
    """

    quantity: str
    value: float
    target: float | None = None
    at_most: bool = False

    def to_line(self) -> Line:
        """As a line of the file has it."""
        line: Line = {"quantity": self.quantity, "value": self.value}
        if self.target is None:
            return line
        reached = self.value <= self.target if self.at_most else self.value >= self.target
        sense = "at most" if self.at_most else "at least"
        return {**line, "target": f"{sense} {shown(self.target)}", "reached": reached}


class Entry(NamedTuple):
    """What was measured of one thing.

    Attributes:
      name: of the thing.
      measures: numbers for the table.
      facts: all else that the file keeps, as JSON can hold it.
      note: a remark for the table.
    """

    name: str
    measures: Sequence[Measure]
    facts: Line
    note: str = ""

    def to_line(self, part: str) -> Line:
        """As a line of the file."""
        measures = [measure.to_line() for measure in self.measures]
        facts = {"measures": measures, "note": self.note, "facts": self.facts}
        return {"part": part, "name": self.name, "status": "measured", **facts}


def unmeasured(part: str, name: str, status: str, note: str) -> Line:
    """The line of what was skipped, stopped or failed, and why."""
    return {
        "part": part, "name": name, "status": status, "measures": [], "note": note, "facts": {}
    }  # fmt: skip


class ResultsFile:
    """The file of results; every line is on the disk before the next is measured."""

    def __init__(self, path: Path) -> None:
        """Makes the file and its folder; an older file of that name gets the ending .old."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.replace(f"{path}.old")
        self.path, self._file = path, path.open("w")

    def append(self, line: Line) -> None:
        """Writes a line."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read(path: Path) -> list[Line]:
    """The lines of a file, without a last one that was cut off."""
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def table(lines: Iterable[Line]) -> str:
    """A row for each number, with its target, and for whatever was not measured."""
    rows = [("part", "what", "quantity", "measured", "target", "")]
    for line in lines:
        head = (line["part"], line["name"])
        if line["status"] != "measured":
            rows.append((*head, f"{line['status']}: {line['note']}", "", "", ""))
            continue
        rows += [(*head, *_cells(measure)) for measure in line["measures"]]
        if line["note"]:
            rows.append((*head, line["note"], "", "", ""))
    # Notes may be long: they are as wide as they need, as nothing follows them.
    widths = [max(len(row[n]) for row in rows if row[3]) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def summary(line: Line) -> str:
    """A line on the screen: what was measured, and its first number."""
    if line["status"] != "measured":
        return f"{line['part']}, {line['name']}: {line['status']}, {line['note']}"
    cells = " ".join(_cells(line["measures"][0])).strip()
    return f"{line['part']}, {line['name']}: {cells}"


def _cells(measure: Line) -> tuple[str, str, str, str]:
    """Quantity, value, target and verdict."""
    verdict = {True: "reached", False: "missed", None: ""}[measure.get("reached")]
    return measure["quantity"], shown(measure["value"]), measure.get("target", ""), verdict


def shown(value: float) -> str:
    """A number to four digits.

    >>> [shown(x) for x in (0.35, 70_000, 1.5e-7, 13.958)]
    ['0.35', '70,000', '1.5e-07', '13.96']
    """
    if abs(value) >= 1000 and math.isfinite(value):
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
