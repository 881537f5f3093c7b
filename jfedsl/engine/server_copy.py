"""Layers that the server and some clients hold: what the server adds to their average."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jfedsl.engine.parts import least_cut
from jfedsl.engine.server_layers import served_weights
from jfedsl.engine.state import Aggregator, RunSpec, Server


class ServerCopy(NamedTuple):
    """The server's layers that some clients hold too, as one more entry of an average.

    One value for each layer before the last cut; () of a layer that the server does not have.

    Attributes:
      params: of each layer.
      stats: of each layer.
      weights: float32 scalars, 0 of a layer that the server does not have.
    """

    params: tuple[Any, ...]
    stats: tuple[Any, ...]
    weights: tuple[Array | float, ...]


def server_copy(
    spec: RunSpec, server: Server, share: Array, trained: Array, present: Array
) -> ServerCopy | None:
    """What the server adds to an average, weighted by the clients for whom it computes a layer.

    Args:
      spec: functions and static numbers of the run.
      server: at the end of a period.
      share: weights of all participants, `[K]`.
      trained: bool `[K]`, which of them trained in the period.
      present: bool `[K]`, whose models are averaged, with weights whose sum is 1.

    Returns:
      None where cuts do not differ.
    """
    if spec.cuts is None:
        return None
    alone, both = least_cut(spec), spec.cut - least_cut(spec)
    whole = jnp.sum(share, where=present)
    served = served_weights(spec, jnp.where(trained, share, 0.0))[:both]
    scaled = (weight / jnp.where(whole > 0, whole, 1.0) for weight in served)
    nothing = ((),) * alone
    return ServerCopy(
        nothing + server.params[:both], nothing + server.stats[:both], (0.0,) * alone + (*scaled,)
    )


def with_average(spec: RunSpec, server: Server, aggregator: Aggregator) -> Server:
    """The server with the average of the layers that some clients hold too."""
    first, both = least_cut(spec), spec.cut - least_cut(spec)
    params = aggregator.params[first : spec.cut] + server.params[both:]
    stats = aggregator.stats[first : spec.cut] + server.stats[both:]
    return server.replace(params=params, stats=stats)
