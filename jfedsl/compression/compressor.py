"""Compressors: links that chain as Optax chains gradient transformations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.compression.message import Message, kept_only
from jfedsl.keys import fold


class Compressor(NamedTuple):
    """A link for one tensor of one client.

    Attributes:
      init: `values -> state`, a pytree; `()` for compressors without memory.
      send: `(state, key, message) -> (state, message)`.
    """

    init: Callable[[Array], Any]
    send: Callable[[Any, Array, Message], tuple[Any, Message]]


def stateless(send: Callable[[Array, Message], Message]) -> Compressor:
    """A compressor without memory, from `(key, message) -> message`."""
    return Compressor(lambda values: (), lambda state, key, message: (state, send(key, message)))


def chain(*compressors: Compressor) -> Compressor:
    """Applies compressors in order, each with a key of its own; of nothing, the identity.

    What leaves entries out comes before what quantizes the others.
    """

    def init(values: Array) -> tuple[Any, ...]:
        return tuple(compressor.init(values) for compressor in compressors)

    def send(states: Any, key: Array, message: Message) -> tuple[Any, Message]:
        updated = []
        for i, (compressor, state) in enumerate(zip(compressors, states, strict=True)):
            state, message = compressor.send(state, fold(key, i), message)
            updated.append(state)
        return tuple(updated), message

    return Compressor(init, send)


def feedback(compressor: Compressor) -> Compressor:
    """Error feedback (arXiv 1901.09847): what a message lacks is added to the next one.

    With x what is to be sent and e what is left from before, x + e is sent as y and x + e - y is
    left, on entries that may be sent; that of others waits. The state is e with the compressor's.
    """

    def init(values: Array) -> tuple[Array, Any]:
        return jnp.zeros_like(values), compressor.init(values)

    def send(state: tuple[Array, Any], key: Array, message: Message) -> tuple[Any, Message]:
        (left, inner), kept = state, message.kept
        wanted = message.values + left
        if kept is not None:
            wanted = jnp.where(kept, wanted, 0.0)
        inner, sent = compressor.send(inner, key, message.replace(values=wanted))
        missing = lax.stop_gradient(wanted - sent.values)
        return (missing if kept is None else jnp.where(kept, missing, left), inner), sent

    return Compressor(init, send)


def init_tree(compressor: Compressor, tree: Any) -> tuple[Any, ...]:
    """One state a leaf."""
    return tuple(compressor.init(leaf) for leaf in jax.tree.leaves(tree))


def send_tree(
    compressor: Compressor, states: Any, key: Array, tree: Any, kept: Any = None
) -> tuple[Any, Any, list[Message]]:
    """Sends every leaf as a tensor of its own, entries that are not kept as 0.

    Args:
      compressor: applied to each leaf.
      states: from `init_tree`.
      key: scalar PRNG key, folded with the leaf's number.
      tree: arrays.
      kept: None or a tree of bool arrays like `tree`, which the receiver knows.

    Returns:
      New states, the tree the receiver reconstructs, and the messages it came in.
    """
    leaves, treedef = jax.tree.flatten(tree)
    masks = [None] * len(leaves) if kept is None else jax.tree.leaves(kept)
    updated, messages = [], []
    for i, (state, leaf, mask) in enumerate(zip(states, leaves, masks, strict=True)):
        state, message = compressor.send(state, fold(key, i), kept_only(leaf, mask))
        updated.append(state)
        messages.append(message)
    values = jax.tree.unflatten(treedef, [message.values for message in messages])
    return tuple(updated), values, messages
