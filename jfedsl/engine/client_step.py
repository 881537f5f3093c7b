"""What clients compute in an exchange: their layers forward and backward, and their step."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax import Array

from jfedsl.compression.compressor import send_tree
from jfedsl.engine.optimizers import masked_step
from jfedsl.engine.state import Client, RunSpec
from jfedsl.keys import Stage, fold
from jfedsl.nn.int8 import int8_backward
from jfedsl.pruning.pruner import ClientForward
from jfedsl.sharding.client_map import map_clients

# What a group's backward pass needs of its forward pass; the shapes differ between groups.
Backs = Sequence[Any]


def forward(
    spec: RunSpec, forwards: Sequence[ClientForward], clients: Client, images: Array, key: Array
) -> tuple[Array, Any, Backs]:
    """Runs the participants' layers.

    Args:
      spec: of the run.
      forwards: in which the clients of each group compute.
      clients: the participants, `[P, ...]`.
      images: `[P, B, ...]`.
      key: of this exchange.

    Returns:
      The activations at the cut `[P, B, ...]`, statistics, and what `backward` needs.
    """

    def one(form: ClientForward, client: Client, images: Array) -> tuple[tuple[Array, Any], Any]:
        activation, back, stats = forward_one(spec, form, client, images, key)
        return (activation, stats), None if spec.remat else back

    outputs, backs = zip(*_map(spec, one, forwards, (clients, images)), strict=True)
    activation, stats = spec.slots.join_groups(outputs)
    return activation, stats, backs


def backward(
    spec: RunSpec,
    forwards: Sequence[ClientForward],
    clients: Client,
    images: Array,
    backs: Backs,
    gradient: Array,
    key: Array,
) -> Any:
    """Gradients of the participants' weights `[P, ...]`; those of pruned weights mean nothing.

    Args:
      spec: of the run.
      forwards: as in `forward`.
      clients: as in `forward`.
      images: as in `forward`.
      backs: from `forward`.
      gradient: of the activations at the cut, `[P, B, ...]`.
      key: as in `forward`.
    """

    def one(form: ClientForward, client: Client, images: Array, gradient: Array, back: Any) -> Any:
        if spec.remat:
            _, back, _ = forward_one(spec, form, client, images, key)
        return back(gradient)[0]

    rows = _map(spec, one, forwards, (clients, images, gradient), backs)
    return spec.slots.join_groups(rows)


def step(
    spec: RunSpec, clients: Client, weight_gradient: Any, keys: Array, number: Array
) -> Client:
    """The participants `[P, ...]` after quantizing their gradients and stepping on kept weights.

    Args:
      spec: of the run.
      clients: the participants.
      weight_gradient: from `backward`.
      keys: of this exchange, `[P]`.
      number: exchanges of the run before this one, int32 scalar.
    """
    return jax.vmap(partial(_step_one, spec, number))(clients, weight_gradient, keys)


def _map(
    spec: RunSpec,
    function: Any,
    forwards: Sequence[ClientForward],
    rows: Any,
    backs: Backs | None = None,
) -> list[Any]:
    """Maps a function of form, client and more over the clients of each group."""
    slots = spec.slots
    groups = slots.split_groups(rows)
    extra = [()] * len(groups) if backs is None else [(back,) for back in backs]
    return [
        map_clients(partial(function, form), chunk_of(spec, width), slots.mesh)(*own, *more)
        for form, width, own, more in zip(forwards, slots.widths, groups, extra, strict=True)
    ]


def chunk_of(spec: RunSpec, clients: int) -> int:
    """How many of a device's clients of a group to compute at once.

    With recomputation at most a quarter: only in a loop does XLA really compute a pass twice.
    """
    return min(spec.chunk, max(1, clients // 4)) if spec.remat else spec.chunk


def forward_one(
    spec: RunSpec, form: ClientForward, client: Client, images: Array, key: Array
) -> tuple[Array, Any, Any]:
    """Runs one client's pruned layers.

    Args:
      spec: of the run.
      form: in which the client computes.
      client: the client.
      images: `[B, ...]`.
      key: of this exchange; drawn from, with the client's number, for a backward pass of int8.

    Returns:
      The activation at the cut, the function that maps a gradient of it to that of the dense
      weights (of which those of pruned weights mean nothing), and the statistics.
    """

    def run(params: Any) -> tuple[Array, Any]:
        return form(params, client.stats, client.masks, images, True, spec.dtype)

    if not spec.integers:
        return jax.vjp(run, client.params, has_aux=True)
    with int8_backward(fold(key, client.number, Stage.CLIENT_BACKWARD)):
        return jax.vjp(run, client.params, has_aux=True)


def send_gradient(
    spec: RunSpec, client: Client, weight_gradient: Any, key: Array
) -> tuple[Any, Any]:
    """Quantizes the kept entries of one client's weight gradient.

    Returns:
      The link's state and the gradient that the client steps with.
    """
    link, quantized, _ = send_tree(
        spec.compressors["client_gradient"](client.number),
        client.compressor_states["client_gradient"],
        fold(key, Stage.CLIENT_GRADIENT),
        weight_gradient,
        spec.pruner.kept(client.masks).params,
    )
    return link, quantized


def _step_one(
    spec: RunSpec, number: Array, client: Client, weight_gradient: Any, key: Array
) -> Client:
    kept = spec.pruner.kept(client.masks).params
    link, quantized = send_gradient(spec, client, weight_gradient, key)
    params, optimizer = masked_step(
        spec.client_optimizer, kept, quantized, client.optimizer, client.params, number
    )
    states = {**client.compressor_states, "client_gradient": link}
    return client.replace(
        params=params,
        optimizer=optimizer,
        compressor_states=states,
        batches_seen=client.batches_seen + 1,
    )
