"""Speed of jfedsl/nn/convolution.py and pooling.py against lax and Flax, over many clients.

    python benchmarks/convolution.py
    python benchmarks/convolution.py --clients=100 --cases=small

Each case is one 3x3 convolution or 2x2 pooling, forward pass and gradients by both operands. Forms
`in a loop` compute client after client inside `lax.map`; `ours` is this package's, `plain` that of
lax or Flax. `ours, twice` is the derivative of the squared gradient, reverse over reverse.
`vmapped` forms compute all clients at once: `plain vmapped` becomes a grouped convolution, `patches
vmapped` is one batched product of all shifted copies, `taps vmapped` nine batched products, one for
each tap of the kernel. Forms are timed in turn. Prints a table and one JSON line a case; a
multiply-add counts as 2 FLOPs, taps on padding included.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import app, flags, logging
from conv_ops import CASES, Case, Op, our_conv, patches, plain_conv, taps
from flax import linen as nn
from jax import Array, lax

from jfedsl.nn import pooling

_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls of each form.", lower_bound=3)
_CLIENTS = flags.DEFINE_integer("clients", 8, "Clients in the loop.", lower_bound=1)
_CASES = flags.DEFINE_enum("cases", "vgg", ["vgg", "small"], "Model whose layers are timed.")


def _plain_pool(x: Array, w: Array) -> Array:
    return nn.max_pool(x, (2, 2), (2, 2))


def _our_pool(x: Array, w: Array) -> Array:
    return pooling.max_pool(x)


def _looped(op: Op) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Gradients of a sum of squares for one client after the other, compiled."""

    def one_client(arguments: tuple[Array, Array]) -> tuple[Array, Array]:
        return jax.grad(lambda x, w: jnp.sum(op(x, w) ** 2), (0, 1))(*arguments)

    return jax.jit(lambda x, w: lax.map(one_client, (x, w)))


def _twice(op: Op) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Gradients of the squared length of that gradient, one client after the other."""

    def squared(x: Array, w: Array) -> Array:
        gradients = jax.grad(lambda x, w: jnp.sum(op(x, w) ** 2), (0, 1))(x, w)
        return sum((jnp.sum(g**2) for g in gradients), jnp.zeros(()))

    return jax.jit(lambda x, w: lax.map(lambda pair: jax.grad(squared, (0, 1))(*pair), (x, w)))


def _vmapped(op: Op) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Gradients of a sum of squares for all clients at once; convolutions become grouped ones."""
    return jax.jit(jax.vmap(jax.grad(lambda x, w: jnp.sum(op(x, w) ** 2), (0, 1))))


class Result(NamedTuple):
    """Timings of a case.

    Attributes:
      case: what was timed.
      flops: of one call.
      seconds: of each timed call, by form.
    """

    case: Case
    flops: int
    seconds: dict[str, list[float]]

    def to_json(self, clients: int) -> str:
        """One line with medians, extremes, settings and the device."""
        spread = {
            name: {"median": statistics.median(s), "least": min(s), "greatest": max(s)}
            for name, s in self.seconds.items()
        }
        settings = {"clients": clients, "dtype": "float32", "flops": self.flops, "seconds": spread}
        device = {"device_kind": jax.devices()[0].device_kind, "jax": jax.__version__}
        return json.dumps({**self.case._asdict(), **settings, **device})


def measure(case: Case, clients: int, repeats: int) -> Result:
    """Times the forms in turn, after a warm-up."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (clients, case.batch, case.size, case.size, case.inputs))
    w = jax.random.normal(keys[1], (clients, 3, 3, case.inputs, max(case.channels, 1)))
    plain, ours = (plain_conv, our_conv) if case.channels else (_plain_pool, _our_pool)
    forms = {
        "ours in a loop": _looped(ours),
        "ours, twice": _twice(ours),
        "plain in a loop": _looped(plain),
        "ours vmapped": _vmapped(ours),
        "plain vmapped": _vmapped(plain),
    }
    if case.channels:
        forms |= {"patches vmapped": _vmapped(patches), "taps vmapped": _vmapped(taps)}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for form in forms.values():
        jax.block_until_ready(form(x, w))
    for _ in range(repeats):
        for name, form in forms.items():
            began = time.perf_counter()
            jax.block_until_ready(form(x, w))
            seconds[name].append(time.perf_counter() - began)
    flops = 3 * 2 * 9 * case.inputs * case.channels * case.size**2 * case.batch * clients
    return Result(case, flops, seconds)


def main(_: list[str]) -> None:
    """Measures every case."""
    logging.set_verbosity(logging.ERROR)
    results = [measure(case, _CLIENTS.value, _REPEATS.value) for case in CASES[_CASES.value]]
    print(f"{'case':<26}{'form':<18}{'ms':>9}{'GFLOP/s':>9}{'times ours':>12}")
    for case, flops, seconds in results:
        least = statistics.median(seconds["ours in a loop"])
        for name, measured in seconds.items():
            median = statistics.median(measured)
            rate = f"{flops / median / 1e9:.0f}" if flops and "twice" not in name else "-"
            row = f"{case.name:<26}{name:<18}{median * 1e3:>9.1f}{rate:>9}{median / least:>12.2f}"
            print(row)
    for result in results:
        print(result.to_json(_CLIENTS.value))


if __name__ == "__main__":
    app.run(main)
