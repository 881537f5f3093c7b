"""Compressors, which are chained as Optax chains gradient transformations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jfedsl.compression.message import Message, kept_only
from jfedsl.keys import fold


class Compressor(NamedTuple):
    """Sends one tensor of one client, as a pair of pure functions.

    Attributes:
      init: `values -> state`, a pytree; `()` for compressors without memory.
      send: `(state, key, message) -> (state, message)`; the message that comes out holds what the
        receiver reconstructs, and its cost.
    """

    init: Callable[[Array], Any]
    send: Callable[[Any, Array, Message], tuple[Any, Message]]


def stateless(send: Callable[[Array, Message], Message]) -> Compressor:
    """A compressor without memory, from `(key, message) -> message`."""
    return Compressor(lambda values: (), lambda state, key, message: (state, send(key, message)))


def chain(*compressors: Compressor) -> Compressor:
    """Applies compressors in order, with independent keys; without compressors, the identity.

    A quantizer has to be the last.
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
    """Error feedback (arXiv 1901.09847): the error of a message is added to the next one.

    With x the tensor and e the error so far, x + e is compressed to y, which is sent, and the new
    error is x + e - y. Entries that a mask excludes beforehand keep their error. The state is e and
    the state of the compressor.
    """

    def init(values: Array) -> tuple[Array, Any]:
        return jnp.zeros_like(values), compressor.init(values)

    def send(state: tuple[Array, Any], key: Array, message: Message) -> tuple[Any, Message]:
        (error, inner), kept = state, message.kept
        corrected = message.values + error
        if kept is not None:
            corrected = jnp.where(kept, corrected, 0.0)
        inner, sent = compressor.send(inner, key, message.replace(values=corrected))
        new_error = lax.stop_gradient(corrected - sent.values)
        return (new_error if kept is None else jnp.where(kept, new_error, error), inner), sent

    return Compressor(init, send)


def init_tree(compressor: Compressor, tree: Any) -> tuple[Any, ...]:
    """The states of a compressor for a tree, one for each leaf."""
    return tuple(compressor.init(leaf) for leaf in jax.tree.leaves(tree))


def send_tree(
    compressor: Compressor, states: Any, key: Array, tree: Any, kept: Any = None
) -> tuple[Any, Any, list[Message]]:
    """Sends every leaf of a tree as a separate message; entries that are not kept arrive as 0.

    Args:
      compressor: applied to each leaf.
      states: from `init_tree`.
      key: scalar PRNG key, folded with the leaf's number.
      tree: of arrays.
      kept: tree of bools like `tree`, known to the receiver; None: all entries are kept.

    Returns:
      New states, the tree that the receiver reconstructs, and the message of each leaf.
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
