"""The compiled training step of all clients that the benchmarks time."""

import dataclasses
import math
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from taking_turns import Work

from jfedsl.config import Config
from jfedsl.config.cuts import parse
from jfedsl.data.datasets import DATASETS, Dataset, from_arrays
from jfedsl.engine.client_step import chunk_of
from jfedsl.models.cut import cut_index
from jfedsl.models.registry import MODELS
from jfedsl.run.assemble import build
from jfedsl.run.targets.hlo import instructions, loop_kernels, planned_bytes

_PEAK = "matmul_peak_flops"
# Pruning, dropout and 8-bit gradients, over a step with all of them off.
ALL_ON: dict[str, Any] = {
    "prune_kind": "mask", "prune_rate": 0.3, "dropout_rate": 0.2, "bits": 8,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a step; compression is off by default.

    Attributes:
      steps: exchanges in a round.
      participants: clients drawn for each round; None for all. The others keep nothing.
      batches: mini-batches of each client.
      rounds: in one timed call.
      peak_size: rows of the matrices whose product measures the peak; None suits the device.
    """

    model: str = "vgg11"
    norm: str = "none"
    clients: int = 8
    batch_size: int = 16
    cut: str | None = None
    prune_kind: str = "none"
    prune_rate: float = 0.3
    dropout_rate: float = 0.0
    bits: int = 32
    client_chunk: int | None = None
    compute_dtype: str = "float32"
    remat_clients: bool = False
    steps: int = 3
    smashed: str = ""
    algorithm: str = "fedsl"
    participants: int | None = None
    batches: int = 4
    rounds: int = 1
    peak_size: int | None = None

    @property
    def examples(self) -> int:
        """Examples of all participants in a step."""
        return (self.participants or self.clients) * self.batch_size

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of an input."""
        return (28, 28, 1) if self.model == "mlp" else (32, 32, 3)


def config(options: Options) -> Config:
    """A config with plain SGD on random images, and rounds of `steps` exchanges.

    With FedAvg a round is a period and ends with averaging; else all are in one period.
    """
    DATASETS["noise"] = lambda data_dir: _noise(options)
    return Config(
        algorithm=options.algorithm,
        dataset="noise",
        model=options.model,
        norm=options.norm,
        cut=options.cut,
        clients=options.clients,
        rounds=1000,
        local_steps=options.steps,
        aggregate_every=1 if options.algorithm == "fedavg" else 1000,
        batch_size=options.batch_size,
        partition="iid",
        aggregation="equal",
        momentum=0.0,
        prune_kind=options.prune_kind,
        prune_rate=(options.prune_rate,),
        smashed=options.smashed,
        dropout_rate=None if options.smashed else options.dropout_rate,
        smashed_bits=None if options.smashed else 32,
        cut_gradient_bits=options.bits,
        client_gradient_bits=options.bits,
        client_chunk=options.client_chunk,
        compute_dtype=options.compute_dtype,
        remat_clients=options.remat_clients,
        **_drawn(options),
    )


def _drawn(options: Options) -> dict[str, Any]:
    """Settings of participants that are drawn for each round, and of which nothing stays."""
    if options.participants is None:
        return {}
    return {"participants": options.participants, "client_state": "stateless"}


def _noise(options: Options) -> Dataset:
    draw, examples = (
        np.random.default_rng(0),
        options.clients * options.batch_size * options.batches,
    )
    images = draw.integers(0, 256, (examples, *options.image), np.uint8)
    labels = draw.integers(0, 10, examples)
    labels[:10] = range(10)
    return from_arrays((images, labels), (images[:16], labels[:16]), 10)


class CompiledRound:
    """Compiled rounds of `steps` exchanges."""

    def __init__(self, options: Options) -> None:
        self._options = options
        experiment = build(config(options))
        self._arguments = (experiment.data, experiment.key)
        self._state = experiment.init()
        began = time.perf_counter()
        rounds: Any = experiment.rounds(options.rounds)
        self._run = rounds.lower(*self._arguments, self._state, 1).compile()
        seconds = time.perf_counter() - began
        self.facts: dict[str, Any] = {
            "framework": "jfedsl",
            "client_chunk": chunk_of(experiment.spec, options.clients),
            "compile_seconds": seconds,
            "kernels": loop_kernels(instructions(self._run.as_text())),
            _PEAK: matmul_peak(options.compute_dtype, options.peak_size),
            "peak_memory_bytes": planned_bytes(self._run),
            "least_memory_bytes": _bytes((self._state, experiment.data))
            + _activations(options, chunk_of(experiment.spec, options.clients)),
            "device_kind": jax.devices()[0].device_kind,
            "versions": {"jax": jax.__version__},
        }

    def run(self) -> float:
        """Seconds of one call."""
        began = time.perf_counter()
        self._state, record = self._run(*self._arguments, self._state, self._options.rounds)
        jax.block_until_ready(record)
        return time.perf_counter() - began


def _activations(options: Options, chunk: int) -> int:
    """Bytes of the inputs of all layers, which backward passes need.

    They are those of all clients; with recomputation, client-side inputs are those of one chunk.
    """
    shapes = [options.image, *(shape for _, shape, _ in outputs(options)[:-1])]
    sizes = [math.prod(shape) for shape in shapes]
    cut, examples = cut_of(options), options.examples
    client_examples = chunk * options.batch_size if options.remat_clients else examples
    entries = client_examples * sum(sizes[:cut]) + examples * sum(sizes[cut:])
    return entries * jnp.dtype(options.compute_dtype).itemsize


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def matmul_peak(dtype: str, size: int | None = None) -> float:
    """FLOP/s of the fastest of five products of square matrices that are large for the device."""
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    product, a = jax.jit(jnp.matmul), jax.random.normal(jax.random.key(0), (size, size), dtype)
    product(a, a).block_until_ready()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        product(a, a).block_until_ready()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)


def outputs(options: Options) -> list[tuple[str, tuple[int, ...], int]]:
    """Name, output shape for one example, and number of kernel weights of every layer."""
    model = MODELS[options.model].build(10, options.norm)
    x = jax.ShapeDtypeStruct((1, *options.image), jnp.float32)
    rows = []
    for layer in model:
        params, stats = jax.eval_shape(layer.init, jax.random.key(0), x)
        x = jax.eval_shape(lambda p, s, y, f=layer: f.apply(p, s, y, True)[0], params, stats, x)
        kernels = [leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
        rows.append((layer.name, x.shape[1:], sum(kernels)))
    return rows


def cut_of(options: Options) -> int:
    """Number of client-side layers; where cuts differ, that of the last one given."""
    entry = MODELS[options.model]
    last = parse(options.cut or entry.default_cut).names[-1]
    return cut_index(entry.build(10, options.norm), last)


def flops(options: Options) -> int:
    """FLOPs of the products of one step: forward, and both gradients.

    The first layer needs no gradient by its input.
    """
    products = [2 * kernel * math.prod(shape[:-1]) for _, shape, kernel in outputs(options)]
    first = next(product for product in products if product)
    return options.examples * (3 * sum(products) - first)


def rates(options: Options, result: dict[str, Any]) -> dict[str, Any]:
    """The facts of a framework, with times and rates of a step."""
    times, peak = result["times"], result[_PEAK]
    steps = [seconds / options.steps / options.rounds for seconds in times]
    median = statistics.median(steps)
    return {
        **{name: fact for name, fact in result.items() if name not in ("times", _PEAK)},
        "seconds_per_step": median,
        "least_and_greatest": [min(steps), max(steps)],
        "samples_per_second": options.examples / median,
        "gflops_per_second": flops(options) / median / 1e9,
        "fraction_of_matmul_peak": flops(options) / median / peak,
    }


def rival(options: Options) -> Work:
    """The same steps of the same model in a PyTorch loop over clients; needs the extra `bench`."""
    from splitfed_torch import FedAvg, Rival, Shapes, SplitFed

    kind = FedAvg if options.algorithm == "fedavg" else SplitFed
    return Rival(
        kind,
        Shapes(
            [(name, shape[-1]) for name, shape, _ in outputs(options)],
            cut_of(options), options.examples // options.batch_size, options.batch_size,
            options.image, options.steps,
        ),
    )  # fmt: skip
