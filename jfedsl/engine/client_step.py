"""What clients compute in an exchange: their layers forward and backward, and their step."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
from jax import Array

from jfedsl.compression.compressor import send_tree
from jfedsl.engine.exchange import Exchange
from jfedsl.engine.optimizers import masked_step
from jfedsl.engine.proximal import with_proximal_term
from jfedsl.engine.state import Client, RunSpec
from jfedsl.keys import Stage, fold
from jfedsl.nn.int8 import int8_backward
from jfedsl.pruning.pruner import ClientForward
from jfedsl.sharding.client_map import map_clients

# From the gradient at the cut `[P, B, ...]` to the gradients of clients' weights `[P, ...]`.
ClientVjp = Callable[[Array], Any]


def client_forward(x: Exchange, clients: Client, inputs: Array) -> tuple[Client, Array, ClientVjp]:
    """Runs the participants' layers.

    Forward and backward pass are two maps over clients, as the server is between them; what the
    backward pass needs of the forward pass waits in `client_vjp`.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      inputs: `[P, B, ...]`.

    Returns:
      The participants with new statistics, the activations at the cut `[P, B, ...]`, and
      `client_vjp`. Its gradients of pruned weights mean nothing: no client steps on them.
    """
    spec, key = x.spec, x.key
    if any(x.data.frozen[: spec.cut]) and not spec.remat:
        return _forward_together(x, clients, inputs)

    def one(forward: ClientForward, client: Client, inputs: Array) -> Any:
        activation, vjp, stats = forward_one(spec, forward, client, inputs, key)
        # With recomputation nothing may wait for the server but the inputs.
        return (activation, stats), None if spec.remat else vjp

    outputs, vjps = zip(*_map(spec, one, x.forwards, (clients, inputs)), strict=True)
    activation, stats = spec.slots.join_groups(outputs)
    client_vjp = partial(_backward, x, clients, inputs, vjps)
    return clients.replace(stats=stats), activation, client_vjp


def _forward_together(
    x: Exchange, clients: Client, inputs: Array
) -> tuple[Client, Array, ClientVjp]:
    """`client_forward` of layers with frozen variables: one backward pass for all participants.

    What the backward pass needs of these variables is the same for all. As a result of a map over
    clients it would be copied for each of them.
    """
    spec, key = x.spec, x.key

    def one(forward: ClientForward, client: Client, inputs: Array) -> tuple[Array, Any]:
        return _layers(spec, forward, client, inputs, key)

    def run(params: Any) -> tuple[Array, Any]:
        rows = clients.replace(params=params), inputs
        outputs: tuple[Array, Any] = spec.slots.join_groups(_map(spec, one, x.forwards, rows))
        return outputs

    activation, vjp, stats = jax.vjp(run, clients.params, has_aux=True)
    return clients.replace(stats=stats), activation, lambda gradient: vjp(gradient)[0]


def _backward(
    x: Exchange, clients: Client, inputs: Array, vjps: Sequence[Any], gradient: Array
) -> Any:
    """Gradients of the participants' weights `[P, ...]`."""
    spec, key = x.spec, x.key

    def one(
        forward: ClientForward, client: Client, inputs: Array, gradient: Array, vjp: Any
    ) -> Any:
        if spec.remat:
            _, vjp, _ = forward_one(spec, forward, client, inputs, key)
        return vjp(gradient)[0]

    rows = _map(spec, one, x.forwards, (clients, inputs, gradient), vjps)
    return spec.slots.join_groups(rows)


def client_step(x: Exchange, clients: Client, weight_gradient: Any) -> Client:
    """The participants after quantizing their weight gradients and stepping on kept weights.

    The gradients get the term of `--proximal` first.

    Args:
      x: the exchange.
      clients: the participants, `[P, ...]`.
      weight_gradient: like their parameters, `[P, ...]`.
    """
    step, gradient = (
        partial(_step_one, x.spec, x.step),
        with_proximal_term(x, clients, weight_gradient),
    )
    return jax.vmap(step)(clients, gradient, x.client_keys)


def _map(
    spec: RunSpec,
    function: Any,
    forwards: Sequence[ClientForward],
    rows: Any,
    vjps: Sequence[Any] | None = None,
) -> list[Any]:
    """Maps a function of forward pass, client and more over the clients of each group."""
    slots = spec.slots
    groups = slots.split_groups(rows)
    extra = [()] * len(groups) if vjps is None else [(vjp,) for vjp in vjps]
    return [
        map_clients(partial(function, forward), chunk_of(spec, width), slots.mesh)(*group, *more)
        for forward, width, group, more in zip(
            forwards, slots.group_slots, groups, extra, strict=True
        )
    ]


def chunk_of(spec: RunSpec, clients: int) -> int:
    """How many of a device's `clients` of a group to compute at once.

    With recomputation at most a quarter: only in a loop does XLA really compute a pass twice.
    """
    return min(spec.chunk, max(1, clients // 4)) if spec.remat else spec.chunk


def forward_one(
    spec: RunSpec, forward: ClientForward, client: Client, images: Array, key: Array
) -> tuple[Array, Any, Any]:
    """Runs one client's pruned layers.

    Args:
      spec: functions and static numbers of the run.
      forward: how the client computes its layers.
      client: the client.
      images: `[B, ...]`.
      key: of this exchange; drawn from, with the client's number, for a backward pass of int8.

    Returns:
      The activation at the cut, the function that maps a gradient of it to that of the dense
      weights (of which those of pruned weights mean nothing), and the statistics.
    """

    def run(params: Any) -> tuple[Array, Any]:
        return _layers(spec, forward, client.replace(params=params), images, key)

    return jax.vjp(run, client.params, has_aux=True)


def _layers(
    spec: RunSpec, forward: ClientForward, client: Client, images: Array, key: Array
) -> tuple[Array, Any]:
    """The activation at the cut and the statistics of one client; arguments as `forward_one`."""
    with backward_mode(spec, key, client.number, Stage.CLIENT_BACKWARD):
        return forward(client.params, client.stats, client.masks, images, True, spec.dtype)


def backward_mode(spec: RunSpec, key: Array, *data: Array | int) -> AbstractContextManager[None]:
    """A context in which clients' layers are differentiated in int8, if the run asks for it.

    Args:
      spec: functions and static numbers of the run.
      key: of this exchange.
      *data: folded into the key, where the backward pass draws.
    """
    return int8_backward(fold(key, *data)) if spec.integers else nullcontext()


def send_gradient(
    spec: RunSpec, client: Client, weight_gradient: Any, key: Array
) -> tuple[Any, Any]:
    """Quantizes the kept entries of one client's weight gradient.

    Returns:
      The compressor's state and the gradient that the client steps with.
    """
    state, quantized, _ = send_tree(
        spec.compressors["client_gradient"](client.number),
        client.compressor_states["client_gradient"],
        fold(key, Stage.CLIENT_GRADIENT),
        weight_gradient,
        spec.pruner.kept(client.masks).params,
    )
    return state, quantized


def _step_one(
    spec: RunSpec, number: Array, client: Client, weight_gradient: Any, key: Array
) -> Client:
    kept = spec.pruner.kept(client.masks).params
    state, quantized = send_gradient(spec, client, weight_gradient, key)
    params, optimizer = masked_step(
        spec.client_optimizer, kept, quantized, client.optimizer, client.params, number
    )
    states = {**client.compressor_states, "client_gradient": state}
    return client.replace(params=params, optimizer=optimizer, compressor_states=states)
