"""Tables of results in documents, taken from the tables of studies so that they cannot differ.

A document has blocks

    <!-- results methods: means | test accuracy; MB to target | plain; light -->
    <!-- end of results -->

Between these lines stands the table of means of the study `methods`, with these columns and rows;
columns or rows that are left out are all. Other tables are `pairs`, `claims` and `rates`, and of a
study of the bound `ranks`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from jfedsl.errors import UserError

# The tables of table.md, by the beginnings of their first lines.
_KINDS = {
    "means": "| setting | ",
    "pairs": "| setting | ",
    "claims": "| claim | ",
    "rates": "| setting | tries",
    "ranks": "| varied | ",
}
_BLOCK = re.compile(
    r"(<!-- results (?P<study>\w+): (?P<kind>\w+)(?P<rest>[^>]*?) -->\n).*?"
    r"(<!-- end of results -->)",
    re.DOTALL,
)
_MARK = re.compile(r"<!-- (?:results |end of results)")
Table = list[list[str]]  # rows of cells, the titles first


def refreshed(text: str, results: Path) -> str:
    """A document with the tables that its blocks ask for.

    Args:
      text: of the document.
      results: folder with a folder for each study.

    Raises:
      UserError: a block asks for a study, table, column or row that there is not, or one of its two
        lines is missing or of another form.
    """
    blocks = [match.span() for match in _BLOCK.finditer(text)]
    marks = [match.start() for match in _MARK.finditer(text)]
    within = [sum(start <= mark < end for mark in marks) for start, end in blocks]
    if set(within) - {2} or sum(within) < len(marks):
        form = "<!-- results STUDY: TABLE ... --> and <!-- end of results -->"
        raise UserError(f"blocks of results need two lines of their own, {form}")
    return _BLOCK.sub(lambda match: f"{match[1]}{_asked(match, results)}\n{match[5]}", text)


def _asked(match: re.Match[str], results: Path) -> str:
    kind, (_, columns, rows) = match["kind"], [*match["rest"].split("|"), "", ""][:3]
    file = results / match["study"] / "table.md"
    if kind not in _KINDS or not file.is_file():
        raise UserError(f"there is no table {kind!r} in {file}; one of {', '.join(_KINDS)}")
    try:
        table = _table(file.read_text(), kind)
        return _shown(_selected(table, _names(columns), _names(rows)))
    except ValueError as error:
        raise UserError(f"{file}, {kind}: {error}") from None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(";") if name.strip()]


def _table(text: str, kind: str) -> Table:
    """A table of a study's table.md.

    Raises:
      ValueError: it has none of this kind.
    """
    tables = [part for part in text.split("\n\n") if part.startswith(_KINDS[kind])]
    tables = [part for part in tables if (kind == "rates") == part.startswith(_KINDS["rates"])]
    if kind == "pairs":
        tables = tables[1:]
    if not tables:
        raise ValueError("the study has no such table")
    return [_cells(line) for n, line in enumerate(tables[0].splitlines()) if n != 1]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _selected(table: Table, columns: Sequence[str], rows: Sequence[str]) -> Table:
    """The first column and these, and the titles and these rows, in the order asked for."""
    titles, body = table[0], {row[0]: row for row in table[1:]}
    places = [0, *(_place(titles, name) for name in columns)] if columns else range(len(titles))
    chosen = [body[_known(row, body)] for row in rows] if rows else table[1:]
    return [[row[place] for place in places] for row in [titles, *chosen]]


def _place(titles: Sequence[str], name: str) -> int:
    return list(titles).index(_known(name, titles))


def _known(name: str, names: Sequence[str] | dict[str, list[str]]) -> str:
    if name not in names:
        raise ValueError(f"there is no {name!r} among {'; '.join(names)}")
    return name


def _shown(table: Table) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, "| --- " * len(table[0]) + "|", *body])
