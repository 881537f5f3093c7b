"""The bound's constants, estimated from pairs of independent mini-batches.

The square of an expectation is estimated by the inner product of two independent draws, a variance
by half the square of their difference; both are unbiased for any noise. The estimates are repeated
over many pairs, and their spread gives standard errors. This module knows no network: gradients
come from functions.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.keys import fold
from jfedsl.theory import estimates
from jfedsl.theory.estimates import Estimate, exact
from jfedsl.theory.trees import inner_by_layer

_ROUNDING = 1e-5
Tree = tuple[Any, ...]  # one entry for each layer of the whole model


class Draw(NamedTuple):
    """Gradients of one client's loss on one mini-batch, each for the whole model.

    Attributes:
      at_mean: at v.
      at_client: at the client's weights, and those of v where the client keeps none.
      pruned: at the pruned weights that the client computes with.
      compressed: as `pruned`, with a compressed activation.
      quantized: as `compressed`, with the quantizers of the cut gradient and weight gradient.
    """

    at_mean: Tree
    at_client: Tree
    pruned: Tree
    compressed: Tree
    quantized: Tree


class Group(NamedTuple):
    """Participants with the same client forward.

    Attributes:
      members: tree of arrays `[k, ...]`, a row for each participant.
      weights: their aggregation weights, float32 `[k]`; those of all groups sum to 1.
      draw: `(member, key) -> Draw` from a new mini-batch.
      kept: `member -> ` which weights it keeps, bools like the whole model.
      weight: `member -> ` its weights, like the whole model.
    """

    members: Any
    weights: Array
    draw: Callable[[Any, Array], Draw]
    kept: Callable[[Any], Tree]
    weight: Callable[[Any], Tree]


class Estimates(NamedTuple):
    """Fields of `bound.Constants` and `bound.Effects`, estimated from mini-batches at one time.

    Of the shape `[L]`, one for each layer, are variance, moment, expected and weight.
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
    """Weighted sums over participants of gradients, or of their changes, for one draw of a pair.

    All but `full` are of the entries that a participant keeps.

    Attributes:
      drift: from v to the client's weights.
      pruning: from the client's weights to the pruned ones.
      dropout: from no compression at the cut to compression.
      full: the gradient at v, all entries.
      kept: the gradient at v.
    """

    drift: Tree
    pruning: Tree
    dropout: Tree
    full: Tree
    kept: Tree


class _Squares(NamedTuple):
    """Weighted sums over participants of squares and products of a pair of draws, all `[L]`.

    Attributes:
      variance: half the squared difference of the gradients.
      moment: mean square of the gradients.
      expected: their inner product.
      quantization: mean squared error of the quantizers.
      at_mean: inner product of the gradients at v.
    """

    variance: Array
    moment: Array
    expected: Array
    quantization: Array
    at_mean: Array


class _Known(NamedTuple):
    """What follows from masks and weights, without draws.

    Attributes:
      share: summed weight of the participants that keep an entry, a tree like the model.
      pruned: squared norm of the entries of v that a participant lacks, weighted mean over them.
      distance: squared distance from v on the entries that a participant keeps, weighted mean.
    """

    share: Tree
    pruned: Array
    distance: Array


def estimate(
    groups: Sequence[Group], mean: Tree, cut: int, clients: int, key: Array, pairs: int
) -> Estimates:
    """Estimates the constants at one time.

    Memory holds about thirty copies of the model, for any number of participants.

    Args:
      groups: of the participants.
      mean: v, weights of the whole model.
      cut: number of client-side layers.
      clients: number of all clients.
      key: scalar PRNG key.
      pairs: number of pairs of mini-batches for each participant, at least 2.
    """
    known = _known(groups, mean)

    def of_pair(pair: Array) -> dict[str, Array]:
        means, squares = _pair(groups, mean, fold(key, pair))
        return _products(means, squares, known, cut)

    products = lax.map(of_pair, jnp.arange(pairs))
    participants = sum(len(group.weights) for group in groups)
    weight, moment = inner_by_layer(mean, mean), jnp.sum(products["moment"][:, :cut], axis=1)

    def if_trained(relative: Estimate) -> Estimate:
        """An effect relative to the clients' weights or gradients; 0 where they have none."""
        return relative if jax.tree.leaves(mean[:cut]) else exact(jnp.zeros(()))

    coverage = jnp.min(
        jnp.stack([jnp.min(jnp.where(x > 0, x, 1.0)) for x in jax.tree.leaves(known.share)])
    )
    # The sample variance over participants; one participant does not tell how clients differ.
    spread = products["dissimilarity"] * (participants / max(1, participants - 1))
    spread = spread if participants > 1 or clients == 1 else jnp.full_like(spread, jnp.nan)
    return Estimates(
        beta_drift=estimates.secant(products["drift"], known.distance),
        beta_pruning=estimates.secant(products["pruning"], known.pruned),
        variance=estimates.mean(products["variance"]),
        moment=estimates.mean(products["moment"]),
        expected=estimates.mean(products["expected"]),
        weight=exact(weight),
        dissimilarity=estimates.mean(spread),
        rho=if_trained(exact(known.pruned / jnp.sum(weight[:cut]))),
        phi=if_trained(estimates.ratio(products["masked"], moment)),
        chi=if_trained(estimates.ratio(products["disparity"], moment)),
        q=if_trained(estimates.ratio(products["quantization"], moment)),
        eps_d=estimates.mean(products["dropout"]),
        coverage=exact(coverage),
    )


def _known(groups: Sequence[Group], mean: Tree) -> _Known:
    total = _Known(jax.tree.map(jnp.zeros_like, mean), jnp.zeros(()), jnp.zeros(()))
    for group in groups:

        def add(total: _Known, row: tuple[Any, Array], group: Group = group) -> tuple[_Known, None]:
            member, weight = row
            kept = group.kept(member)
            lacking = jax.tree.map(lambda m, v: jnp.where(m, 0.0, v), kept, mean)
            moved = _where(kept, jax.tree.map(jnp.subtract, mean, group.weight(member)))
            return _Known(
                jax.tree.map(lambda s, m: s + jnp.where(m, weight, 0.0), total.share, kept),
                total.pruned + weight * jnp.sum(inner_by_layer(lacking, lacking)),
                total.distance + weight * jnp.sum(inner_by_layer(moved, moved)),
            ), None

        total, _ = lax.scan(add, total, (group.members, group.weights))
    return total


def _pair(groups: Sequence[Group], mean: Tree, key: Array) -> tuple[list[_Means], _Squares]:
    """Sums over all participants, each with one pair of mini-batches."""
    zeros = _Means(*[jax.tree.map(jnp.zeros_like, mean)] * len(_Means._fields))
    total = ([zeros, zeros], _Squares(*[jnp.zeros(len(mean))] * len(_Squares._fields)))
    before = 0
    for group in groups:
        # Numbered over all groups, so that no two participants share a key.
        numbers = before + jnp.arange(len(group.weights))
        before += len(group.weights)

        def add(total: Any, row: Any, group: Group = group) -> tuple[Any, None]:
            member, weight, number = row
            keys = jax.vmap(lambda half: fold(key, number, half))(jnp.arange(2))
            pair = lax.map(lambda k: group.draw(member, k), keys)
            draws = [jax.tree.map(lambda x, i=i: x[i], pair) for i in range(2)]
            kept = group.kept(member)
            means = [
                jax.tree.map(lambda t, x: t + weight * x, summed, _contribution(draw, kept))
                for summed, draw in zip(total[0], draws, strict=True)
            ]
            squares = _member_squares(draws, kept)
            return (means, jax.tree.map(lambda t, x: t + weight * x, total[1], squares)), None

        total, _ = lax.scan(add, total, (group.members, group.weights, numbers))
    return total


def _contribution(draw: Draw, kept: Tree) -> _Means:
    def change(a: Tree, b: Tree) -> Tree:
        return _where(kept, jax.tree.map(jnp.subtract, a, b))

    return _Means(
        drift=change(draw.at_mean, draw.at_client),
        pruning=change(draw.at_client, draw.pruned),
        dropout=change(draw.pruned, draw.compressed),
        full=draw.at_mean,
        kept=_where(kept, draw.at_mean),
    )


def _member_squares(draws: list[Draw], kept: Tree) -> _Squares:
    first, second = (_where(kept, draw.compressed) for draw in draws)
    difference = jax.tree.map(jnp.subtract, first, second)
    errors = [
        _where(kept, jax.tree.map(jnp.subtract, draw.quantized, draw.compressed)) for draw in draws
    ]
    return _Squares(
        variance=inner_by_layer(difference, difference) / 2,
        moment=(inner_by_layer(first, first) + inner_by_layer(second, second)) / 2,
        expected=inner_by_layer(first, second),
        quantization=sum((inner_by_layer(e, e) / 2 for e in errors), jnp.zeros(())),
        at_mean=inner_by_layer(draws[0].at_mean, draws[1].at_mean),
    )


def _products(means: list[_Means], squares: _Squares, known: _Known, cut: int) -> dict[str, Array]:
    """The estimates of one pair: scalars, and `[L]` for variance, moment and expected."""

    def keepers_mean(tree: Tree) -> Tree:
        """The mean over the participants that keep an entry, from the sum over all."""
        return jax.tree.map(lambda x, s: x / jnp.where(s > 0, s, 1.0), tree, known.share)

    def square(tree_of: Callable[[_Means], Tree]) -> Array:
        """The squared norm of an expectation, from independent draws of it."""
        return jnp.sum(inner_by_layer(tree_of(means[0]), tree_of(means[1])))

    def masked(draw: _Means) -> Tree:
        """The gradient on entries that nobody keeps."""
        return jax.tree.map(lambda x, s: jnp.where(s > 0, 0.0, x), draw.full, known.share)

    def disparity(draw: _Means) -> Tree:
        """The gradient less its mean over keepers, on entries that some but not all keep."""
        # An entry that all keep has a share of 1 up to rounding.
        return jax.tree.map(
            lambda x, k, s: jnp.where((s > 0) & (s < 1 - _ROUNDING), x - k, 0.0),
            draw.full,
            keepers_mean(draw.kept),
            known.share,
        )

    return {
        "drift": square(lambda draw: keepers_mean(draw.drift)),
        "pruning": square(lambda draw: keepers_mean(draw.pruning)),
        "dropout": square(lambda draw: keepers_mean(draw.dropout)),
        "masked": square(masked),
        "disparity": square(disparity),
        "dissimilarity": jnp.sum(squares.at_mean) - square(lambda draw: draw.full),
        "variance": squares.variance,
        "moment": squares.moment,
        "expected": squares.expected,
        "quantization": jnp.sum(squares.quantization[:cut]),
    }


def _where(kept: Tree, tree: Tree) -> Tree:
    return jax.tree.map(lambda m, x: jnp.where(m, x, 0.0), kept, tree)
