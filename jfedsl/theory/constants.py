"""The bound's constants, estimated from pairs of independent mini-batches.

A square of an expectation is the inner product of two independent draws, a variance half the square
of their difference: both without bias, whatever the noise. Pairs repeat, and their spread gives the
standard errors. What is estimated knows of no network: gradients come from functions.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.keys import fold
from jfedsl.theory import estimates
from jfedsl.theory.estimates import Estimate, exact
from jfedsl.theory.trees import inner

_ROUNDING = 1e-5
Tree = tuple[Any, ...]  # one entry a layer of the whole model


class Draw(NamedTuple):
    """Gradients of one client's loss on one mini-batch, each for the whole model.

    Attributes:
      at_mean: at v.
      own: at the client's weights, with v's where it lacks them.
      pruned: at what the client computes with.
      sent: the same with what happens to the activation at the cut.
      quantized: the same after the gradient's quantizers.
    """

    at_mean: Tree
    own: Tree
    pruned: Tree
    sent: Tree
    quantized: Tree


class Group(NamedTuple):
    """Participants that compute alike.

    Attributes:
      members: a tree of arrays `[k, ...]`, a row for each of them.
      weights: float32 `[k]`; those of all groups sum to 1.
      draw: `(member, key) -> Draw` from a fresh mini-batch.
      kept: `member -> ` which weights it has, bools like the whole model.
      weight: `member -> ` its weights, like the whole model.
    """

    members: Any
    weights: Array
    draw: Callable[[Any, Array], Draw]
    kept: Callable[[Any], Tree]
    weight: Callable[[Any], Tree]


class Estimates(NamedTuple):
    """The constants of `bound.Constants` and `bound.Effects` that mini-batches tell, at one time.

    Per layer `[L]` are variance, moment, expected and weight.
    """

    beta_drift: Estimate
    beta_pruning: Estimate
    variance: Estimate
    moment: Estimate
    expected: Estimate
    weight: Estimate
    dissimilarity: Estimate
    rho: Estimate
    phi: Estimate
    chi: Estimate
    q: Estimate
    eps_d: Estimate
    coverage: Estimate


class _Means(NamedTuple):
    """Sums over participants, weighted, of one half of a pair; all but `every` of kept entries."""

    drift: Tree
    pruning: Tree
    dropout: Tree
    every: Tree
    keepers: Tree


class _Squares(NamedTuple):
    """Sums over participants, weighted, of squares and products of both halves; `[L]`."""

    variance: Array
    moment: Array
    expected: Array
    quantization: Array
    alike: Array


class _Held(NamedTuple):
    """What masks and weights say, without any draw.

    Attributes:
      share: weight of those who keep a coordinate, a tree like the model.
      pruned: squared norm of v where a client lacks it, weighted over participants.
      apart: squared distance of clients from v where they keep it, likewise.
    """

    share: Tree
    pruned: Array
    apart: Array


def estimate(
    groups: Sequence[Group], mean: Tree, cut: int, clients: int, key: Array, pairs: int
) -> Estimates:
    """Estimates the constants at one time.

    Memory holds some thirty copies of the model, whatever the number of participants.

    Args:
      groups: of the participants.
      mean: v, the whole model's weights.
      cut: how many layers are the clients'.
      clients: in all.
      key: of the draws.
      pairs: of mini-batches for each participant, at least 2.
    """
    held = _held(groups, mean)

    def one(pair: Array) -> dict[str, Array]:
        means, squares = _pair(groups, mean, fold(key, pair))
        return _products(means, squares, held, cut)

    found = lax.map(one, jnp.arange(pairs))
    participants = sum(len(group.weights) for group in groups)
    weight, own = _squares(mean, mean), jnp.sum(found["moment"][:, :cut], axis=1)
    least = jnp.min(
        jnp.stack([jnp.min(jnp.where(x > 0, x, 1.0)) for x in jax.tree.leaves(held.share)])
    )
    spread = found["dissimilarity"] * (participants / max(1, participants - 1))
    # With one participant there is no telling how clients differ.
    spread = spread if participants > 1 or clients == 1 else jnp.full_like(spread, jnp.nan)
    return Estimates(
        beta_drift=estimates.secant(found["drift"], held.apart),
        beta_pruning=estimates.secant(found["pruning"], held.pruned),
        variance=estimates.mean(found["variance"]),
        moment=estimates.mean(found["moment"]),
        expected=estimates.mean(found["expected"]),
        weight=exact(weight),
        dissimilarity=estimates.mean(spread),
        rho=exact(held.pruned / jnp.sum(weight[:cut])),
        phi=estimates.ratio(found["masked"], own),
        chi=estimates.ratio(found["disparity"], own),
        q=estimates.ratio(found["quantization"], own),
        eps_d=estimates.mean(found["dropout"]),
        coverage=exact(least),
    )


def _held(groups: Sequence[Group], mean: Tree) -> _Held:
    total = _Held(jax.tree.map(jnp.zeros_like, mean), jnp.zeros(()), jnp.zeros(()))
    for group in groups:

        def add(total: _Held, row: tuple[Any, Array], group: Group = group) -> tuple[_Held, None]:
            member, weight = row
            kept = group.kept(member)
            lacked = jax.tree.map(lambda m, v: jnp.where(m, 0.0, v), kept, mean)
            moved = _where(kept, jax.tree.map(jnp.subtract, mean, group.weight(member)))
            return _Held(
                jax.tree.map(lambda s, m: s + jnp.where(m, weight, 0.0), total.share, kept),
                total.pruned + weight * jnp.sum(_squares(lacked, lacked)),
                total.apart + weight * jnp.sum(_squares(moved, moved)),
            ), None

        total, _ = lax.scan(add, total, (group.members, group.weights))
    return total


def _pair(groups: Sequence[Group], mean: Tree, key: Array) -> tuple[list[_Means], _Squares]:
    """Sums over all participants for one pair of mini-batches each."""
    nothing = _Means(*[jax.tree.map(jnp.zeros_like, mean)] * len(_Means._fields))
    total = ([nothing, nothing], _Squares(*[jnp.zeros(len(mean))] * len(_Squares._fields)))
    before = 0
    for group in groups:
        slots = before + jnp.arange(len(group.weights))
        before += len(group.weights)

        def add(total: Any, row: Any, group: Group = group) -> tuple[Any, None]:
            member, weight, slot = row
            keys = jax.vmap(lambda half: fold(key, slot, half))(jnp.arange(2))
            drawn = lax.map(lambda k: group.draw(member, k), keys)
            halves = [jax.tree.map(lambda x, i=i: x[i], drawn) for i in range(2)]
            kept = group.kept(member)
            means = [
                jax.tree.map(lambda t, x: t + weight * x, old, _contribution(draw, kept))
                for old, draw in zip(total[0], halves, strict=True)
            ]
            squares = _own_squares(halves, kept)
            return (means, jax.tree.map(lambda t, x: t + weight * x, total[1], squares)), None

        total, _ = lax.scan(add, total, (group.members, group.weights, slots))
    return total


def _contribution(draw: Draw, kept: Tree) -> _Means:
    def change(a: Tree, b: Tree) -> Tree:
        return _where(kept, jax.tree.map(jnp.subtract, a, b))

    return _Means(
        drift=change(draw.at_mean, draw.own),
        pruning=change(draw.own, draw.pruned),
        dropout=change(draw.pruned, draw.sent),
        every=draw.at_mean,
        keepers=_where(kept, draw.at_mean),
    )


def _own_squares(halves: list[Draw], kept: Tree) -> _Squares:
    one, other = (_where(kept, draw.sent) for draw in halves)
    apart = jax.tree.map(jnp.subtract, one, other)
    errors = [
        _where(kept, jax.tree.map(jnp.subtract, draw.quantized, draw.sent)) for draw in halves
    ]
    return _Squares(
        variance=_squares(apart, apart) / 2,
        moment=(_squares(one, one) + _squares(other, other)) / 2,
        expected=_squares(one, other),
        quantization=sum((_squares(e, e) / 2 for e in errors), jnp.zeros(())),
        alike=_squares(halves[0].at_mean, halves[1].at_mean),
    )


def _products(means: list[_Means], squares: _Squares, held: _Held, cut: int) -> dict[str, Array]:
    """What one pair says of each square of an expectation, and of energies."""

    def keepers_mean(tree: Tree) -> Tree:
        return jax.tree.map(lambda x, s: x / jnp.where(s > 0, s, 1.0), tree, held.share)

    def square(of: Callable[[_Means], Tree]) -> Array:
        return jnp.sum(_squares(of(means[0]), of(means[1])))

    def alone(half: _Means) -> Tree:
        return jax.tree.map(lambda x, s: jnp.where(s > 0, 0.0, x), half.every, held.share)

    def disparity(half: _Means) -> Tree:
        # What everybody keeps has a share of 1 but for rounding.
        return jax.tree.map(
            lambda x, k, s: jnp.where((s > 0) & (s < 1 - _ROUNDING), x - k, 0.0),
            half.every,
            keepers_mean(half.keepers),
            held.share,
        )

    return {
        "drift": square(lambda half: keepers_mean(half.drift)),
        "pruning": square(lambda half: keepers_mean(half.pruning)),
        "dropout": square(lambda half: keepers_mean(half.dropout)),
        "masked": square(alone),
        "disparity": square(disparity),
        "dissimilarity": jnp.sum(squares.alike) - square(lambda half: half.every),
        "variance": squares.variance,
        "moment": squares.moment,
        "expected": squares.expected,
        "quantization": jnp.sum(squares.quantization[:cut]),
    }


def _squares(one: Tree, other: Tree) -> Array:
    """Inner product of each layer, `[L]`."""
    return jnp.stack([inner(*pair) for pair in zip(one, other, strict=True)])


def _where(kept: Tree, tree: Tree) -> Tree:
    return jax.tree.map(lambda m, x: jnp.where(m, x, 0.0), kept, tree)
