"""What clients compute in an exchange: their layers forward and backward, and their step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax import Array

from jfedsl.compression.compressor import send_tree
from jfedsl.engine.optimizers import masked_step
from jfedsl.engine.state import Client, Scheme
from jfedsl.keys import Stage, fold
from jfedsl.nn.int8 import int8_backward
from jfedsl.pruning.pruner import Form
from jfedsl.sharding.client_map import map_clients

# What a group's backward pass needs of its forward pass; the shapes differ between groups.
Backs = Sequence[Any]


def forward(
    scheme: Scheme, forms: Sequence[Form], clients: Client, images: Array, key: Array
) -> tuple[Array, Any, Backs]:
    """Runs the participants' layers.

    Args:
      scheme: of the run.
      forms: in which the clients of each group compute.
      clients: the participants, `[P, ...]`.
      images: `[P, B, ...]`.
      key: of this exchange.

    Returns:
      The activations at the cut `[P, B, ...]`, statistics, and what `backward` needs.
    """

    def one(form: Form, client: Client, images: Array) -> tuple[tuple[Array, Any], Any]:
        activation, back, stats = forward_one(scheme, form, client, images, key)
        return (activation, stats), None if scheme.remat else back

    outputs, backs = zip(*_map(scheme, one, forms, (clients, images)), strict=True)
    activation, stats = scheme.placement.together(outputs)
    return activation, stats, backs


def backward(
    scheme: Scheme,
    forms: Sequence[Form],
    clients: Client,
    images: Array,
    backs: Backs,
    gradient: Array,
    key: Array,
) -> Any:
    """Gradients of the participants' weights `[P, ...]`; those of pruned weights mean nothing.

    Args:
      scheme: of the run.
      forms: as in `forward`.
      clients: as in `forward`.
      images: as in `forward`.
      backs: from `forward`.
      gradient: of the activations at the cut, `[P, B, ...]`.
      key: as in `forward`.
    """

    def one(form: Form, client: Client, images: Array, gradient: Array, back: Any) -> Any:
        if scheme.remat:
            _, back, _ = forward_one(scheme, form, client, images, key)
        return back(gradient)[0]

    rows = _map(scheme, one, forms, (clients, images, gradient), backs)
    return scheme.placement.together(rows)


def step(
    scheme: Scheme, clients: Client, weight_gradient: Any, keys: Array, number: Array
) -> Client:
    """The participants `[P, ...]` after quantizing their gradients and stepping on kept weights.

    Args:
      scheme: of the run.
      clients: the participants.
      weight_gradient: from `backward`.
      keys: of this exchange, `[P]`.
      number: exchanges of the run before this one, int32 scalar.
    """
    return jax.vmap(partial(_step_one, scheme, number))(clients, weight_gradient, keys)


def _map(
    scheme: Scheme, function: Any, forms: Sequence[Form], rows: Any, backs: Backs | None = None
) -> list[Any]:
    """Maps a function of form, client and more over the clients of each group."""
    placement = scheme.placement
    groups = placement.by_group(rows)
    extra = [()] * len(groups) if backs is None else [(back,) for back in backs]
    return [
        map_clients(partial(function, form), chunk_of(scheme, width), placement.mesh)(*own, *more)
        for form, width, own, more in zip(forms, placement.widths, groups, extra, strict=True)
    ]


def chunk_of(scheme: Scheme, clients: int) -> int:
    """How many of a device's clients of a group to compute at once.

    With recomputation at most a quarter: only in a loop does XLA really compute a pass twice.
    """
    return min(scheme.chunk, max(1, clients // 4)) if scheme.remat else scheme.chunk


def forward_one(
    scheme: Scheme, form: Form, client: Client, images: Array, key: Array
) -> tuple[Array, Any, Any]:
    """Runs one client's pruned layers.

    Args:
      scheme: of the run.
      form: in which the client computes.
      client: the client.
      images: `[B, ...]`.
      key: of this exchange; drawn from, with the client's number, for a backward pass of int8.

    Returns:
      The activation at the cut, the function that maps a gradient of it to that of the dense
      weights (of which those of pruned weights mean nothing), and the statistics.
    """

    def run(params: Any) -> tuple[Array, Any]:
        return form(params, client.stats, client.masks, images, True, scheme.dtype)

    if not scheme.integers:
        return jax.vjp(run, client.params, has_aux=True)
    with int8_backward(fold(key, client.number, Stage.CLIENT_BACKWARD)):
        return jax.vjp(run, client.params, has_aux=True)


def send_gradient(
    scheme: Scheme, client: Client, weight_gradient: Any, key: Array
) -> tuple[Any, Any]:
    """Quantizes the kept entries of one client's weight gradient.

    Returns:
      The link's state and the gradient that the client steps with.
    """
    link, quantized, _ = send_tree(
        scheme.links.client_gradient(client.number),
        client.links.client_gradient,
        fold(key, Stage.CLIENT_GRADIENT),
        weight_gradient,
        scheme.pruner.kept(client.masks).params,
    )
    return link, quantized


def _step_one(
    scheme: Scheme, number: Array, client: Client, weight_gradient: Any, key: Array
) -> Client:
    kept = scheme.pruner.kept(client.masks).params
    link, quantized = send_gradient(scheme, client, weight_gradient, key)
    params, optimizer = masked_step(
        scheme.client_optimizer, kept, quantized, client.optimizer, client.params, number
    )
    links = client.links._replace(client_gradient=link)
    return client.replace(params=params, optimizer=optimizer, links=links, drawn=client.drawn + 1)
