"""Widths in steps: pruning rates become rungs of a short ladder, so that few shapes are compiled.

A ladder is a descending list of fractions of channels that may stay; a rung is one of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jfedsl.pruning.plan import Source
from jfedsl.pruning.schedule import cubic_ramp


def keep_counts(ladder: Sequence[float], sources: Sequence[Source]) -> np.ndarray:
    """Channels that stay at each rung, rounded to a whole number in each normalization group.

    Args:
      ladder: fractions of the channels that stay, `[R]`.
      sources: layers with channels that can be removed.

    Returns:
      int32 `[R, sources]`.

    Raises:
      ValueError: a rung leaves a layer, or its normalization groups, without channels.
    """
    counts = np.zeros((len(ladder), len(sources)), np.int32)
    for s, source in enumerate(sources):
        group_size = source.size // source.groups
        for r, rung in enumerate(ladder):
            counts[r, s] = int(rung * group_size + 0.5) * source.groups
            if counts[r, s] == 0:
                where = f" in each of its {source.groups} groups" if source.groups > 1 else ""
                raise ValueError(
                    f"{rung:g} leaves none of the {group_size} of {source.name}{where}"
                )
    return counts


def nearest_rung(rates: np.ndarray, ladder: Sequence[float]) -> np.ndarray:
    """The rung nearest to the fraction `1 - rate`; of two equally near, the one that keeps more.

    Args:
      rates: pruning rates, any shape.
      ladder: fractions of channels that stay, descending, `[R]`.

    Returns:
      int32 indices of the ladder, of the shape of `rates`.
    """
    distance = np.abs((1.0 - np.asarray(rates, np.float64))[..., None] - np.asarray(ladder))
    # Rounded, so that a tie in decimals is a tie here; the first of the least is the widest.
    return np.argmin(np.round(distance, 9), axis=-1).astype(np.int32)


class Schedule(NamedTuple):
    """The rungs over the run, for groups of clients that are on the same rung in every round.

    Attributes:
      groups: ids of the clients of each group, ascending.
      width_configs: indices of the ladder, one column for each group, one row for every combination
        that occurs in the run.
      config_of_round: int32 `[T]`; a period that starts with round r uses the row
        `config_of_round[min(r, T - 1)]`.
    """

    groups: tuple[np.ndarray, ...]
    width_configs: tuple[tuple[int, ...], ...]
    config_of_round: np.ndarray


def schedule(
    rates: Sequence[float], ladder: Sequence[float], ramp_rounds: int, period: int
) -> Schedule:
    """Groups the clients and lists the width configurations that occur.

    A final rate is replaced by that of its rung before the ramp, so there are no more groups than
    rungs. The rate of a group only grows, so the group visits every rung at most once.

    Args:
      rates: final rate of every client, `[C]`.
      ladder: fractions of channels that stay, descending.
      ramp_rounds: rounds over which the rates grow from 0.
      period: rounds between aggregations; rungs change at aggregations only.
    """
    final = 1.0 - np.asarray(ladder, np.float64)[nearest_rung(np.asarray(rates), ladder)]
    rungs = nearest_rung(cubic_ramp(final, ramp_rounds), ladder)
    starts = np.arange(ramp_rounds + 1) // period * period
    starts[-1] = ramp_rounds  # the last row serves all periods after the ramp
    columns, group_of_client = np.unique(rungs[starts], axis=1, return_inverse=True)
    rows, config_of_round = np.unique(columns, axis=0, return_inverse=True)
    group_of_client = group_of_client.reshape(-1)
    groups = tuple(np.flatnonzero(group_of_client == g) for g in range(columns.shape[1]))
    width_configs = tuple(tuple(row) for row in rows.tolist())
    return Schedule(groups, width_configs, config_of_round.reshape(-1).astype(np.int32))


def rung_lines(rates: np.ndarray, ladder: Sequence[float]) -> list[str]:
    """One line of text for every rung that clients end on, with the rates that they asked for."""
    rungs = nearest_rung(rates, ladder)
    lines = []
    for index in np.unique(rungs):
        asked = rates[rungs == index]
        low, high = f"{asked.min():g}", f"{asked.max():g}"
        rate = low if low == high else f"{low} to {high}"
        clients = "1 client keeps" if len(asked) == 1 else f"{len(asked)} clients keep"
        lines.append(f"pruning rate {rate}: {clients} {ladder[index]:g} of the channels")
    return lines
