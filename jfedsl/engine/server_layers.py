"""The server's layers on activations from one cut, or from the cuts of many clients."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.engine.parts import least_cut, server_part
from jfedsl.engine.state import RunSpec
from jfedsl.models import layers


def run_layers(
    spec: RunSpec, rows: Sequence[int], params: Any, stats: Any, smashed: Array,
    lengths: Array | None,
) -> tuple[Array, Any]:  # fmt: skip
    """Runs the server's layers in training, on the activations of all clients as one batch.

    Args:
      spec: functions and static numbers of the run.
      rows: how many of the n clients are of each of the pruner's groups, in this order.
      params: of the server's layers.
      stats: of the same layers.
      smashed: activations, `[n, B, ...]`.
      lengths: positions of each example that are no padding, `[n, B]`; None without padding.

    Returns:
      What the layers made, `[n, B, ...]`, and their new statistics.
    """
    if spec.cuts is not None:
        return _joining(spec, rows, params, stats, smashed, lengths)
    model, lengths = server_part(spec, spec.model), None if lengths is None else _flat(lengths)
    y, stats = layers.apply(model, params, stats, _flat(smashed), True, spec.dtype, lengths)
    return y.reshape(*smashed.shape[:2], *y.shape[1:]), stats


def _joining(
    spec: RunSpec, rows: Sequence[int], params: Any, stats: Any, smashed: Array,
    lengths: Array | None,
) -> tuple[Array, Any]:  # fmt: skip
    """`run_layers` where activations join the batch at the first layer behind their cut."""
    assert spec.cuts is not None
    cut_of, layout, model = spec.cuts.of_group, spec.cuts.layout, server_part(spec, spec.model)
    ends, batch = np.cumsum([0, *rows]), smashed.shape[1]
    order = sorted(range(len(rows)), key=cut_of.__getitem__)
    # What lies in front of the earliest cut that anyone has now, no activation passes.
    x, here, moved = [], [], stats[: min(cut_of) - least_cut(spec)]
    for cut, following in pairwise([*sorted(set(cut_of)), least_cut(spec) + len(model)]):
        for group in (group for group in order if cut_of[group] == cut):
            members = slice(ends[group], ends[group + 1])
            x.append(layout.split(_flat(smashed[members]), cut))
            here += [] if lengths is None else [_flat(lengths[members])]
        part = slice(cut - least_cut(spec), following - least_cut(spec))
        options = True, spec.dtype, jnp.concatenate(here) if here else None
        y, after = layers.apply(
            model[part], params[part], stats[part], jnp.concatenate(x), *options
        )
        x, moved = [y], moved + after
    bounds = batch * np.cumsum([rows[group] for group in order])[:-1]
    by_group = dict(zip(order, jnp.split(x[0], bounds), strict=True))
    y = jnp.concatenate([by_group[group] for group in range(len(rows))])
    return y.reshape(-1, batch, *y.shape[1:]), moved


def _flat(rows: Array) -> Array:
    """Examples `[n * B, ...]` of rows `[n, B, ...]`."""
    return rows.reshape(-1, *rows.shape[2:])


def mean_of_served(spec: RunSpec, weights: Array, gradient: Any) -> tuple[Any, Any]:
    """The gradient of each layer's mean loss over the clients whose activations passed it.

    Args:
      spec: functions and static numbers of the run.
      weights: of the participants whose activations arrived, `[K]`.
      gradient: of the mean loss of all participants, which has no part of those that compute a
        layer themselves.

    Returns:
      The gradient, and which entries it is of, bools likewise; None where cuts do not differ.
    """
    if spec.cuts is None:
        return gradient, None
    wholes = served_weights(spec, weights)

    def mean(whole: Array, layer: Any) -> Any:
        return jax.tree.map(lambda g: g / jnp.where(whole > 0, whole, 1.0), layer)

    def passed(whole: Array, layer: Any) -> Any:
        return jax.tree.map(lambda g: jnp.broadcast_to(whole > 0, g.shape), layer)

    return tuple(map(mean, wholes, gradient)), tuple(map(passed, wholes, gradient))


def served_weights(spec: RunSpec, weights: Array) -> list[Array]:
    """The weights of the participants for whom the server computes each of its layers, summed.

    Args:
      spec: of a run whose cuts differ.
      weights: of the participants, `[K]`.

    Returns:
      A scalar for each layer of the server.
    """
    assert spec.cuts is not None
    cuts = np.repeat(spec.cuts.of_group, spec.group_sizes)  # of participants, group by group
    numbers = range(least_cut(spec), least_cut(spec) + len(server_part(spec, spec.model)))
    return [jnp.sum(weights, where=cuts <= number) for number in numbers]
