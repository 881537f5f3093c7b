"""What the text of a compiled program says: loops, kernels, collectives, FLOPs, bytes."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jfedsl.run.targets import costs
from jfedsl.run.targets.hlo_text import Computations, Line, parsed

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
      runs: how often it runs, by the iterations of the loops around it. A loop counts as one
        iteration where the program does not say how many it takes; each branch of a condition
        counts as taken.
      flops: of the products in it, each time it runs; see `costs.flops`.
      traffic: bytes that it reads and writes in the device's memory, each time it runs; see
        `costs.traffic`.
      starts: how many kernels it starts in all its runs. A loop without products starts one:
        accelerators draw random bits in one kernel, where a CPU's compiler writes a loop.
    """

    opcode: str
    loops: int
    bytes: int
    runs: int = 1
    flops: int = 0
    traffic: int = 0
    starts: int = 0


def instructions(text: str) -> list[Instruction]:
    """All instructions of a compiled program that run as steps of their own.

    Args:
      text: `compiled.as_text()`.
    """
    computations, entry = parsed(text)
    return list(_of(entry, computations, 0, 1))


def loop_kernels(steps: Iterable[Instruction]) -> int:
    """How many fusions, library calls, products and convolutions run in loops."""
    return sum(step.loops > 0 and step.opcode in KERNELS for step in steps)


def planned_bytes(compiled: Any) -> int:
    """Memory that XLA plans for a compiled program: arguments, results and intermediate results."""
    memory = compiled.memory_analysis()
    kept: int = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes


def _of(name: str, computations: Computations, loops: int, runs: int) -> Iterator[Instruction]:
    lines = computations.get(name, {})
    for line in lines.values():
        traffic = costs.traffic(line, lines, computations)
        works = line.opcode in KERNELS or traffic > 0
        is_kernel = works and any(array.dims for array in line.results)
        is_loop = line.opcode == "while"
        inside = (loops + 1, runs * (costs.iterations(line, lines, computations) or 1))
        steps = [
            step
            for called in line.called
            for step in _of(called, computations, *(inside if is_loop else (loops, runs)))
        ]
        is_one_kernel = is_loop and not any(s.flops or s.opcode in COLLECTIVES for s in steps)
        if is_one_kernel:
            steps = [step._replace(starts=0) for step in steps]
        yield Instruction(
            line.opcode, loops, _bytes(line), runs, costs.flops(line, lines, computations), traffic,
            runs * (is_kernel or is_one_kernel),
        )  # fmt: skip
        yield from steps


def _bytes(line: Line) -> int:
    """Bytes of a result; of one that only begins here, operands come first."""
    if not line.begins:
        return sum(array.bytes for array in line.results)
    arrays = [array.bytes for array in line.results if array.dims]
    return sum(arrays[len(arrays) // 2 :])
