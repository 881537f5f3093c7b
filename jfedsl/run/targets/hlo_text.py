"""The text of a compiled program, line by line."""

import math
import re
from typing import NamedTuple

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|\s)([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+\d+)\w*\[([\d,]*)\](?:\{([^}]*)\})?")
# Fields of an instruction that name computations which run as often as it does; those of a fusion
# or a reduction are part of its kernel.
_CALLED = re.compile(
    r"(?:condition|true_computation|false_computation|branch_computations|body)"
    r"=(\{[^}]*\}|%?[\w.\-]+)"
)
_APPLIED = re.compile(r"to_apply=%?([\w.\-]+)")
_NAME = re.compile(r"[\w.\-]+")


class Shape(NamedTuple):
    """An array, as the text writes it.

    Attributes:
      dims: its sizes.
      bits: of an entry.
      on_chip: whether it lies in memory of the chip, such as a TPU's vector memory.
    """

    dims: tuple[int, ...]
    bits: int
    on_chip: bool

    @property
    def bytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.dims) * self.bits // 8


class Line(NamedTuple):
    """An instruction.

    Attributes:
      name: by which others use its result.
      opcode: such as fusion; without the ending `-start`.
      results: one array, or those of a tuple.
      operands: names, in their order.
      inner: the text in its parentheses, such as the value of a constant.
      fields: the text behind its operands.
      begins: whether the operation only begins here: its operands come before its results, and
        scalars that are neither may follow.
      called: computations that it runs, once or in a loop; the condition of a loop comes first.
    """

    name: str
    opcode: str
    results: tuple[Shape, ...]
    operands: tuple[str, ...]
    inner: str
    fields: str
    begins: bool
    called: tuple[str, ...]

    def field(self, name: str) -> str:
        """The value of a field without its braces and quotes; empty if it has none."""
        found = re.search(rf"\b{name}=(?:\{{([^}}]*)\}}|%?([\w.\->]+))", self.fields)
        return "" if found is None else found[1] or found[2] or ""


Lines = dict[str, Line]
Computations = dict[str, Lines]


def parsed(text: str) -> tuple[Computations, str]:
    """The instructions of every computation by its name, and the name of the first that runs."""
    computations: Computations = {}
    entry, lines = "", {}
    for row in text.splitlines():
        header, instruction = _HEADER.match(row), _LINE.match(row)
        if header:
            lines = computations.setdefault(header[1], {})
            entry = header[1] if row.startswith("ENTRY") else entry
        elif instruction:
            line = _line(instruction[1], instruction[2])
            if line is not None:
                lines[line.name] = line
    return computations, entry


def _line(name: str, text: str) -> Line | None:
    found = _OPCODE.search(text)
    if found is None:
        return None
    opcode = found[1].removesuffix("-start")
    inner = _in_parentheses(text, found.end())
    fields = text[found.end() + len(inner) :]
    called = [name for field in _CALLED.findall(fields) for name in _NAME.findall(field)]
    if opcode == "call":
        called += _APPLIED.findall(fields)
    return Line(
        name, opcode, _shapes(text[: found.start()]), _operands(inner), inner, fields,
        found[1] != opcode and opcode != "all-reduce", tuple(called),
    )  # fmt: skip


def _in_parentheses(text: str, start: int) -> str:
    depth = 1
    for end in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if not depth:
            return text[start:end]
    return text[start:]


def _operands(inner: str) -> tuple[str, ...]:
    return tuple(re.findall(r"%([\w.\-]+)", inner))


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        Shape(tuple(int(size) for size in dims.split(",") if size), _bits(dtype), "S(1)" in layout)
        for dtype, dims, layout in _ARRAY.findall(text)
    )


def _bits(dtype: str) -> int:
    return 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype[1:] if dtype[0] == "b" else dtype))
