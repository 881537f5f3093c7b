"""What the text of a compiled program says: loops, kernels, collectives."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*)$")
_OPCODE = re.compile(r"(?:^|\s)([a-z][a-z0-9\-]*)\(")
_SHAPE = re.compile(r"\b(pred|bf16|[a-z]+\d+)\w*\[([\d,]*)\]")
# Fields of an instruction that name computations which run as often as it does; those of a fusion
# or a reduction are part of its kernel.
_CALLED = re.compile(
    r"(?:condition|true_computation|false_computation|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_CALL, _BODY = re.compile(r"to_apply=%?([\w.\-]+)"), re.compile(r"body=%?([\w.\-]+)")
_NAME = re.compile(r"[\w.\-]+")
KERNELS = frozenset({"fusion", "custom-call", "convolution", "dot"})
COLLECTIVES = frozenset(
    {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
)


class Instruction(NamedTuple):
    """An instruction that runs as a step of its own, not inside a fusion.

    Attributes:
      opcode: such as fusion.
      loops: number of loops around it.
      bytes: of its result.
    """

    opcode: str
    loops: int
    bytes: int


def instructions(text: str) -> list[Instruction]:
    """All instructions of a compiled program that run as steps of their own.

    Args:
      text: `compiled.as_text()`.
    """
    computations, entry = _computations(text)
    return list(_of(entry, computations, 0))


def loop_kernels(steps: Iterable[Instruction]) -> int:
    """How many fusions, library calls, products and convolutions run in loops."""
    return sum(step.loops > 0 and step.opcode in KERNELS for step in steps)


def planned_bytes(compiled: Any) -> int:
    """Memory that XLA plans for a compiled program: arguments, results and intermediate results."""
    memory = compiled.memory_analysis()
    kept: int = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The instructions of every computation by its name, and the name of the first that runs."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = _HEADER.match(line)
        instruction = _INSTRUCTION.match(line)
        if header:
            lines = computations.setdefault(header[1], [])
            entry = header[1] if line.startswith("ENTRY") else entry
        elif instruction:
            lines.append(instruction[1])
    return computations, entry


def _of(name: str, computations: dict[str, list[str]], loops: int) -> Iterator[Instruction]:
    for line in computations.get(name, []):
        found = _OPCODE.search(line)
        if found is None:
            continue
        opcode = found[1].removesuffix("-start")
        begins = found[1] != opcode and opcode != "all-reduce"
        yield Instruction(opcode, loops, _bytes(line[: found.start()], begins))
        for body in _BODY.findall(line):
            yield from _of(body, computations, loops + 1)
        called = [name for field in _CALLED.findall(line) for name in _NAME.findall(field)]
        if opcode == "call":
            called += _CALL.findall(line)
        for other in called:
            inside = loops + 1 if opcode == "while" else loops
            yield from _of(other, computations, inside)


def _bytes(shapes: str, begins: bool) -> int:
    """Bytes of a result, from its shape in the text.

    Args:
      shapes: one shape, or several in parentheses.
      begins: whether the operation only begins here: its operands come before its results, and
        scalars that are neither may follow.
    """
    parts = [_bits(dtype) * math.prod(_sizes(dims)) for dtype, dims in _SHAPE.findall(shapes)]
    arrays = [size for size, (_, dims) in zip(parts, _SHAPE.findall(shapes), strict=True) if dims]
    return sum(arrays[len(arrays) // 2 :] if begins else parts) // 8


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


def _bits(dtype: str) -> int:
    return 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype[1:] if dtype[0] == "b" else dtype))
