"""Tables at the end of a run: what they say, and their two renderings."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from jfedsl.terminal import console, is_terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

_TITLE = 19  # characters of a title in plain text


class Facts(NamedTuple):
    """A title and a text in each row."""

    rows: tuple[tuple[str, str], ...]


class Columns(NamedTuple):
    """Columns under their heads; the first has names, the others numbers.

    Attributes:
      heads: of the columns.
      rows: cells; the last row adds up the others.
      widths: of the columns in plain text, in characters.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    widths: tuple[int, ...]


class Lines(NamedTuple):
    """Text as it is."""

    text: str


Part = Facts | Columns | Lines
_Side = Literal["left", "right"]


def plain(parts: Sequence[Part]) -> str:
    """Parts as plain text, with an empty line between two."""
    return "\n\n".join("\n".join(_lines(part)) for part in parts)


def show(parts: Sequence[Part], plainly: bool = False) -> None:
    """Prints parts: as tables on a terminal, else as `plain` text.

    Args:
      parts: what to print.
      plainly: whether a terminal shows plain text too.
    """
    if plainly or not is_terminal(sys.stdout):
        print(plain(parts))
        return
    from rich.console import Group
    from rich.text import Text

    shown = [x for part in parts for x in (Text(""), _rich(part))]
    console(sys.stdout).print(Group(*shown[1:]))


def _lines(part: Part) -> list[str]:
    """The lines of a part in plain text."""
    match part:
        case Facts():
            return [f"{title:<{_TITLE}} {text}" for title, text in part.rows]
        case Columns():
            return [_line(row, part.widths) for row in (part.heads, *part.rows)]
        case Lines():
            return [part.text]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A row of columns in plain text."""
    signs = {"left": "<", "right": ">"}
    columns = zip(cells, widths, _sides(cells), strict=True)
    return "".join(f"{cell:{signs[side]}{width}}" for cell, width, side in columns)


def _sides(cells: Sequence[str]) -> list[_Side]:
    """The sides on which the cells of a row stand in their columns."""
    sides: list[_Side] = ["right"] * len(cells)
    sides[0] = "left"
    return sides


def _rich(part: Part) -> "RenderableType":
    """A part as `rich` shows it; a narrow terminal breaks lines and cuts nothing off."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    match part:
        case Facts():
            table = Table.grid()
            table.add_column(style="bold", min_width=_TITLE + 1, no_wrap=True)
            table.add_column(overflow="fold")
            for title, text in part.rows:
                table.add_row(Text(f"{title} "), Text(text))
            return table
        case Columns():
            table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
            for head, side in zip(part.heads, _sides(part.heads), strict=True):
                table.add_column(Text(head), justify=side, overflow="fold")
            *rows, total = part.rows
            for row in rows:
                table.add_row(*map(Text, row))
            table.add_section()
            table.add_row(*map(Text, total), style="bold")
            return table
        case Lines():
            return Text(part.text)
