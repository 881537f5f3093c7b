"""Dynamic pruning of single weights, as a bundle of pure functions over the aggregated model."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from jfedsl.keys import fold
from jfedsl.models.layers import Params
from jfedsl.pruning import scores
from jfedsl.pruning.masks import ranks, removed_counts
from jfedsl.pruning.schedule import cubic_ramp

SCORES = ("magnitude", "random", "taylor")
SCOPES = ("global", "layer")


class PruningState(struct.PyTreeNode):
    """What the aggregator remembers between aggregations, one entry a prunable leaf.

    Attributes:
      scores: float32, only where they outlive an aggregation (taylor), else None.
      ranks: int32, the same for all clients; None where every client draws its own (random).
    """

    scores: list[Array] | None
    ranks: list[Array] | None


class Pruner(NamedTuple):
    """Masks of the client-side model, recomputed at every aggregation.

    Attributes:
      init: `params -> PruningState`.
      update: `(state, params before, params after, kept by any participant) -> PruningState`.
      masks: `(state, params, key, round, client) -> masks`, a bool tree like `params`, True where
        the client keeps the weight; leaves that may not be pruned are True throughout.
      mask_bits: size of a mask as it goes down with the model: one bit a prunable weight.
      variant: int32 `[C]`: clients of the same number share their masks; None when no two do.
      variants: how many numbers there are.
    """

    init: Callable[[Params], PruningState]
    update: Callable[[PruningState, Params, Params, Any], PruningState]
    masks: Callable[[PruningState, Params, Array, Array, Array], Any]
    mask_bits: int
    variant: np.ndarray | None
    variants: int


def weight_pruner(
    prunable: Any,
    sizes: list[int],
    rates: Sequence[float],
    score: str = "magnitude",
    scope: str = "global",
    ramp_rounds: int = 0,
) -> Pruner:
    """Removes the fraction `rates[n]` of the lowest-scored weights on client n, to one weight.

    Until some client has kept a weight for a period, its taylor score is its magnitude: such
    weights rank high, so each gets its turn.

    Args:
      prunable: tree of Python bools like the client-side parameters.
      sizes: weights of each prunable leaf, in tree order.
      rates: final pruning rate of every client, `[C]`, in [0, 1).
      score: one of `SCORES`.
      scope: one of `SCOPES`.
      ramp_rounds: rounds over which the rates grow from 0.
    """
    distinct, inverse = np.unique(np.asarray(rates, np.float64), return_inverse=True)
    variant = inverse.astype(np.int32)
    ramp = cubic_ramp(distinct, ramp_rounds)
    counts = removed_counts(ramp, sizes, scope)  # [ramp_rounds + 1, G, leaves]
    own_draws = score == "random"

    def pick(tree: Any) -> list[Array]:
        flags = jax.tree.leaves(prunable)
        return [leaf for leaf, flag in zip(jax.tree.leaves(tree), flags, strict=True) if flag]

    def rank(values: list[Array]) -> list[Array] | None:
        return None if own_draws else ranks(values, scope)

    def init(params: Params) -> PruningState:
        values = scores.magnitude(pick(params))
        return PruningState(values if score == "taylor" else None, rank(values))

    def update(state: PruningState, before: Params, after: Params, kept: Any) -> PruningState:
        if score != "taylor":
            return PruningState(None, rank(scores.magnitude(pick(after))))
        assert state.scores is not None
        values = scores.taylor(state.scores, pick(before), pick(after), pick(kept))
        return PruningState(values, rank(values))

    def masks(state: PruningState, params: Params, key: Array, round_: Array, client: Array) -> Any:
        places = state.ranks
        if places is None:
            places = ranks(scores.random(fold(key, round_, client), pick(params)), scope)
        row = jnp.asarray(counts)[jnp.minimum(round_, ramp_rounds), jnp.asarray(variant)[client]]
        bits = iter([place >= row[i] for i, place in enumerate(places)])
        return jax.tree.map(
            lambda leaf, flag: next(bits) if flag else jnp.ones(leaf.shape, bool), params, prunable
        )

    return Pruner(init, update, masks, sum(sizes), None if own_draws else variant, len(distinct))


def keep(params: Params, masks: Any) -> Params:
    """The pruned weights m * w; `masks` None keeps all."""
    if masks is None:
        return params
    return jax.tree.map(lambda w, m: jnp.where(m, w, 0.0), params, masks)
