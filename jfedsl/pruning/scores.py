"""How much a weight or a channel matters; those of the lowest scores are pruned first.

`SCORES` holds the scores by name, and users may add their own. The unit that is pruned is a single
weight or a whole channel, and a score is written once for both: it sees the prunable weights, and
`norms`, which reduces one number for each weight to one number for each unit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.keys import fold

DECAY = 0.5  # of a Taylor score, for each period in which nobody keeps the weight
UNKNOWN = -1.0  # the Taylor score of all weights before the first aggregation

# One entry for each prunable leaf or layer: an array (single weights), or the list of the arrays
# `[..., channels]` that make its channels.
Weights = list[Any]
# Weights -> one array for each entry: |x| of every weight, or `[channels]`, the L2 norm of each.
Norms = Callable[[Weights], list[Array]]


class Period(NamedTuple):
    """What the aggregator knows of the aggregation period that has just ended.

    Attributes:
      before: aggregated weights at its start.
      after: aggregated weights at its end.
      kept: bools, one array for each entry: whether any participant kept the unit.
      rate: float32, the sum of the learning rates of its exchanges.
    """

    before: Weights
    after: Weights
    kept: list[Array]
    rate: Array


class Score(NamedTuple):
    """A score as pure functions. Values are float32 arrays, shaped as what `norms` returns.

    Attributes:
      init: `(weights, norms) -> (state, values)` from the initial weights. The state is a tree of
        arrays, or None for a score that remembers nothing.
      update: `(state, period, norms) -> (state, values)` after an aggregation. If no client
        kept and stepped a weight in the period, a score with a state is not updated, nor is the
        ranking.
      draw: `(key, weights, norms) -> values` of one client in one period, by which that client
        ranks its units; the values of `init` and `update` are not read then. None: all clients
        share one ranking.
    """

    init: Callable[[Weights, Norms], tuple[Any, list[Array]]]
    update: Callable[[Any, Period, Norms], tuple[Any, list[Array]]]
    draw: Callable[[Array, Weights, Norms], list[Array]] | None = None


def memoryless(values: Callable[[Weights, Norms], list[Array]]) -> Score:
    """The score that depends on the current weights only, from `(weights, norms) -> values`."""
    return Score(
        init=lambda weights, norms: (None, values(weights, norms)),
        update=lambda state, period, norms: (None, values(period.after, norms)),
    )


def drawn(draw: Callable[[Array, Weights, Norms], list[Array]]) -> Score:
    """The score that every client draws for itself, anew in every period."""
    return Score(
        init=lambda weights, norms: (None, []),
        update=lambda state, period, norms: (None, []),
        draw=draw,
    )


def magnitude(weights: Weights, norms: Norms) -> list[Array]:
    """|w| of every weight, or the L2 norm of every channel."""
    return norms(weights)


def random(key: Array, weights: Weights, norms: Norms) -> list[Array]:
    """Uniform draws in [0, 1), one for each unit."""
    shapes = jax.eval_shape(norms, weights)
    return [jax.random.uniform(fold(key, i), s.shape, s.dtype) for i, s in enumerate(shapes)]


def taylor_init(weights: Weights, norms: Norms) -> tuple[list[Array], list[Array]]:
    """All scores unknown; until the first aggregation units are ranked by magnitude."""
    values = norms(weights)
    return [jnp.full(value.shape, UNKNOWN) for value in values], values


def taylor_update(
    last: list[Array], period: Period, norms: Norms
) -> tuple[list[Array], list[Array]]:
    """|w * g|, the first-order change of the loss without the weight (arXiv 1906.10771, eq. 8).

    g is the change of the weight over a period, which the aggregator has, divided by the sum of the
    learning rates of the period's exchanges: the mean gradient with plain SGD, the mean step per
    unit of learning rate with momentum or Adam. So scores of periods with different learning rates
    are on one scale. The score of a channel is the L2 norm over its weights.

    Where nobody kept the weight in the period, g is not known, and its last score is halved:
    gradients shrink in training, and an early score would outlive those of weights that are
    trained. At the first aggregation a weight that nobody kept gets |w| times the mean |g| of its
    leaf, as if its gradient were typical.

    Args:
      last: scores so far; negative before the first aggregation.
      period: with a rate above 0.
      norms: see `Norms`.

    Returns:
      The new scores, as state and as values.
    """
    sizes = norms(period.after)
    changes = norms(jax.tree.map(lambda b, a: a * (a - b), period.before, period.after))

    def total(values: list[Array]) -> list[Array]:
        return [jnp.sum(jnp.where(k, x, 0.0)) for k, x in zip(period.kept, values, strict=True)]

    change, size = total(changes), total(sizes)
    everywhere = sum(change, jnp.float32(0)) / _positive(sum(size, jnp.float32(0)))

    def renewed(s: Array, w: Array, c: Array, k: Array, change: Array, size: Array) -> Array:
        # A leaf that nobody kept any weight of takes the typical gradient of all leaves.
        typical = jnp.where(size > 0, change / _positive(size), everywhere)
        absent = jnp.where(s < 0, w * typical / period.rate, DECAY * s)
        return jnp.where(k, c / period.rate, absent)

    rows = zip(last, sizes, changes, period.kept, change, size, strict=True)
    values = [renewed(*row) for row in rows]
    return values, values


def _positive(x: Any) -> Array:
    return jnp.where(x > 0, x, 1.0)


SCORES: dict[str, Score] = {
    "magnitude": memoryless(magnitude),
    "random": drawn(random),
    "taylor": Score(taylor_init, taylor_update),
}


def weight_norms(weights: Weights) -> list[Array]:
    """`Norms` of single weights: |x|."""
    return [jnp.abs(w) for w in weights]


def channel_norms(weights: Weights) -> list[Array]:
    """`Norms` of channels: the L2 norm over all entries of a channel, from `[..., channels]`."""
    return [
        jnp.sqrt(sum(jnp.sum(k * k, axis=range(k.ndim - 1)) for k in kernels))
        for kernels in weights
    ]
