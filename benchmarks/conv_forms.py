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

import json
import statistics
import time
from typing import NamedTuple

import jax
from absl import app, flags
from conv_ops import FORMS
from jax import Array, lax

_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls of each form.", lower_bound=3)


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
