"""Messages, what they cost, and compressors that chain as Optax chains gradient transformations."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from jfedsl.keys import fold

FLOAT_BITS = 32


class Message(struct.PyTreeNode):
    """What the receiver reconstructs of a tensor, and what sending it cost.

    Attributes:
      values: dense, any shape; exactly 0 where not kept.
      kept: bool, the shape of `values`; None when every entry is sent.
      entry_bits: bits of one sent entry.
      header_bits: bits of all bucket headers together.
    """

    values: Array
    kept: Array | None = None
    entry_bits: Array | int = FLOAT_BITS
    header_bits: Array | int = 0


def kept_only(values: Array, kept: Array | None) -> Message:
    """An uncompressed message of the entries that are kept, of all if `kept` is None."""
    return Message(values if kept is None else jnp.where(kept, values, 0.0), kept)


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
    """Applies compressors in order, each with a key of its own; of nothing, the identity."""

    def init(values: Array) -> tuple[Any, ...]:
        return tuple(compressor.init(values) for compressor in compressors)

    def send(states: Any, key: Array, message: Message) -> tuple[Any, Message]:
        updated = []
        for i, (compressor, state) in enumerate(zip(compressors, states, strict=True)):
            state, message = compressor.send(state, fold(key, i), message)
            updated.append(state)
        return tuple(updated), message

    return Compressor(init, send)


@jax.custom_jvp
def straight_through(x: Array, quantized: Array) -> Array:
    """The value `quantized` with the gradient of `x`: backward, a quantizer is invisible."""
    return quantized


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    return primals[1], tangents[0]


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
      kept: None or a tree of bool arrays like `tree`.

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


def entries(message: Message) -> Array:
    """Entries sent, int32 scalar."""
    if message.kept is None:
        return jnp.int32(message.values.size)
    return jnp.sum(message.kept, dtype=jnp.int32)


def message_bytes(messages: Sequence[Message], extra_bits: Array | int = 0) -> Array:
    """Whole bytes of one transmission made of several tensors, int32 scalar.

    Bits = sum of entries sent * bits an entry + headers + `extra_bits`, rounded up to whole bytes
    once. The bits of all entries are never held in one integer: those of a 67M-parameter float32
    model overflow int32.

    Args:
      messages: the tensors.
      extra_bits: labels or mask bitmaps that travel along.

    Raises:
      ValueError: the tensors as float32 would take 2 GiB or more.
    """
    if sum(message.values.size * FLOAT_BITS // 8 for message in messages) >= 2**31:
        raise ValueError("a message of 2 GiB or more does not fit the byte counter")
    whole, rest = jnp.int32(extra_bits // 8), jnp.int32(extra_bits % 8)
    for message in messages:
        sent = entries(message)
        whole += sent // 8 * message.entry_bits
        whole += message.header_bits // 8
        rest += sent % 8 * message.entry_bits + message.header_bits % 8
    return whole + (rest + 7) // 8
