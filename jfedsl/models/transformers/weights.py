"""Linen modules whose weights are parameters or frozen, and may have adapters beside them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jfedsl.models.transformers.adapter import Form
from jfedsl.nn import weight_only
from jfedsl.nn.weight_only import decode, group_size

_DEVIATION = 0.02  # of random initial weights, as the authors of BERT and GPT-2 have it
Initial = Callable[..., Array]


def weight(
    module: nn.Module, trained: bool, name: str, initial: Initial, shape: tuple[int, ...],
    dtype: Any = jnp.float32,
) -> Array:  # fmt: skip
    """A parameter of a module, or a frozen variable of it.

    Args:
      module: inside of its `__call__`.
      trained: whether it is a parameter.
      name: unique in the module.
      initial: `(key, shape, dtype) -> values`.
      shape: of the array.
      dtype: of the array.
    """
    if trained:
        value: Array = module.param(name, initial, shape, dtype)
        return value
    frozen: Array = module.variable(
        "frozen", name, lambda: initial(module.make_rng("params"), shape, dtype)
    ).value
    return frozen


class Projection(nn.Module):
    """`x @ kernel + bias`, and the product of an adapter's two factors if it has any.

    Attributes:
      features: width of the output.
      form: how it is stored and trained.
      use_bias: whether it has a bias.
    """

    features: int
    form: Form = Form()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Of `x[..., D]`: `[..., features]`."""
        form, width = self.form, x.shape[-1]
        y = product(self, "kernel", (width, self.features), form, by_column=True, x=x)
        if self.use_bias:
            shape = (self.features,)
            bias = weight(self, form.trained, "bias", nn.initializers.zeros, shape)
            y = y + _spread(bias, y)
        if not form.rank:
            return y
        draw = nn.initializers.he_uniform()
        shapes = (width, form.rank), (form.rank, self.features)
        a = weight(self, not form.fixed_a, "lora_a", draw, shapes[0])
        b = weight(self, True, "lora_b", nn.initializers.zeros, shapes[1])
        scale = jnp.asarray(form.alpha / form.rank, x.dtype)
        return y + scale * ((x @ a.astype(x.dtype)) @ b)


def product(
    module: nn.Module, name: str, shape: tuple[int, int], form: Form, by_column: bool, x: Array
) -> Array:
    """`x` times a matrix of a module, in the dtype of `x`, decoded if it is stored in few bits.

    Args:
      module: inside of its `__call__`.
      name: of the matrix where it is stored as it is; else `_codes` and `_scales` are added.
      shape: of the matrix.
      form: how it is stored and trained.
      by_column: whether the matrix is a kernel `[D, R]`; else it is a table `[R, D]`, of which each
        row is multiplied. Codes are always of the rows of a table.
      x: `[..., D]`.

    Returns:
      `[..., R]`.
    """
    normal = nn.initializers.normal(_DEVIATION)
    if form.trained:
        matrix = weight(module, True, name, normal, shape).astype(x.dtype)
        return x @ (matrix if by_column else matrix.T)
    if form.storage in ("float32", "bfloat16"):
        matrix = weight(module, False, name, normal, shape, jnp.dtype(form.storage))
        return weight_only.product(x, (matrix,), by_column)
    rows, width = shape[::-1] if by_column else shape
    return weight_only.product(x, stored(module, name, rows, width, form.storage), by_column)


def stored(
    module: nn.Module, name: str, rows: int, width: int, storage: str
) -> tuple[Array, Array]:
    """Frozen codes and scales of a matrix of a module, see `nn.weight_only`."""
    packed = storage == "int4"
    shape, dtype = (rows, -(-width // 2) if packed else width), jnp.uint8 if packed else jnp.int8
    codes = weight(module, False, f"{name}_codes", _random_codes, shape, dtype)
    groups = (rows, width // group_size(width))
    scales = weight(module, False, f"{name}_scales", _flat_scales, groups)
    return codes, scales


def _random_codes(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    limits = jnp.iinfo(dtype)
    return jax.random.randint(key, shape, limits.min, limits.max, dtype)


def _flat_scales(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    del key
    return jnp.full(shape, _DEVIATION / 64, dtype)


class Embedding(nn.Module):
    """Rows of a table by their numbers.

    Attributes:
      rows: how many there are.
      width: D, of a row.
      form: how the table is stored and trained.
    """

    rows: int
    width: int
    form: Form = Form()

    @nn.compact
    def __call__(self, ids: Array, dtype: Any = jnp.float32) -> Array:
        """Of int32 `[...]`: `[..., D]`."""
        form, shape = self.form, (self.rows, self.width)
        if form.trained or form.storage in ("float32", "bfloat16"):
            kept = jnp.float32 if form.trained else jnp.dtype(form.storage)
            normal = nn.initializers.normal(_DEVIATION)
            whole = weight(self, form.trained, "embedding", normal, shape, kept)
            return jnp.take(whole, ids, axis=0, mode="clip").astype(dtype)
        # Only the rows that are asked for are decoded.
        codes, scales = stored(self, "embedding", *shape, form.storage)
        codes, scales = (jnp.take(x, ids, axis=0, mode="clip") for x in (codes, scales))
        return decode(codes, scales, self.width, dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, in float32 (arXiv 1607.06450).

    Attributes:
      trained: whether scale and bias are parameters.
      epsilon: added to the variance.
    """

    trained: bool
    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Of `x[..., D]`: the same shape."""
        shape = (x.shape[-1],)
        scale = weight(self, self.trained, "scale", nn.initializers.ones, shape)
        bias = weight(self, self.trained, "bias", nn.initializers.zeros, shape)
        centred = x.astype(jnp.float32)
        centred -= jnp.mean(centred, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        y = centred * jnp.reciprocal(jnp.sqrt(variance + self.epsilon))
        return (y * _spread(scale, y) + _spread(bias, y)).astype(x.dtype)


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, in float32 (arXiv 1910.07467).

    Attributes:
      trained: whether the scale is a parameter.
      epsilon: added to the mean square.
    """

    trained: bool
    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Of `x[..., D]`: the same shape."""
        scale = weight(self, self.trained, "scale", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        y = wide * jnp.reciprocal(jnp.sqrt(mean_square + self.epsilon))
        return (y * _spread(scale, y)).astype(x.dtype)


def _spread(vector: Array, x: Array) -> Array:
    """A vector `[D]` in the rank and dtype of `x[..., D]`."""
    return vector.reshape(*(1,) * (x.ndim - 1), -1).astype(x.dtype)
