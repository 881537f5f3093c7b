"""Widths in steps: rates become rungs of a short ladder, so that few shapes are ever compiled."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jfedsl.pruning.plan import Source
from jfedsl.pruning.schedule import cubic_ramp


def keep_counts(ladder: Sequence[float], sources: Sequence[Source]) -> np.ndarray:
    """Channels that stay at each rung: the nearest whole number a normalisation group.

    Args:
      ladder: fractions of the channels that stay, `[R]`.
      sources: layers with channels that can be removed.

    Returns:
      int32 `[R, sources]`.

    Raises:
      ValueError: a rung leaves a layer, or its normalisation groups, without channels.
    """
    counts = np.zeros((len(ladder), len(sources)), np.int32)
    for s, source in enumerate(sources):
        each = source.size // source.groups
        for r, rung in enumerate(ladder):
            counts[r, s] = int(rung * each + 0.5) * source.groups
            if counts[r, s] == 0:
                of = f" in each of its {source.groups} groups" if source.groups > 1 else ""
                raise ValueError(f"{rung:g} leaves none of the {each} of {source.name}{of}")
    return counts


def nearest_rung(rates: np.ndarray, ladder: Sequence[float]) -> np.ndarray:
    """The rung nearest to the fraction `1 - rate` that is to stay; of two, the one that keeps more.

    Args:
      rates: any shape.
      ladder: fractions that stay, descending, `[R]`.

    Returns:
      Indices of the ladder, of the shape of `rates`.
    """
    distance = np.abs((1.0 - np.asarray(rates, np.float64))[..., None] - np.asarray(ladder))
    return np.argmin(np.round(distance, 9), axis=-1).astype(np.int32)


class Schedule(NamedTuple):
    """Which rung every client is on, and which clients are on the same one throughout.

    Attributes:
      groups: ids of the clients of each group, ascending.
      width_configs: rungs of the groups, one row for every combination that occurs.
      config_of_round: `[T]`, the row in a period that starts with round r is
        `config_of_round[min(r, T - 1)]`.
    """

    groups: tuple[np.ndarray, ...]
    width_configs: tuple[tuple[int, ...], ...]
    config_of_round: np.ndarray


def schedule(
    rates: Sequence[float], ladder: Sequence[float], ramp_rounds: int, period: int
) -> Schedule:
    """Groups the clients and lists the layouts that occur.

    Rates become those of their rungs before they grow, so that there are no more groups than rungs.
    Each group changes its rung at most once a rung, as its rate only grows.

    Args:
      rates: final rate of every client, `[C]`.
      ladder: fractions that stay, descending.
      ramp_rounds: rounds over which the rates grow from 0.
      period: rounds between aggregations, the only moments at which a rung changes.
    """
    final = 1.0 - np.asarray(ladder, np.float64)[nearest_rung(np.asarray(rates), ladder)]
    rungs = nearest_rung(cubic_ramp(final, ramp_rounds), ladder)
    starts = np.arange(ramp_rounds + 1) // period * period
    starts[-1] = ramp_rounds  # of every later period
    columns, member = np.unique(rungs[starts], axis=1, return_inverse=True)
    rows, layout = np.unique(columns, axis=0, return_inverse=True)
    groups = tuple(np.flatnonzero(member.reshape(-1) == g) for g in range(columns.shape[1]))
    layouts = tuple(tuple(row) for row in rows.tolist())
    return Schedule(groups, layouts, layout.reshape(-1).astype(np.int32))


def report(rates: np.ndarray, ladder: Sequence[float]) -> list[str]:
    """What becomes of the requested rates: a line for every rung that clients end on."""
    rungs = nearest_rung(rates, ladder)
    lines = []
    for index in np.unique(rungs):
        own = rates[rungs == index]
        asked = f"{own.min():g}" if own.min() == own.max() else f"{own.min():g} to {own.max():g}"
        who = "1 client keeps" if len(own) == 1 else f"{len(own)} clients keep"
        lines.append(f"pruning rate {asked}: {who} {ladder[index]:g} of the channels")
    return lines
