"""Arithmetic, time, bytes and memory of the client-side layers at each prune rate.

    python benchmarks/pruning.py --model=vgg11

Times the forward and backward pass of all clients' layers, without norm, and the optimizer step, in
a loop over steps as in training. Each setting runs in a separate process; they run in turn. Prints
a table and one JSON line a setting, with ratios to the dense layers:

- arithmetic: FLOPs of products with the weights that a client keeps, taps on padding included;
- flops: FLOPs of one client's layers as they run, by XLA's cost analysis of lax operations;
- seconds: time of all clients' layers, as they run;
- bytes: sent in one exchange and for the model, both in both directions;
- memory: bytes that one client's backward pass keeps of its forward pass, weights included.
"""

import dataclasses
import functools
import json
import math
import statistics
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import lax
from step import Options, config
from taking_turns import alternate

from jfedsl.engine.client_step import client_forward, client_step, forward_one
from jfedsl.engine.exchange import Exchange
from jfedsl.engine.period import start_period
from jfedsl.engine.traffic import smashed_shape
from jfedsl.models import blocks
from jfedsl.models.flops import product_flops
from jfedsl.models.layers import Variables
from jfedsl.models.registry import MODELS
from jfedsl.run.assemble import Experiment, build

_SIZES = {"vgg11": (8, 16), "vgg19": (8, 16), "resnet18": (8, 16), "small": (100, 8)}
_MODEL = flags.DEFINE_enum("model", "vgg11", list(_SIZES), "Model.")
_CUT = flags.DEFINE_string("cut", None, "Cut; default the model's.")
_CLIENTS = flags.DEFINE_integer("clients", None, "Clients; default 8, small 100.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Examples per client; default 16, small 8.")
_STEPS = flags.DEFINE_integer("steps", 3, "Steps in one timed call.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed calls of each.", lower_bound=3)

SETTINGS = (("none", 0.0), ("mask", 0.5), ("channel", 0.25), ("channel", 0.5), ("channel", 0.75))
RATIOS = ("arithmetic", "flops", "seconds", "bytes", "memory")


class ClientLayers:
    """The compiled forward and backward pass and step of all clients' layers."""

    def __init__(self, options: Options) -> None:
        experiment = build(config(options))
        state = experiment.init()
        self.facts = {**vars(options), **costs(experiment, state)}
        draw = jax.random.normal
        shape = _smashed_shape(experiment)
        images = draw(jax.random.key(1), (options.clients, options.batch_size, *options.image))
        gradient = draw(jax.random.key(2), (options.clients, *shape)) / math.prod(shape)
        self._arguments = (images, gradient)
        self._clients = state.clients
        steps = functools.partial(_steps, experiment, options.steps)
        began = time.perf_counter()
        self._run = (
            jax.jit(steps, donate_argnums=0).lower(self._clients, *self._arguments).compile()
        )
        self.facts["compile_seconds"] = time.perf_counter() - began
        self.facts["device_kind"] = jax.devices()[0].device_kind
        self.facts["versions"] = {"jax": jax.__version__}

    def run(self) -> float:
        """Seconds of one call."""
        began = time.perf_counter()
        self._clients = self._run(self._clients, *self._arguments)
        jax.block_until_ready(self._clients)
        return time.perf_counter() - began


def _forwards(experiment: Experiment) -> list[Any]:
    """The forward passes of the only width config."""
    pruner = experiment.spec.pruner
    return [pruner.forwards[i] for i in pruner.width_configs[0]]


def _steps(experiment: Experiment, count: int, clients: Any, images: Any, gradient: Any) -> Any:
    """Clients after `count` steps on the same images and gradients at the cut."""
    spec, forwards, key = experiment.spec, _forwards(experiment), experiment.key

    def step(clients: Any, number: Any) -> tuple[Any, None]:
        weights = jnp.full(spec.participants, 1 / spec.participants)
        keys = jax.random.split(key, spec.slots.num_slots)
        x = Exchange(spec, experiment.data, key, key, keys, number, forwards, weights, None)
        clients, _, client_vjp = client_forward(x, clients, images)
        return client_step(x, clients, client_vjp(gradient)), None

    return lax.scan(step, clients, jnp.arange(count, dtype=jnp.int32))[0]


def _smashed_shape(experiment: Experiment) -> tuple[int, ...]:
    """Shape `[B, ...]` of a client's smashed activation."""
    spec, initial = experiment.spec, experiment.initial
    params, stats = initial.params[: spec.cut], initial.stats[: spec.cut]
    return smashed_shape(spec, params, stats, experiment.image.shape).shape


def costs(experiment: Experiment, state: Any) -> dict[str, float]:
    """Arithmetic, FLOPs, bytes and memory of the first client."""
    spec, image = experiment.spec, experiment.image.shape
    client = jax.tree.map(lambda x: x[0], state.clients)
    kept = spec.pruner.kept(client.masks).params
    if kept is None:
        kept = jax.tree.map(lambda w: jnp.ones(w.shape, bool), client.params)
    parameters = sum(int(mask.sum()) for mask in jax.tree.leaves(kept))
    cut_mask = spec.pruner.cut_channel_mask(client.masks)
    sent_fraction = 1.0 if cut_mask is None else float(jnp.mean(cut_mask, dtype=jnp.float32))
    _, down = jax.jit(functools.partial(start_period, spec))(experiment.key, state)
    flops = product_flops(spec.model[: spec.cut], Variables(client.params, client.stats), image)
    return {
        "arithmetic": sum(
            sum(layer_flops) * _kept_fraction(masks)
            for layer_flops, masks in zip(flops, kept, strict=True)
        ),
        **_flops_and_memory(experiment, client),
        "bytes": 8 * sent_fraction * math.prod(_smashed_shape(experiment))
        + int(down[0])
        + 4 * parameters,
    }


def _kept_fraction(masks: Any) -> float:
    """Fraction of the kernel weights of a layer that are kept."""
    kernels = [mask for mask in jax.tree.leaves(masks) if mask.ndim > 1]
    entries = sum(mask.size for mask in kernels)
    return sum(int(mask.sum()) for mask in kernels) / max(1, entries)


def _flops_and_memory(experiment: Experiment, client: Any) -> dict[str, float]:
    """One client's FLOPs by XLA's cost analysis, and bytes that its backward pass keeps."""
    spec, forward = experiment.spec, _forwards(experiment)[0]
    shape = (spec.batch_size, *experiment.image.shape)

    def run(client: Any, images: Any) -> Any:
        return forward_one(spec, forward, client, images, experiment.key)

    def both(client: Any, images: Any) -> Any:
        y, vjp, stats = run(client, images)
        return y, vjp(y), stats

    with mock.patch.object(blocks, "conv_general_dilated", lax.conv_general_dilated):
        lowered = jax.jit(both).lower(client, jax.ShapeDtypeStruct(shape, jnp.float32))
    _, vjp, _ = jax.eval_shape(run, client, jax.ShapeDtypeStruct(shape, jnp.float32))
    kept_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(vjp))
    analysis: Any = lowered.cost_analysis()
    return {"flops": analysis["flops"], "memory": kept_bytes}


def main(_: list[str]) -> None:
    """Measures and prints."""
    clients, batch_size = _SIZES[_MODEL.value]
    dense = Options(
        _MODEL.value,
        clients=_CLIENTS.value or clients,
        batch_size=_BATCH_SIZE.value or batch_size,
        cut=_CUT.value,
        steps=_STEPS.value,
    )
    options = [
        dataclasses.replace(dense, prune_kind=kind, prune_rate=rate) for kind, rate in SETTINGS
    ]
    makers = [functools.partial(ClientLayers, setting) for setting in options]
    results = alternate(makers, _REPEATS.value)
    cut = dense.cut or MODELS[dense.model].default_cut
    print(f"{dense.model} cut after {cut}, {dense.clients} clients x {dense.batch_size}")
    print(f"{'':<14}" + "".join(f"{name:>12}" for name in RATIOS) + f"{'s/step':>10}")
    for result in results:
        result["seconds"] = statistics.median(result["times"]) / dense.steps
        ratios = [result[name] / results[0][name] for name in RATIOS]
        name = f"{result['prune_kind']} {result['prune_rate']:g}"
        print(
            f"{name:<14}" + "".join(f"{r:>12.3f}" for r in ratios) + f"{result['seconds']:>10.4f}"
        )
    for result in results:
        print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
