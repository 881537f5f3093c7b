"""How many kernels a compiled loop starts, counted in the text of its program."""

import re
from collections.abc import Iterable

_KERNELS = ("fusion", "custom-call")
_CALLS = ("call", "while", "conditional", "async-start")
_OPCODE = re.compile(r" = .*?\s([a-z][a-z-]*)\(")
_CALLED = re.compile(r"(?:to_apply|body|calls|(?:true|false)_computation)=%?([\w.-]+)")
_LISTED = re.compile(r"branch_computations=\{([^}]*)\}")
_BODY = re.compile(r"\sbody=%?([\w.-]+)")


def loop_kernels(text: str) -> int:
    """Fusions and custom calls in the body of a loop, with those of all loops inside of it.

    A kernel counts once, however often an inner loop repeats it. Of several loops it is the one
    with the most; a program without loops counts as a whole.

    Args:
      text: of a compiled module, as `compiled.as_text()` prints it.
    """
    computations = _computations(text)
    bodies = [name for lines in computations.values() for name in _bodies(lines)]
    return max(_count(computations, name) for name in bodies or computations)


def _computations(text: str) -> dict[str, list[str]]:
    """The instructions of each computation by its name."""
    computations: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith((" ", "\t")):
            next(reversed(computations.values()), []).append(line)
        elif line.endswith("{") and not line.startswith("HloModule"):
            computations[line.removeprefix("ENTRY ").split()[0].lstrip("%")] = []
    return computations


def _bodies(lines: Iterable[str]) -> list[str]:
    return [found[1] for line in lines if (found := _BODY.search(line))]


def _count(computations: dict[str, list[str]], name: str) -> int:
    """Kernels of a computation and of those that it calls."""
    total = 0
    for line in computations[name]:
        found = _OPCODE.search(line)
        opcode = found[1] if found else ""
        if opcode in _KERNELS:
            total += 1
        elif opcode in _CALLS:
            total += sum(_count(computations, called) for called in _called(line))
    return total


def _called(line: str) -> list[str]:
    """Names of the computations that an instruction calls."""
    listed = _LISTED.search(line)
    branches = listed[1].split(",") if listed else []
    return _CALLED.findall(line) + [name.strip().lstrip("%") for name in branches]
