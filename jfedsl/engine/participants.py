"""The participants of a period: which are drawn, in which order, and how they compute.

Participants come group by group (see `Pruner.groups`), ascending within each, and every period
draws as many from each group: so each group is a slice of fixed size, whoever is drawn.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jfedsl.data.batches import shuffled
from jfedsl.engine.state import RunSpec, State
from jfedsl.keys import Purpose, fold
from jfedsl.sharding.slots import assign_slots


def group_sizes(members: Sequence[int], participants: int) -> tuple[int, ...]:
    """How many to draw from each group: its share of the participants, but one at least.

    >>> group_sizes((60, 30, 10), 10), group_sizes((97, 2, 1), 5)
    ((6, 3, 1), (3, 1, 1))

    Args:
      members: clients of each group.
      participants: in all, no more than clients.

    Raises:
      ValueError: fewer participants than groups.
    """
    if participants < len(members):
        raise ValueError(f"{participants} participants of {len(members)} groups")
    shares = np.asarray(members) * participants / sum(members)
    sizes = np.maximum(1, np.floor(shares).astype(int))
    while sizes.sum() < participants:
        sizes[np.argmax(np.where(sizes < members, shares - sizes, -np.inf))] += 1
    while sizes.sum() > participants:
        sizes[np.argmin(np.where(sizes > 1, shares - sizes, np.inf))] -= 1
    return tuple(sizes.tolist())


def first_participants(spec: RunSpec) -> Array:
    """Participants before any are drawn, int32 `[K]`."""
    return jnp.asarray(np.concatenate(_first(spec)), jnp.int32)


def _first(spec: RunSpec) -> list[np.ndarray]:
    groups = zip(spec.pruner.groups, spec.group_sizes, strict=True)
    return [members[:size] for members, size in groups]


def draw_participants(spec: RunSpec, key: Array, round_: Array) -> Array:
    """K of C clients without replacement, as many of each group in every period; int32 `[K]`."""
    if spec.full_participation:
        return first_participants(spec)
    key = fold(key, Purpose.PARTICIPANTS, round_)
    groups = spec.pruner.groups
    drawn = []
    for number, (members, size) in enumerate(zip(groups, spec.group_sizes, strict=True)):
        group_key = key if len(groups) == 1 else fold(key, number)
        # The first of a random order of which the rest is never made: no work grows with members.
        first, every = jnp.arange(size, dtype=jnp.int32), jnp.int32(len(members))
        ids = jnp.asarray(members, jnp.int32)[shuffled(group_key, first, every)]
        drawn.append(jnp.sort(ids))
    return jnp.concatenate(drawn)


def of_some(spec: RunSpec, count: int) -> RunSpec:
    """The run of `count` participants of one group, on one device."""
    return spec._replace(participants=count, group_sizes=(count,), slots=assign_slots((count,)))


def with_width_config(
    spec: RunSpec, period_start: Array, branch: Callable[..., Any], *operands: Any
) -> Any:
    """Calls `branch(forwards, *operands)` with each group's forward in the period.

    Args:
      spec: functions and static numbers of the run.
      period_start: round that the period starts with, int32 scalar.
      branch: is compiled for each width config; its results have the same shapes for all.
      *operands: pytrees of arrays.
    """
    pruner = spec.pruner
    branches = [
        lambda *args, forwards=tuple(pruner.forwards[i] for i in row): branch(forwards, *args)
        for row in pruner.width_configs
    ]
    row = jnp.asarray(pruner.config_of_round)[
        jnp.minimum(period_start, len(pruner.config_of_round) - 1)
    ]
    return jax.lax.switch(row, branches, *operands)


def period_start(spec: RunSpec, round_: Array) -> Array:
    """The round that the period of a round starts with."""
    return round_ - round_ % spec.aggregate_every


def last_round(state: State) -> Array:
    """The last completed round, 0 before the first."""
    return jnp.maximum(state.round - 1, 0)
