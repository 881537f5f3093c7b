"""The compiled exchange of fine-tuning that `finetune_step.py` times."""

import json
import math
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from step import matmul_peak
from taking_turns import Work

from jfedsl.config import Config
from jfedsl.data.datasets import DATASETS, Dataset, from_arrays
from jfedsl.models.flops import product_flops
from jfedsl.run.assemble import Experiment, build
from jfedsl.run.storage.names import flatten
from jfedsl.run.targets.hlo import planned_bytes

CLASSES, RATE, ALPHA = 5, 2e-3, 16.0
CHECKED = 3  # exchanges whose losses have to agree before anything is timed
START = "start.npz"


class Options(NamedTuple):
    """The model and the sizes of a measurement; the defaults are those of all-MiniLM-L6-v2.

    Attributes:
      clients: number of clients.
      batch_size: texts of each client in an exchange.
      folder: of the model's config.json, and of the weights and batches that a rival starts from.
      tokens: positions of a text, none of which is padding.
      blocks: of the model.
      client_blocks: how many of them are before the cut.
      width: of a position.
      heads: of attention.
      hidden: width inside of the MLP.
      vocabulary: number of tokens.
      rank: of the adapters, on queries and values of all blocks.
      client_adapter: of the clients, as `--client_adapter` says it; "" for the server's.
      base: how frozen weights are stored.
      compute_dtype: of products, and of those that measure the peak.
      peak_size: rows of the matrices whose product measures the peak; None suits the device.
    """

    clients: int
    batch_size: int
    folder: str
    tokens: int = 64
    blocks: int = 6
    client_blocks: int = 2
    width: int = 384
    heads: int = 12
    hidden: int = 1536
    vocabulary: int = 30_522
    rank: int = 8
    client_adapter: str = ""
    base: str = "float32"
    compute_dtype: str = "float32"
    peak_size: int | None = None


def config(options: Options) -> Config:
    """A config whose rounds are one exchange each, without compression and averaging."""
    DATASETS["ids"] = lambda data_dir: _texts(options)
    shape = {
        "model_type": "bert",
        "hidden_size": options.width,
        "num_attention_heads": options.heads,
        "num_hidden_layers": options.blocks,
        "intermediate_size": options.hidden,
        "vocab_size": options.vocabulary,
        "max_position_embeddings": max(512, options.tokens),
    }
    (Path(options.folder) / "config.json").write_text(json.dumps(shape))
    return Config(
        dataset="ids",
        pretrained=options.folder,
        adapter=f"lora(rank={options.rank},alpha={ALPHA:g},on=q+v)",
        client_adapter=options.client_adapter or None,
        base=options.base,
        cut=f"block{options.client_blocks}",
        clients=options.clients,
        batch_size=options.batch_size,
        rounds=1000,
        local_steps=1,
        aggregate_every=1000,
        partition="iid",
        aggregation="equal",
        optimizer="adam",
        client_learning_rate=RATE,
        server_learning_rate=RATE,
        prune_kind="none",
        dropout_rate=0.0,
        smashed_bits=32,
        cut_gradient_bits=32,
        client_gradient_bits=32,
        compute_dtype=options.compute_dtype,
    )


def _texts(options: Options) -> Dataset:
    """As many texts as an exchange takes: every client has one mini-batch."""
    draw, texts = np.random.default_rng(0), options.clients * options.batch_size
    ids = draw.integers(0, options.vocabulary, (texts, options.tokens))
    labels = np.arange(texts) % CLASSES
    return from_arrays((ids, labels), (ids[:8], labels[:8]), CLASSES, normalise=False)


class CompiledExchange:
    """A compiled exchange of all clients with the server."""

    def __init__(self, options: Options) -> None:
        self._options = options
        experiment = build(config(options))
        self._arguments = (experiment.data, experiment.key)
        self._state = experiment.init()
        live = sum(array.nbytes for array in jax.live_arrays())
        began = time.perf_counter()
        rounds: Any = experiment.rounds(1)
        self._run = rounds.lower(*self._arguments, self._state, 1).compile()
        seconds = time.perf_counter() - began
        memory: Any = self._run.memory_analysis()
        base = _bytes(experiment.data.frozen)
        self.facts: dict[str, Any] = {
            "framework": "jfedsl",
            "exchange_flops": exchange_flops(experiment, options),
            "compile_seconds": seconds,
            "matmul_peaks": [],  # after each exchange, FLOP/s
            "base_bytes": base,
            # The state, the data and the base, once the run is put together.
            "live_bytes_without_base": live - base,
            "argument_bytes_without_base": memory.argument_size_in_bytes - base,
            "peak_memory_bytes": planned_bytes(self._run),
            "device_kind": jax.devices()[0].device_kind,
            "versions": {"jax": jax.__version__},
        }
        start = _start(experiment)
        start["losses"] = np.array([self._exchange() for _ in range(CHECKED)])
        np.savez(Path(options.folder) / START, **start)  # type: ignore[arg-type]

    def run(self) -> float:
        """Seconds of one exchange."""
        began = time.perf_counter()
        self._exchange()
        seconds = time.perf_counter() - began
        peak = matmul_peak(self._options.compute_dtype, self._options.peak_size)
        self.facts["matmul_peaks"].append(peak)
        return seconds

    def _exchange(self) -> float:
        """The mean loss of all clients before the step."""
        self._state, record = self._run(*self._arguments, self._state, 1)
        return float(jax.block_until_ready(record).train_loss[0])


def _start(experiment: Experiment) -> dict[str, np.ndarray]:
    """Initial values by layer and path, and the ids and labels of all clients, `[C, B, ...]`."""
    spec, data, initial = experiment.spec, experiment.data, experiment.initial
    ids = np.asarray(data.images).reshape(spec.clients, spec.batch_size, -1)
    arrays = {"ids": ids, "labels": np.asarray(data.labels).reshape(ids.shape[:2])}
    for kind in (initial.params, initial.frozen):
        for layer, tree in zip(spec.model, kind, strict=True):
            arrays |= {f"{layer.name}.{k}": np.asarray(w) for k, w in flatten(tree).items()}
    return arrays


def exchange_flops(experiment: Experiment, options: Options) -> int:
    """FLOPs of the products of an exchange: forward, and for every gradient that is needed."""
    each = product_flops(experiment.spec.model, experiment.initial, (options.tokens,))
    return options.clients * options.batch_size * sum(map(sum, each))


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def rates(options: Options, result: dict[str, Any], flops: int) -> dict[str, Any]:
    """The facts of a framework, with times and rates of an exchange of `flops` operations."""
    times, peaks = result["times"], result["matmul_peaks"][1:]  # the first is untimed
    seconds, skipped = statistics.median(times), ("times", "matmul_peaks")
    fractions = [flops / time / peak for time, peak in zip(times, peaks, strict=True)]
    return {
        **{name: value for name, value in options._asdict().items() if name != "folder"},
        **{name: value for name, value in result.items() if name not in skipped},
        "exchange_flops": flops,
        "seconds_per_exchange": seconds,
        "least_and_greatest": [min(times), max(times)],
        "gflops_per_second": flops / seconds / 1e9,
        "matmul_peak_gflops_per_second": statistics.median(peaks) / 1e9,
        "fraction_of_matmul_peak": statistics.median(fractions),
    }


def rival(options: Options) -> Work:
    """The same exchanges in a PyTorch loop over clients; needs the extra `bench`."""
    from finetune_torch import Rival

    return Rival(options)
