"""Averages of clients' low-rank adapters, whose factors are not like other weights.

A client n has the factors A_n `[in, r_n]` and B_n `[r_n, out]` of a projection. What they add to
its kernel is their product, so what an average is after is the mean of products,
M = sum_n a_n A_n B_n:

- avg: both factors apart, missing ranks being 0. Their product is not M.
- freeze: A is common and fixed, so the mean of B gives M exactly (arXiv 2403.12313).
- svd: the factors of M, cut to the largest rank by singular values (arXiv 2402.11505).
- stack: A_n and a_n B_n of all clients side by side are factors of M, of rank sum_n r_n (arXiv
  2409.05976). Clients add their product to their kernels and begin new adapters.
"""

from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.keys import fold

NAMES = ("lora_a", "lora_b")
_SMALLEST = 1e-6  # of the largest singular value; what is below is rounding


class AdapterRule(NamedTuple):
    """How clients' adapters are averaged.

    Attributes:
      kind: avg, freeze, svd or stack.
      scale: of the products of factors, alpha / R.
      stacked_ranks: sum over clients of their ranks.
    """

    kind: str
    scale: float
    stacked_ranks: int

    @property
    def stacks(self) -> bool:
        """Whether products are added to clients' kernels, and adapters begin anew."""
        return self.kind == "stack"

    @property
    def reports_error(self) -> bool:
        """Whether clients go on with another product than the mean of products."""
        return self.kind in ("avg", "svd")


class Factors(NamedTuple):
    """The factors of one adapter, or of many.

    Attributes:
      a: `[..., in, R]`.
      b: `[..., R, out]`.
    """

    a: Array
    b: Array


def zero_padded(rows: Any, kept: Any) -> Any:
    """Models with 0 for the ranks that a client does not have."""
    if kept is None:
        return rows
    return jax.tree.map(lambda x, there: jnp.where(there, x, 0.0), rows, kept)


def stacked(factors: Factors, weights: Array) -> Factors:
    """Factors `[in, P R]` and `[P R, out]` of the mean of products.

    Args:
      factors: of clients, `[P, ...]`, 0 for the ranks that one does not have.
      weights: float32 `[P]`.
    """
    there = (weights > 0)[:, None, None]  # padding slots may hold anything
    a = jnp.where(there, factors.a, 0.0)
    b = jnp.where(there, weights[:, None, None] * factors.b, 0.0)
    return Factors(jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1), b.reshape(-1, b.shape[2]))


def decomposed(factors: Factors) -> tuple[Array, Array, Array]:
    """The singular value decomposition of a product, U `[in, k]`, S `[k]` and V `[k, out]`.

    Where the inner size is the smallest, of a small matrix between two orthogonal ones. The largest
    entry of each column of U is positive, so that rounding does not choose the signs.
    """
    a, b = factors
    if a.shape[1] >= min(a.shape[0], b.shape[1]):
        u, s, v = jnp.linalg.svd(a @ b, full_matrices=False)
    else:
        (q_a, r_a), (q_b, r_b) = jnp.linalg.qr(a), jnp.linalg.qr(b.T)
        u, s, v = jnp.linalg.svd(r_a @ r_b.T, full_matrices=False)
        u, v = q_a @ u, v @ q_b.T
    largest = jnp.argmax(jnp.abs(u), axis=0)
    signs = jnp.where(u[largest, jnp.arange(s.size)] < 0, -1.0, 1.0)
    return u * signs[None], s, v * signs[:, None]


def truncated(factors: Factors, before: Factors) -> Factors:
    """The product of stacked factors, cut to the rank of those before.

    A direction that the product does not have keeps its old column of A and has 0 in B: with 0 in
    both it could never be trained again.
    """
    rank = before.a.shape[1]
    u, s, v = decomposed(factors)
    lacking = max(0, rank - s.size)
    u, v = (jnp.pad(u, ((0, 0), (0, lacking))), jnp.pad(v, ((0, lacking), (0, 0))))
    s = jnp.pad(s, (0, lacking))[:rank]
    has = s > _SMALLEST * s[0]
    root = jnp.sqrt(jnp.where(has, s, 0.0))
    a = jnp.where(has[None], u[:, :rank] * root[None], before.a)
    return Factors(a, v[:rank] * root[:, None])


def with_truncated_products(mean: Any, before: Any, rows: Any, weights: Array) -> Any:
    """The mean of clients' models with the factors of adapters by svd.

    Args:
      mean: of all other weights.
      before: the model as of the last average.
      rows: clients' models, `[P, ...]`, 0 for the ranks that one does not have.
      weights: float32 `[P]`, sum 1, or all 0 where no client is to be averaged.
    """
    there = jnp.sum(weights) > 0
    clients, new = adapters_of(rows), {}
    for path, adapter in adapters_of(before).items():
        old = factors_of(adapter)
        cut = truncated(stacked(factors_of(clients[path]), weights), old)
        a, b = (jnp.where(there, x, y) for x, y in zip(cut, old, strict=True))
        new[path] = {"lora_a": a, "lora_b": b}
    return with_parts(mean, new)


def adapted_kernels(params: Any, frozen: Any) -> dict[str, Array]:
    """The frozen kernels beside adapters, by path."""

    def kernel(path: str) -> Array:
        first, *names = path.split("/")
        of_projection: Array = reduce(getitem, names, frozen[int(first)])["kernel"]
        return of_projection

    return {path: kernel(path) for path in adapters_of(params)}


def with_kernels(frozen: Any, kernels: Mapping[str, Array] | None) -> Any:
    """Frozen variables with other kernels at some paths."""
    if not kernels:
        return frozen
    return with_parts(frozen, {path: {"kernel": kernel} for path, kernel in kernels.items()})


def with_products(
    kernels: Mapping[str, Array], rows: Any, weights: Array, scale: float
) -> dict[str, Array]:
    """Kernels with the means of the products of adapters added.

    Args:
      kernels: by path, `[in, out]`.
      rows: clients' models, `[P, ...]`, 0 for the ranks that one does not have.
      weights: float32 `[P]`, sum 1, or all 0 where no client is to be averaged.
      scale: of the products.
    """

    def product(adapter: Any) -> Array:
        a, b = stacked(factors_of(adapter), weights)
        return a @ b

    adapters = adapters_of(rows)
    return {path: kernels[path] + scale * product(x) for path, x in adapters.items()}


def without_products(params: Any) -> Any:
    """Parameters whose adapters have products of 0."""
    adapters = adapters_of(params)
    zeros = {path: {"lora_b": jnp.zeros_like(x["lora_b"])} for path, x in adapters.items()}
    return with_parts(params, zeros)


def drawn_anew(params: Any, key: Array) -> Any:
    """Parameters with new first factors of adapters, drawn as those of a new model."""
    draw, new = jax.nn.initializers.he_uniform(), {}
    for n, (path, adapter) in enumerate(adapters_of(params).items()):
        a = adapter["lora_a"]
        new[path] = {"lora_a": draw(fold(key, n), a.shape, a.dtype)}
    return with_parts(params, new)


def relative_error(mean: Any, rows: Any, kept: Any, weights: Array) -> Array:
    """How far what clients go on with is from the mean of products, float32.

    The root of the weighted mean over clients of the squared Frobenius distance, over all adapters,
    relative to the norm of the mean of products; 0 where that is 0.

    Args:
      mean: the model after averaging.
      rows: clients' models before it, `[P, ...]`, 0 for the ranks that one does not have.
      kept: bools like `rows`: the ranks that a client has; None: all have all.
      weights: float32 `[P]`, sum 1.
    """
    distances, norms = [], []
    clients, ranks = adapters_of(rows), {} if kept is None else adapters_of(kept)
    for path, average in adapters_of(mean).items():
        target = stacked(factors_of(clients[path]), weights)
        product = target.a @ target.b

        def distance(kept: Any, average: Any = average, product: Array = product) -> Array:
            a, b = factors_of(zero_padded(average, kept))
            return jnp.sum(jnp.square(a @ b - product))

        if kept is None:
            distances.append(distance(None))
        else:
            each = jax.lax.map(distance, ranks[path])
            distances.append(jnp.sum(jnp.where(weights > 0, weights * each, 0.0)))
        norms.append(jnp.sum(jnp.square(product)))
    norm = jnp.sum(jnp.stack(norms))
    squared = jnp.sum(jnp.stack(distances)) / jnp.where(norm > 0, norm, 1.0)
    return jnp.where(norm > 0, jnp.sqrt(squared), 0.0)


def factors_of(tree: Mapping[str, Any]) -> Factors:
    """The factors among the parameters of a projection."""
    return Factors(tree["lora_a"], tree["lora_b"])


def adapters_of(params: Any) -> dict[str, Any]:
    """The parameters of projections with adapters by path, such as `1/attention/q`."""
    found: dict[str, Any] = {}

    def look(part: Any, path: str) -> None:
        if not isinstance(part, Mapping):
            return
        if "lora_a" in part:
            found[path] = part
        else:
            for name, inner in part.items():
                look(inner, f"{path}/{name}")

    for n, layer in enumerate(params):
        look(layer, str(n))
    return found


def with_parts(variables: Any, new: Mapping[str, Mapping[str, Array]]) -> Any:
    """Variables of a model with new arrays, by name, in the dicts at some paths."""

    def within(part: Any, path: str) -> Any:
        if not isinstance(part, Mapping):
            return part
        inner = {name: within(value, f"{path}/{name}") for name, value in part.items()}
        return {**inner, **new.get(path, {})}

    return tuple(within(layer, str(n)) for n, layer in enumerate(variables))


def without_adapters(params: Any) -> Any:
    """The parameters without the factors of adapters."""

    def within(part: Any) -> Any:
        if not isinstance(part, Mapping):
            return part
        left_out = NAMES if "lora_a" in part else ()
        return {name: within(value) for name, value in part.items() if name not in left_out}

    return tuple(map(within, params))


def stacked_entries(rule: AdapterRule, params: Any) -> int:
    """Entries of the factors of all clients, which each of them is sent where they are stacked."""
    adapters = map(factors_of, adapters_of(params).values())
    return rule.stacked_ranks * sum(x.a.shape[0] + x.b.shape[1] for x in adapters)
