"""What a round costs each device, from programs compiled at a few sizes.

Each cost is a sum of parts: one that is fixed, one for each participant of a device, one for each
participant in all, one for each client in all, and one for each client of a device. Programs of
five sizes say what the parts are, and a program of a sixth size says how wrong that is. Nothing is
executed.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from scipy.optimize import nnls

from jfedsl.config import Config
from jfedsl.config.flags import define_flags, from_flags
from jfedsl.data.datasets import DATASETS, Dataset, from_arrays
from jfedsl.engine.client_memory import memory_of
from jfedsl.run.assemble import build
from jfedsl.run.targets.devices import Target, target_of
from jfedsl.run.targets.hlo import COLLECTIVES
from jfedsl.run.targets.programs import compile_on

_TPU = "v5e:2x2"
_PLATFORMS = {"v5e": "tpu", "v5p": "tpu", "h100": "gpu", "cpu": "cpu"}


class Size(NamedTuple):
    """The size of a run.

    Attributes:
      devices: over which clients are spread.
      participants: in a round.
      clients: in all.
    """

    devices: int
    participants: int
    clients: int

    @property
    def on_device(self) -> int:
        """Participants that a device computes."""
        return -(-self.participants // self.devices)

    def parts(self) -> list[float]:
        """What costs are linear in; clients are left out where all of them take part."""
        parts: list[float] = [1, self.on_device, self.on_device * self.devices]
        if self.participants < self.clients:
            parts += [self.clients, self.clients / self.devices]
        return parts


class Costs(NamedTuple):
    """What a round costs a device; fields of programs that are not about their compilation.

    Attributes:
      flops: of products.
      traffic: bytes read and written in its memory.
      starts: kernels.
      memory: bytes that are planned for it.
      collectives: number and bytes of results by kind.
    """

    flops: float
    traffic: float
    starts: float
    memory: float
    collectives: dict[str, tuple[float, float]]


class Laws(NamedTuple):
    """Costs of any size.

    Attributes:
      coefficients: of each cost, by its name.
      errors: relative error of each cost at a size that they were not fitted to.
      compiler: what compiled the programs.
    """

    coefficients: dict[str, list[float]]
    errors: dict[str, float]
    compiler: str

    def costs(self, size: Size) -> Costs:
        """The costs of a size."""
        parts = np.array(size.parts())
        values = {name: float(parts @ row) for name, row in self.coefficients.items()}
        kinds = {name.partition(" ")[0] for name in values} & COLLECTIVES
        both = {kind: (values[f"{kind} runs"], values[f"{kind} bytes"]) for kind in sorted(kinds)}
        own = {name: values[name] for name in ("flops", "traffic", "starts", "memory")}
        return Costs(**own, collectives=both)


class Programs:
    """Compiles rounds, and keeps what they say in a file, so that none is compiled twice."""

    def __init__(self, run_flags: Sequence[str], examples: int, kept: Path | None) -> None:
        """Takes the flags of the runs, and how many examples a client has."""
        self._flags, self._examples, self._kept = tuple(run_flags), examples, kept
        is_file = kept is not None and kept.exists()
        self._known: dict[str, dict[str, float]] = (
            json.loads(kept.read_text()) if kept is not None and is_file else {}
        )

    def laws(self, target: str, place: str, take_part: bool, least: int) -> Laws:
        """The laws of rounds on a target.

        Args:
          target: v5e, v5p, h100 or cpu.
          place: --client_state.
          take_part: whether all clients take part in every round.
          least: participants of a device in the smallest program.
        """
        *fitted, last = _sizes(least, take_part)
        measured = [self._of(target, place, size) for size in fitted]
        checked = self._of(target, place, last)
        names = sorted({name for costs in (*measured, checked) for name in costs})
        parts = np.array([size.parts() for size in fitted])
        coefficients, errors = {}, {}
        for name in names:
            values = np.array([costs.get(name, 0.0) for costs in measured])
            # All parts cost something or nothing; relative errors count.
            weights = 1 / np.maximum(values, 1.0)
            if name == "starts":  # kernels grow with no size; a few differ by what XLA fuses
                coefficients[name] = [float(values.max()), *[0.0] * (parts.shape[1] - 1)]
            else:
                coefficients[name] = nnls(parts * weights[:, None], values * weights)[0].tolist()
            exact = checked.get(name, 0.0)
            predicted = float(np.array(last.parts()) @ coefficients[name])
            errors[name] = predicted / exact - 1 if exact else float(predicted > 1)
        return Laws(coefficients, errors, compiler_of(target))

    def _of(self, target: str, place: str, size: Size) -> dict[str, float]:
        of = compiler_of(target)
        key = " ".join(map(str, (jax.__version__, of, place, *size, *self._flags)))
        if key not in self._known:
            config = self.config(size, place)
            self._known[key] = _compiled(config, target)
            if self._kept is not None:
                self._kept.write_text(json.dumps(self._known, indent=1) + "\n")
        return self._known[key]

    def config(self, size: Size, place: str) -> Config:
        """The settings of a run of a size."""
        DATASETS["noise"] = lambda data_dir: noise(self._flags, size.clients * self._examples)
        values = flags.FlagValues()
        define_flags(values)
        values(["scaling_model.py", *self._flags])
        values["clients"].value = size.clients
        values["devices"].value = size.devices
        if size.participants < size.clients:
            values["participants"].value = size.participants
            values["client_state"].value = place
        return from_flags(values)

    def memory_bytes(self) -> int:
        """Bytes that a client keeps while it does not take part."""
        key = " ".join(("memory", *self._flags))
        if key not in self._known:
            experiment = build(self.config(Size(1, 2, 4), "host"))
            rows = jax.eval_shape(lambda: memory_of(experiment.spec, experiment.fresh()))
            size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(rows))
            self._known[key] = {"bytes": size}
        return int(self._known[key]["bytes"])


def _sizes(least: int, take_part: bool) -> list[Size]:
    """Sizes of programs; the last one checks what the others say."""
    if take_part:
        counts = [(2, least), (2, 2 * least), (4, least), (4, 2 * least)]
        return [Size(devices, devices * each, devices * each) for devices, each in counts]
    few = 16 * least
    cases = [(2, 1, 1), (2, 2, 1), (4, 1, 1), (2, 1, 2), (4, 1, 2), (4, 2, 2)]
    return [Size(d, d * each * least, of_few * few) for d, each, of_few in cases]


def compiler_of(target: str) -> str:
    """What compiles for a target here."""
    if by_libtpu(target):
        return f"libtpu for {_TPU}"
    return f"XLA:CPU with the forms of a {_PLATFORMS[target]}"


def by_libtpu(target: str) -> bool:
    """Whether the compiler for TPUs compiles for a target, which may not be installed."""
    return _PLATFORMS[target] == "tpu" and importlib.util.find_spec("libtpu") is not None


def _compiled(config: Config, name: str) -> dict[str, float]:
    """What the program of a round says, by name."""
    by_cpu = Target(name, _PLATFORMS[name], jax.devices(), 2**60)
    target = target_of(_TPU) if by_libtpu(name) else by_cpu
    if target.platform != "cpu" and config.client_chunk is None:
        config = dataclasses.replace(config, client_chunk=config.clients)
    (program,) = compile_on(config, target, ("round",))
    if program.error:
        raise RuntimeError(program.error)
    return {
        "flops": program.flops, "traffic": program.traffic, "starts": program.starts,
        "memory": program.peak_bytes, **dict(_by_kind(program.collectives)),
    }  # fmt: skip


def _by_kind(collectives: Sequence[tuple[str, int, int]]) -> Iterator[tuple[str, float]]:
    for kind in sorted({kind for kind, *_ in collectives}):
        of_kind = [(runs, size) for other, runs, size in collectives if other == kind]
        yield f"{kind} runs", sum(runs for runs, _ in of_kind)
        yield f"{kind} bytes", sum(runs * size for runs, size in of_kind)


def noise(run_flags: Sequence[str], examples: int) -> Dataset:
    """Random images: 28x28 in grey for an mlp, else 32x32 in colour."""
    image = (28, 28, 1) if "--model=mlp" in run_flags else (32, 32, 3)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (examples, *image), np.uint8)
    labels = draw.integers(0, 10, examples)
    labels[:10] = range(10)
    return from_arrays((images, labels), (images[:16], labels[:16]), 10)
