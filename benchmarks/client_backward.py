"""Time and memory of the client-side layers with a backward pass in int8, against float.

    python benchmarks/client_backward.py --model=small

Times the forward and backward pass of all clients' layers on random gradients at the cut, mapped
over clients as in training, in a loop over steps. The two variants run in separate processes, in
turn. On CPU int8 codes are multiplied as float32, so that int8 saves no time and adds that of
quantization. Also counts the bytes that one client's backward pass keeps of its forward pass,
weights included. Prints a table and one JSON line a case.
"""

import contextlib
import functools
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import Array, lax
from step import Options
from taking_turns import alternate

from jfedsl.models import layers
from jfedsl.models.cut import cut_index
from jfedsl.models.registry import MODELS
from jfedsl.nn.int8 import int8_backward
from jfedsl.sharding.client_map import default_chunk, map_clients

_SIZES = {"small": (100, 8), "vgg11": (8, 16), "mlp": (100, 32)}
_MODEL = flags.DEFINE_enum("model", "small", list(_SIZES), "Model.")
_CLIENTS = flags.DEFINE_integer("clients", None, "Clients; default 100, vgg11 8.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Examples per client; default by model.")
_STEPS = flags.DEFINE_integer("steps", 3, "Steps in one timed call.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Timed calls of each.", lower_bound=3)


class ClientLayers:
    """The compiled forward and backward pass of all clients' layers."""

    def __init__(self, options: Options, backward: str) -> None:
        model = MODELS[options.model].build(10, options.norm)
        self._model = model[: cut_index(model, MODELS[options.model].default_cut)]
        self._backward = backward
        images = jax.random.normal(
            jax.random.key(1), (options.clients, options.batch_size, *options.image)
        )
        keys = jax.random.split(jax.random.key(0), options.clients)
        initial = jax.vmap(lambda key: layers.init(self._model, key, images[0]).params)
        self._arguments = (jax.jit(initial)(keys), images, keys)
        of_one_client = jax.tree.map(lambda x: x[0], self._arguments)
        self.facts: dict[str, Any] = {"backward": backward, **vars(options)}
        self.facts["device_kind"] = jax.devices()[0].device_kind
        self.facts["versions"] = {"jax": jax.__version__}
        self.facts["residual_bytes"] = sum(
            leaf.size * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(jax.eval_shape(self._forward, *of_one_client)[1])
            if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        )
        chunk = default_chunk(jax.default_backend(), of_one_client[0], options.clients)
        steps = functools.partial(self._steps, chunk, options.steps)
        began = time.perf_counter()
        self._run = jax.jit(steps).lower(*self._arguments).compile()
        self.facts["compile_seconds"] = time.perf_counter() - began

    def _forward(self, params: Any, images: Array, key: Array) -> tuple[Array, Any]:
        stats: layers.Stats = tuple({} for _ in self._model)

        def run(params: Any) -> Array:
            return layers.apply(self._model, params, stats, images, True)[0]

        with int8_backward(key) if self._backward == "int8" else contextlib.nullcontext():
            return jax.vjp(run, params)

    def _steps(self, chunk: int, count: int, params: Any, images: Array, keys: Array) -> Any:
        """Parameters of all clients after `count` steps."""

        def step(params: Any, number: Array) -> tuple[Any, None]:
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            y, vjps = map_clients(self._forward, chunk)(params, images, step_keys)
            # Some gradient at the cut that XLA cannot compute beforehand.
            dy = jnp.sin(100.0 * y) / y[0].size
            gradient = map_clients(lambda vjp, dy: vjp(dy)[0], chunk)(vjps, dy)
            return jax.tree.map(lambda w, g: w - 0.01 * g, params, gradient), None

        return lax.scan(step, params, jnp.arange(count, dtype=jnp.uint32))[0]

    def run(self) -> float:
        """Seconds of one call."""
        began = time.perf_counter()
        jax.block_until_ready(self._run(*self._arguments))
        return time.perf_counter() - began


def main(_: list[str]) -> None:
    """Measures and prints."""
    clients, batch_size = _SIZES[_MODEL.value]
    options = Options(
        _MODEL.value,
        clients=_CLIENTS.value or clients,
        batch_size=_BATCH_SIZE.value or batch_size,
        steps=_STEPS.value,
    )
    makers = [functools.partial(ClientLayers, options, name) for name in ("float", "int8")]
    results = alternate(makers, _REPEATS.value)
    print(f"{options.model}, {options.clients} clients x {options.batch_size}")
    print(f"{'':<8}{'s/step':>10}{'least':>10}{'most':>10}{'over float':>12}{'kept MB':>10}")
    baseline = statistics.median(results[0]["times"])
    for result in results:
        times = sorted(seconds / options.steps for seconds in result["times"])
        median = statistics.median(times)
        print(
            f"{result['backward']:<8}{median:>10.4f}{times[0]:>10.4f}{times[-1]:>10.4f}"
            f"{median * options.steps / baseline:>12.2f}{result['residual_bytes'] / 1e6:>10.2f}"
        )
    for result in results:
        print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
