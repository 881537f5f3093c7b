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

from collections.abc import Callable, Mapping
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

    def one(mean: Any, before: Any, rows: Any) -> Any:
        old = factors_of(before)
        new = truncated(stacked(factors_of(rows), weights), old)
        there = jnp.sum(weights) > 0
        a, b = (jnp.where(there, x, y) for x, y in zip(new, old, strict=True))
        return {**mean, "lora_a": a, "lora_b": b}

    return on_adapters(one, mean, before, rows)


def adapted_kernels(params: Any, frozen: Any) -> dict[str, Array]:
    """The frozen kernels beside adapters, by their paths."""
    kernels: dict[str, Array] = {}

    def note(params: Any, path: str) -> Any:
        first, *names = path.split("/")
        module = reduce(getitem, names, frozen[int(first)])
        kernels[path] = module["kernel"]
        return params

    on_adapters(note, params, _paths(params))
    return kernels


def with_kernels(frozen: Any, kernels: Mapping[str, Array] | None) -> Any:
    """Frozen variables with other kernels at some paths."""
    if not kernels:
        return frozen

    def one(tree: Any, path: str) -> Any:
        if isinstance(tree, Mapping):
            whole = {name: one(value, f"{path}/{name}") for name, value in tree.items()}
            return {**whole, "kernel": kernels[path]} if path in kernels else whole
        return tree

    return tuple(one(tree, str(n)) for n, tree in enumerate(frozen))


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
    after: dict[str, Array] = {}

    def add(rows: Any, path: str) -> Any:
        a, b = stacked(factors_of(rows), weights)
        after[path] = kernels[path] + scale * (a @ b)
        return rows

    on_adapters(add, rows, _paths(rows))
    return after


def without_products(params: Any) -> Any:
    """Parameters whose adapters have products of 0."""
    return on_adapters(lambda pair: {**pair, "lora_b": jnp.zeros_like(pair["lora_b"])}, params)


def drawn_anew(params: Any, key: Array) -> Any:
    """Parameters with new first factors of adapters, drawn as those of a new model."""
    count = iter(range(1 << 20))

    def one(params: Any) -> Any:
        a = params["lora_a"]
        drawn = jax.nn.initializers.he_uniform()(fold(key, next(count)), a.shape, a.dtype)
        return {**params, "lora_a": drawn}

    return on_adapters(one, params)


def _paths(tree: Any, path: str = "") -> Any:
    """A tree like the first one down to its dicts, with paths in the place of those of arrays."""
    if isinstance(tree, tuple):
        return tuple(_paths(part, str(n)) for n, part in enumerate(tree))
    if "lora_a" in tree or "lora_b" in tree:
        return path
    return {
        name: _paths(value, f"{path}/{name}") if isinstance(value, Mapping) else None
        for name, value in tree.items()
    }


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

    def one(mean: Any, rows: Any, kept: Any) -> Any:
        target = stacked(factors_of(rows), weights)
        product = target.a @ target.b

        def distance(kept: Any) -> Array:
            a, b = factors_of(mean if kept is None else zero_padded(mean, kept))
            return jnp.sum(jnp.square(a @ b - product))

        if kept is None:
            distances.append(distance(None))
        else:
            each = jax.lax.map(distance, kept)
            distances.append(jnp.sum(jnp.where(weights > 0, weights * each, 0.0)))
        norms.append(jnp.sum(jnp.square(product)))
        return mean

    if kept is None:
        on_adapters(lambda mean, rows: one(mean, rows, None), mean, rows)
    else:
        on_adapters(one, mean, rows, kept)
    norm = jnp.sum(jnp.stack(norms))
    squared = jnp.sum(jnp.stack(distances)) / jnp.where(norm > 0, norm, 1.0)
    return jnp.where(norm > 0, jnp.sqrt(squared), 0.0)


def factors_of(tree: Mapping[str, Any]) -> Factors:
    """The factors among the parameters of a projection."""
    return Factors(tree["lora_a"], tree["lora_b"])


def on_adapters(function: Callable[..., Any], *trees: Any) -> Any:
    """The first tree with a function of all trees in the place of projections with adapters."""
    first = trees[0]
    if isinstance(first, Mapping):
        if "lora_a" in first:
            return function(*trees)
        return {name: on_adapters(function, *(tree[name] for tree in trees)) for name in first}
    if isinstance(first, tuple):
        return tuple(on_adapters(function, *parts) for parts in zip(*trees, strict=True))
    return first


def without_adapters(params: Any) -> Any:
    """The parameters without the factors of adapters."""
    return on_adapters(lambda tree: {n: w for n, w in tree.items() if n not in NAMES}, params)


def stacked_entries(rule: AdapterRule, params: Any) -> int:
    """Entries of the factors of all clients, which each of them is sent where they are stacked."""
    total = 0

    def count(tree: Any) -> Any:
        nonlocal total
        total += tree["lora_a"].shape[0] + tree["lora_b"].shape[1]
        return tree

    on_adapters(count, params)
    return rule.stacked_ranks * total
