"""Part of `accelerator.py` about numerics: every form against sums in float64 on the host."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from accelerator_kernels import client_forms, directions, operands
from accelerator_report import Entry, Measure
from accelerator_worker import Settings
from conv_ops import FORMS, Case, our_conv, taps
from flax import linen as nn
from jax import Array

from jfedsl.nn.int8 import int8_backward
from jfedsl.nn.platform import traced_for

_SHAPES = (
    Case("few channels", 8, 16, 3, 16),
    Case("map smaller than kernel", 16, 2, 64, 64),
    Case("many channels", 8, 8, 128, 256),
)
_QUICK_SHAPES = (Case("map smaller than kernel", 2, 2, 4, 4),)
_CLIENTS, _OF_CLIENTS = 2, "clients, "
# Of the greatest entry. Sums of float32 products round by some 1e-7 a term; float32 as set may
# take products in fewer bits, 10 of them in TF32.
_TARGETS = {"float32": 1e-5, "float32 as set": 5e-3}
_INT8_TARGET = 1e-6

Arrays = dict[str, np.ndarray]
Forms = Callable[[Array, Array, Array], dict[str, Array]]


def numerics(settings: Settings) -> Iterator[Entry]:
    """The greatest relative error of each form over all shapes, of int8 and of convolutions."""
    yield _int8(long=133_145 if not settings.quick else 64)
    shapes = _QUICK_SHAPES if settings.quick else _SHAPES
    for precision, target in _TARGETS.items():
        context: Any = contextlib.nullcontext()
        if precision == "float32":
            context = jax.default_matmul_precision(precision)
        with context:
            errors = _errors(shapes, _all_forms if precision == "float32" else _of_all_clients)
        measures = [
            Measure(f"relative error, {name}", error, target, at_most=True)
            for name, error in errors.items()
        ]
        yield Entry(f"convolutions, {precision}", measures, {"shapes": [*map(list, shapes)]})


def _errors(shapes: tuple[Case, ...], forms: Forms) -> dict[str, float]:
    """By direction and form, over those shapes that a form can compute."""
    errors: dict[str, float] = {}
    for case in shapes:
        arrays = operands(case, _CLIENTS)
        exact = _exact(*(np.asarray(a, np.float64) for a in arrays))
        for name, result in jax.jit(forms)(*arrays).items():
            truth = exact[name.partition(":")[0]]
            truth = truth if _OF_CLIENTS in name else truth[:1]
            errors[name] = max(errors.get(name, 0.0), _relative_error(result, truth))
    return errors


def _all_forms(x: Array, w: Array, dy: Array) -> dict[str, Array]:
    """The result of each form, in one program: of the first client, or of all clients at once."""
    results = _of_all_clients(x, w, dy)
    of_direction = {
        "forward": (x[0], w[0]), "input gradient": (dy[0], w[0]), "weight gradient": (x[0], dy[0])
    }  # fmt: skip
    for direction, pair in of_direction.items():
        for name, form in FORMS[direction].items():
            if _suits(name, x):
                results[f"{direction}: {name}"] = form(*pair)
    return results


def _of_all_clients(x: Array, w: Array, dy: Array) -> dict[str, Array]:
    """The result of each form for clients, among them the default on accelerators."""
    results: dict[str, Array] = {}
    for name, by_direction in {**client_forms(), "taps": directions(taps)}.items():
        for direction, run in by_direction.items():
            results[f"{direction}: {_OF_CLIENTS}{name}"] = run(x, w, dy)
    for direction, run in directions(our_conv).items():  # the default on accelerators, on CPU too
        results[f"{direction}: {_OF_CLIENTS}product"] = traced_for("gpu", run)(x, w, dy)
    return results


def _suits(form: str, x: Array) -> bool:
    """Whether a form can compute `x[C, B, H, W, Cin]`: products need small maps, parts a batch."""
    if form.endswith("parts"):
        return x.shape[1] % int(form.split()[0]) == 0
    return form != "product" or x.shape[2] == 2


def _exact(x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> Arrays:
    """The convolution of all clients and its two gradients, in float64."""
    shifted = _shifted(x)
    flipped = w[:, ::-1, ::-1].swapaxes(3, 4)
    dw = np.einsum("ijcbhwx,cbhwy->cijxy", shifted, dy, optimize=True)
    return {
        "forward": np.einsum("ijcbhwx,cijxy->cbhwy", shifted, w, optimize=True),
        "input gradient": np.einsum("ijcbhwx,cijxy->cbhwy", _shifted(dy), flipped, optimize=True),
        "weight gradient": dw,
    }


def _shifted(x: np.ndarray) -> np.ndarray:
    """`x[C, B, H, W, K]` under each tap of a 3x3 kernel: `[3, 3, C, B, H, W, K]`."""
    height, width = x.shape[2:4]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    return np.stack(
        [
            np.stack([padded[:, :, i : i + height, j : j + width] for j in range(3)])
            for i in range(3)
        ]
    )


def _int8(long: int) -> Entry:
    """Backward passes in int8 of operands that are codes, whose products have no other error.

    Args:
      long: terms of the longest sum, more than int32 sums without overflow.
    """
    modules: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "convolution of few channels": (nn.Conv(8, (3, 3), use_bias=False), (4, 8, 8, 3)),
        "convolution of many channels": (nn.Conv(32, (3, 3), use_bias=False), (4, 8, 8, 32)),
        "dense": (nn.Dense(16, use_bias=False), (32, 24)),
        "dense, long sums": (nn.Dense(2, use_bias=False), (long, 2)),
    }
    measures = []
    for name, (module, shape) in modules.items():
        for direction, error in _int8_errors(module, shape).items():
            quantity = f"relative error, {direction}: {name}"
            measures.append(Measure(quantity, error, _INT8_TARGET, at_most=True))
    return Entry("int8", measures, {"long_sum": long})


def _int8_errors(module: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """The greatest relative error of both gradients of a layer whose input has this shape."""
    x = _codes(1, shape)
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    w = _codes(2, params["params"]["kernel"].shape)
    dy = _codes(3, jax.eval_shape(module.apply, params, x).shape)

    def backward(x: Array, w: Array, dy: Array) -> tuple[Array, Array]:
        with int8_backward(jax.random.key(0)):
            vjp = jax.vjp(lambda x, w: module.apply({"params": {"kernel": w}}, x), x, w)[1]
        return vjp(dy)

    found = jax.jit(backward)(x, w, dy)
    return {
        direction: _relative_error(result, truth)
        for (direction, truth), result in zip(
            _exact_gradients(x, w, dy).items(), found, strict=True
        )
    }


def _exact_gradients(x: Array, w: Array, dy: Array) -> Arrays:
    """Of one layer, in float64: those of a convolution, or of a product of matrices."""
    a, b, c = (np.asarray(array, np.float64) for array in (x, w, dy))
    if a.ndim == 2:
        return {"input gradient": c @ b.T, "weight gradient": a.T @ c}
    exact = _exact(a[None], b[None], c[None])
    return {name: exact[name][0] for name in ("input gradient", "weight gradient")}


def _relative_error(result: Array, truth: np.ndarray) -> float:
    """The greatest error, of the greatest entry."""
    difference = np.asarray(result, np.float64).reshape(truth.shape) - truth
    return float(np.abs(difference).max() / np.abs(truth).max())


def _codes(seed: int, shape: tuple[int, ...]) -> Array:
    """Whole numbers from -127 to 127, both taken, so that their scale as codes is 1."""
    values = np.random.default_rng(seed).integers(-127, 128, shape)
    values.flat[0] = 127
    return jnp.asarray(values, jnp.float32)
