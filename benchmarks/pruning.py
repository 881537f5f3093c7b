"""What the client part costs at each pruning rate: arithmetic, time, bytes and memory.

    python benchmarks/pruning.py --model=vgg11

Times the forward and backward pass of all clients' layers, without norm, and their step, in a loop
over steps as in training; each setting runs in a process of its own, and they take turns. Prints a
table and one JSON line a setting. Ratios are to the dense client part:

- arithmetic: of products with the weights a client has, padding taps included;
- FLOPs: of the layers of one client as they run, by XLA's analysis of plain lax operations;
- time: of all clients, as they run;
- bytes: of one exchange both ways and of the model both ways;
- memory: what the backward pass of one client needs of its forward pass, weights included.
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


class ClientPart:
    """The compiled client part, ready to run."""

    def __init__(self, options: Options) -> None:
        experiment = build(config(options))
        state = experiment.init()
        self.facts = {**vars(options), **costs(experiment, state)}
        draw = jax.random.normal
        shape = _smashed(experiment)
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
        """Seconds of one call's steps."""
        began = time.perf_counter()
        self._clients = self._run(self._clients, *self._arguments)
        jax.block_until_ready(self._clients)
        return time.perf_counter() - began


def _forms(experiment: Experiment) -> list[Any]:
    """Of the only layout."""
    pruner = experiment.spec.pruner
    return [pruner.forwards[i] for i in pruner.width_configs[0]]


def _steps(experiment: Experiment, count: int, clients: Any, images: Any, gradient: Any) -> Any:
    """Clients after some steps on the same images and gradients at the cut."""
    spec, forwards, key = experiment.spec, _forms(experiment), experiment.key

    def one(clients: Any, number: Any) -> tuple[Any, None]:
        weights = jnp.full(spec.participants, 1 / spec.participants)
        keys = jax.random.split(key, spec.slots.num_slots)
        x = Exchange(spec, experiment.data, key, key, keys, number, forwards, weights, None)
        clients, _, client_vjp = client_forward(x, clients, images)
        return client_step(x, clients, client_vjp(gradient)), None

    return lax.scan(one, clients, jnp.arange(count, dtype=jnp.int32))[0]


def _smashed(experiment: Experiment) -> tuple[int, ...]:
    spec, initial = experiment.spec, experiment.initial
    own = (initial.params[: spec.cut], initial.stats[: spec.cut])
    return smashed_shape(spec, *own, experiment.image.shape).shape


def costs(experiment: Experiment, state: Any) -> dict[str, float]:
    """Arithmetic, FLOPs, bytes and memory of the first client."""
    spec, image = experiment.spec, experiment.image.shape
    client = jax.tree.map(lambda x: x[0], state.clients)
    kept = spec.pruner.kept(client.masks).params
    if kept is None:
        kept = jax.tree.map(lambda w: jnp.ones(w.shape, bool), client.params)
    parameters = sum(int(m.sum()) for m in jax.tree.leaves(kept))
    sent = spec.pruner.cut_channel_mask(client.masks)
    share = 1.0 if sent is None else float(jnp.mean(sent, dtype=jnp.float32))
    _, down = jax.jit(functools.partial(start_period, spec))(experiment.key, state)
    flops = product_flops(spec.model[: spec.cut], Variables(client.params, client.stats), image)
    return {
        "arithmetic": sum(sum(f) * _kept_share(m) for f, m in zip(flops, kept, strict=True)),
        **_of_one(experiment, client),
        "bytes": 8 * share * math.prod(_smashed(experiment)) + int(down[0]) + 4 * parameters,
    }


def _kept_share(masks: Any) -> float:
    """Of the kernels of a layer."""
    kernels = [m for m in jax.tree.leaves(masks) if m.ndim > 1]
    return sum(int(m.sum()) for m in kernels) / max(1, sum(m.size for m in kernels))


def _of_one(experiment: Experiment, client: Any) -> dict[str, float]:
    """FLOPs by XLA's analysis, and bytes that the backward pass needs."""
    spec, form = experiment.spec, _forms(experiment)[0]
    shape = (spec.batch_size, *experiment.image.shape)

    def run(client: Any, images: Any) -> Any:
        return forward_one(spec, form, client, images, experiment.key)

    def both(client: Any, images: Any) -> Any:
        y, back, stats = run(client, images)
        return y, back(y), stats

    with mock.patch.object(blocks, "conv_general_dilated", lax.conv_general_dilated):
        lowered = jax.jit(both).lower(client, jax.ShapeDtypeStruct(shape, jnp.float32))
    _, back, _ = jax.eval_shape(run, client, jax.ShapeDtypeStruct(shape, jnp.float32))
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(back))
    analysis: Any = lowered.cost_analysis()
    return {"flops": analysis["flops"], "memory": needed}


def main(_: list[str]) -> None:
    """Measures and prints."""
    clients, batch_size = _SIZES[_MODEL.value]
    plain = Options(
        _MODEL.value,
        clients=_CLIENTS.value or clients,
        batch_size=_BATCH_SIZE.value or batch_size,
        cut=_CUT.value,
        steps=_STEPS.value,
    )
    options = [
        dataclasses.replace(plain, prune_kind=kind, prune_rate=rate) for kind, rate in SETTINGS
    ]
    results = alternate([functools.partial(ClientPart, o) for o in options], _REPEATS.value)
    cut = plain.cut or MODELS[plain.model].default_cut
    print(f"{plain.model} cut after {cut}, {plain.clients} clients x {plain.batch_size}")
    print(f"{'':<14}" + "".join(f"{name:>12}" for name in RATIOS) + f"{'s/step':>10}")
    for result in results:
        result["seconds"] = statistics.median(result["times"]) / plain.steps
        ratios = [result[name] / results[0][name] for name in RATIOS]
        name = f"{result['prune_kind']} {result['prune_rate']:g}"
        print(
            f"{name:<14}" + "".join(f"{r:>12.3f}" for r in ratios) + f"{result['seconds']:>10.4f}"
        )
    for result in results:
        print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
