"""What an instruction of a compiled program costs, each time it runs."""

import math
import re

import numpy as np

from jfedsl.run.targets.hlo_text import Computations, Line, Lines, Shape

_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
# They move nothing: names, parts of others, and what computations do that are counted themselves.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all "
    "opt-barrier partition-id replica-id add-dependency async".split()
)
_SLICES = frozenset({"slice", "dynamic-slice", "gather"})
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}  # and which operand is the update


def flops(line: Line, lines: Lines, computations: Computations) -> int:
    """FLOPs of the products in an instruction: its own, or those of its fusion.

    A multiply-add is 2 FLOPs. Of a convolution only taps on pixels count, not those on padding or
    in the holes of a dilated input, as XLA counts them. Products in library calls do not count.

    Args:
      line: the instruction.
      lines: all of its computation, by name.
      computations: of the program, by name.
    """
    if line.opcode == "dot":
        lhs = lines[line.operands[0]].results[0].dims
        contracted = math.prod(lhs[axis] for axis in _ints(line.field("lhs_contracting_dims")))
        return 2 * math.prod(line.results[0].dims) * contracted
    if line.opcode == "convolution":
        return _convolution_flops(line, lines)
    if line.opcode != "fusion":
        return 0
    inside = computations.get(line.field("calls"), {})
    return sum(flops(each, inside, computations) for each in inside.values())


def _convolution_flops(line: Line, lines: Lines) -> int:
    labels = re.match(r"([\w]+)_([\w]+)->([\w]+)", line.field("dim_labels"))
    assert labels is not None, line.fields
    x, kernel, y = (
        dict(zip(letters, shape.dims, strict=True))
        for letters, shape in zip(
            labels.groups(), (*(lines[o].results[0] for o in line.operands[:2]), line.results[0]),
            strict=True,
        )
    )  # fmt: skip
    window = dict(re.findall(r"(\w+)=([\w\-]+)", line.field("window")))
    axes = [letter for letter in y if letter.isdigit()]
    pairs = 1
    for n, axis in enumerate(axes):
        low, stride, dilation, spread = (
            int(window[name].split("x")[n].split("_")[0]) if name in window else default
            for name, default in (("pad", 0), ("stride", 1), ("rhs_dilate", 1), ("lhs_dilate", 1))
        )
        at = np.arange(y[axis])[:, None] * stride + np.arange(kernel[axis]) * dilation - low
        pixel = (at >= 0) & (at <= (x[axis] - 1) * spread) & (at % spread == 0)
        pairs *= int(np.count_nonzero(pixel))
    return 2 * y["b"] * y["f"] * kernel["i"] * pairs


def traffic(line: Line, lines: Lines, computations: Computations) -> int:
    """Bytes that an instruction reads and writes in the device's memory.

    Each operand is read once and each result written once. Of an operand that is only sliced, the
    slices count; of an array that is updated in place, the update, read and written. Arrays on the
    chip do not count, such as those in a TPU's vector memory. Caches are not known.

    Args:
      line: the instruction.
      lines: all of its computation, by name.
      computations: of the program, by name.
    """
    if line.opcode in _FREE or line.opcode.endswith(("-done", "-update")):
        return 0
    if line.begins:
        return sum(_outside(shape) for shape in line.results)
    if line.opcode == "fusion":
        return _fusion_traffic(line, lines, computations.get(line.field("calls"), {}))
    written = sum(_outside(shape) for shape in line.results)
    if line.opcode in _SLICES:
        return 2 * written
    if line.opcode in _UPDATES:
        return 0 if not written else 2 * _update_bytes(line, lines)
    return written + sum(_read(lines, operand) for operand in set(line.operands))


def _fusion_traffic(line: Line, lines: Lines, inside: Lines) -> int:
    parameters = {
        int(each.inner): each.name for each in inside.values() if each.opcode == "parameter"
    }
    total = 0
    for n, operand in enumerate(line.operands):
        if _read(lines, operand) and n in parameters:
            whole = _read(lines, operand)
            total += min(whole, _bytes_used(parameters[n], inside, whole))
    roots = _roots(inside)
    if len(roots) != len(line.results):
        return total + sum(_outside(shape) for shape in line.results)
    for root, shape in zip(roots, line.results, strict=True):
        updates = root.opcode in _UPDATES
        size = _update_bytes(root, inside) if updates else shape.bytes
        total += 0 if shape.on_chip else size
    return total


def _bytes_used(name: str, inside: Lines, whole: int) -> int:
    """Bytes that a fusion reads of one of its parameters."""
    total = 0
    for use in inside.values():
        if name not in use.operands:
            continue
        if use.opcode == "bitcast":
            total += _bytes_used(use.name, inside, whole)
        elif use.opcode in _SLICES and use.operands[0] == name:
            total += sum(shape.bytes for shape in use.results)
        elif not (use.opcode in _UPDATES and use.operands[0] == name):
            return whole
    return total


def _roots(inside: Lines) -> list[Line]:
    """The results of a fusion, behind casts of their shape."""
    if not inside:
        return []
    last = list(inside.values())[-1]
    roots = [inside[o] for o in last.operands] if last.opcode == "tuple" else [last]
    return [_behind_bitcasts(root, inside) for root in roots]


def _behind_bitcasts(line: Line, inside: Lines) -> Line:
    while line.opcode == "bitcast" and line.operands[0] in inside:
        line = inside[line.operands[0]]
    return line


def _update_bytes(line: Line, lines: Lines) -> int:
    operand = line.operands[_UPDATES[line.opcode]]
    return sum(shape.bytes for shape in lines[operand].results) if operand in lines else 0


def _read(lines: Lines, operand: str) -> int:
    return sum(map(_outside, lines[operand].results)) if operand in lines else 0


def _outside(shape: Shape) -> int:
    """Bytes of an array, none if it is on the chip."""
    return 0 if shape.on_chip else shape.bytes


def iterations(line: Line, lines: Lines, computations: Computations) -> int | None:
    """How many iterations a loop takes; None where the program does not say.

    It says so in a field, or by a condition that compares a counter with a constant. Such a counter
    starts at 0 and goes up by 1, as those of scans do.

    Args:
      line: the loop.
      lines: all of its computation, by name.
      computations: of the program, by name.
    """
    known = _TRIPS.search(line.fields)
    if known:
        return int(known[1])
    condition = computations.get(line.field("condition"), {})
    last = list(condition.values())[-1] if condition else None
    if last is None or last.opcode != "compare" or last.field("direction") != "LT":
        return None
    bound = condition.get(last.operands[1])
    is_constant = bound is not None and bound.opcode == "constant" and bound.inner.isdigit()
    return int(bound.inner) if bound is not None and is_constant else None


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
