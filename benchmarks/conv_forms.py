"""Which form of a 3x3 convolution is fastest for which shape.

    python benchmarks/conv_forms.py

The thresholds of jfedsl/nn/convolution.py rest on the results. Forms, each inside `lax.map`, as in
training:

- `canonical`: lax's channels-last convolution; for gradients on explicitly transposed operands;
- `patches`: one matrix product of all shifted copies, side by side, with the kernel;
- `product`: one matrix product of all input pixels with all output pixels, on 2x2 maps;
- `pairs`: two neighbouring pixels as one;
- `tiles`: Winograd's tiles;
- `N parts`, for weight gradients: the canonical form with the batch in 2 to 16 parts.

Prints GFLOP/s as a table and one JSON line a shape. A multiply-add counts as 2 FLOPs; every form is
rated by the 9 products of the definition, whatever it computes.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import Array, lax

from jfedsl.nn import conv_forms, convolution, winograd
from jfedsl.nn.conv_forms import Window

_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls of each form.", lower_bound=3)

Form = Callable[[Array, Array], Array]
_SAME = ((1, 1), (1, 1))
_WINDOW = Window((1, 1), _SAME, (1, 1), (1, 1))


class Shape(NamedTuple):
    """Shape of a 3x3 convolution.

    Attributes:
      batch: examples.
      size: height and width.
      inputs: channels of the input.
      outputs: channels of the output.
    """

    batch: int
    size: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """FLOPs of one pass, by the definition of the convolution."""
        return 2 * self.batch * self.size**2 * 9 * self.inputs * self.outputs


SHAPES = (
    Shape(8, 32, 3, 16), Shape(8, 28, 1, 16), Shape(8, 16, 8, 16), Shape(8, 16, 16, 32),
    Shape(800, 8, 32, 32), Shape(800, 4, 32, 64), Shape(32, 2, 64, 64), Shape(8, 2, 64, 64),
    Shape(16, 32, 3, 32), Shape(32, 28, 1, 32), Shape(32, 14, 32, 64),
    Shape(16, 32, 3, 64), Shape(16, 32, 64, 64),
    Shape(16, 16, 64, 128), Shape(16, 16, 128, 128), Shape(16, 4, 512, 512),
    Shape(128, 8, 128, 256), Shape(128, 8, 256, 256), Shape(128, 4, 256, 512),
    Shape(128, 4, 512, 512), Shape(16, 2, 512, 512), Shape(128, 2, 512, 512),
)  # fmt: skip


def _shifted(x: Array) -> list[Array]:
    """`x[B, H, W, C]` shifted by each of the nine taps of a 3x3 kernel."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


def _canonical(x: Array, w: Array) -> Array:
    return conv_forms.lax_convolution(x, w, _WINDOW)


def _patches(x: Array, w: Array) -> Array:
    return jnp.concatenate(_shifted(x), axis=3) @ w.reshape(-1, w.shape[3])


def _product(x: Array, w: Array) -> Array:
    return conv_forms.as_matrix_product(x, w, _WINDOW)


def _pairs(x: Array, w: Array) -> Array:
    return conv_forms.by_pixel_pairs(x, w, _WINDOW, conv_forms.lax_convolution)


def _tiles(x: Array, w: Array) -> Array:
    return winograd.convolution(x, w, _SAME)


def _input_gradient(form: Form) -> Form:
    """The form as a gradient by the input: applied to `dy` and the flipped kernel."""
    return lambda dy, w: form(dy, jnp.flip(w, (0, 1)).swapaxes(2, 3))


def _weight_canonical(x: Array, dy: Array) -> Array:
    dw = _canonical(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3))
    return dw.transpose(1, 2, 0, 3)


def _weight_patches(x: Array, dy: Array) -> Array:
    flat = jnp.concatenate(_shifted(x), axis=3).reshape(-1, 9 * x.shape[3])
    return flat.T @ dy.reshape(-1, dy.shape[3])


def _weight_product(x: Array, dy: Array) -> Array:
    w = jnp.zeros((3, 3, x.shape[3], dy.shape[3]))
    return jax.vjp(lambda w: _product(x, w), w)[1](dy)[0]


def _weight_pairs(x: Array, dy: Array) -> Array:
    w = jnp.zeros((3, 3, x.shape[3], dy.shape[3]))
    _, vjp = jax.vjp(lambda w: conv_forms.by_pixel_pairs(x, w, _WINDOW, convolution._conv), w)
    return vjp(dy)[0]


def _weight_tiles(x: Array, dy: Array) -> Array:
    return winograd.weight_gradient(x, dy, _SAME)


def _weight_parts(count: int) -> Form:
    def form(x: Array, dy: Array) -> Array:
        parts = zip(jnp.split(x, count), jnp.split(dy, count), strict=True)
        return functools.reduce(jnp.add, (_weight_canonical(*part) for part in parts))

    return form


FORWARD: dict[str, Form] = {
    "canonical": _canonical,
    "patches": _patches,
    "product": _product,
    "pairs": _pairs,
    "tiles": _tiles,
}
FORMS: dict[str, dict[str, Form]] = {
    "forward": FORWARD,
    "input gradient": {name: _input_gradient(form) for name, form in FORWARD.items()},
    "weight gradient": {
        "canonical": _weight_canonical,
        "patches": _weight_patches,
        "product": _weight_product,
        "pairs": _weight_pairs,
        "tiles": _weight_tiles,
        **{f"{count} parts": _weight_parts(count) for count in (2, 4, 8, 16)},
    },
}


def _operands(shape: Shape, direction: str, count: int) -> tuple[Array, Array]:
    """Operands `[count, ...]` of a form, for `count` iterations of the loop."""
    batch, size, inputs, outputs = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (count, batch, size, size, inputs))
    w = jax.random.normal(keys[1], (count, 3, 3, inputs, outputs))
    dy = jax.random.normal(keys[2], (count, batch, size, size, outputs))
    return {"forward": (x, w), "input gradient": (dy, w), "weight gradient": (x, dy)}[direction]


def measure(shape: Shape, direction: str) -> dict[str, float]:
    """Median GFLOP/s of each form that the shape allows; forms are timed in turn."""
    count = max(2, min(20, int(2e9 / shape.flops)))
    operands = _operands(shape, direction, count)
    compiled = {}
    for name, form in FORMS[direction].items():
        if name.endswith("parts") and shape.batch % int(name.split()[0]):
            continue
        if name == "product" and shape.size != 2:
            continue
        loop = jax.jit(lambda *a, form=form: lax.map(lambda pair: form(*pair), a))
        compiled[name] = loop.lower(*operands).compile()
        jax.block_until_ready(compiled[name](*operands))
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(_REPEATS.value):
        for name, run in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(run(*operands))
            times[name].append(time.perf_counter() - began)
    return {n: shape.flops * count / statistics.median(t) / 1e9 for n, t in times.items()}


def main(_: list[str]) -> None:
    """Measures and prints."""
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; GFLOP/s")
    for shape in SHAPES:
        print(f"\n{shape.batch} x {shape.size}x{shape.size}, {shape.inputs} to {shape.outputs}")
        # Up to 3 channels are images, whose gradient no layer needs.
        directions = [d for d in FORMS if d != "input gradient" or shape.inputs > 3]
        rates = {direction: measure(shape, direction) for direction in directions}
        for direction, of_forms in rates.items():
            print(f"  {direction:<16}" + "".join(f"{n} {r:.0f}  " for n, r in of_forms.items()))
        print(json.dumps({**shape._asdict(), "gflops_per_second": rates}))


if __name__ == "__main__":
    app.run(main)
