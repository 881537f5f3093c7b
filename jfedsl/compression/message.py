"""What travels over a link: values, which of them, how they are written, and how long that is."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array, lax

FLOAT_BITS = 32
COUNT_BITS = 32
HEADER_BITS = 32  # of one float32 of a bucket's header

# (codes uint32 [N, bucket], headers float32 [N, H], bits) -> values float32 [N, bucket]
Decode = Callable[[Array, Array, Array | int], Array]
Number = TypeVar("Number", int, Array)


class Mask(struct.PyTreeNode):
    """Which entries are sent, and what the receiver has to be told of that.

    Attributes:
      chosen: bool, broadcasts to the values: one flag for all that is kept or left as a whole.
      shared: the receiver knows the mask beforehand, or draws it from the key both ends share.
      counts: int32 `[rows]`, how many are chosen in each row where the receiver knows that; None:
        the number travels too.
      rows: in which positions are numbered from 0 on.
    """

    chosen: Array
    shared: bool = struct.field(pytree_node=False, default=True)
    counts: Array | None = None
    rows: int = struct.field(pytree_node=False, default=1)

    @property
    def width(self) -> int:
        """Bits of a position in a row."""
        return position_bits(self.chosen.size // self.rows)


class Coding(struct.PyTreeNode):
    """How the entries are written: a code each, and a header for each bucket.

    Attributes:
      codes: uint32, the shape of the values.
      headers: float32 `[buckets, H]`.
      bits: of a code.
      header_bits: of a bucket, whole bytes.
      bucket: consecutive entries of the dense array that share a header.
      decode: what the receiver makes of codes and headers; gives the same bits in any program.
    """

    codes: Array
    headers: Array
    bits: Array | int
    header_bits: Array | int
    bucket: int = struct.field(pytree_node=False)
    decode: Decode = struct.field(pytree_node=False)


class Message(struct.PyTreeNode):
    """What the receiver reconstructs of a tensor, and what sending it takes.

    Attributes:
      values: dense, any shape; exactly 0 where not kept.
      masks: an entry is sent where all of them have it.
      coding: of the entries; None writes them as float32.
    """

    values: Array
    masks: tuple[Mask, ...] = ()
    coding: Coding | None = None

    @property
    def kept(self) -> Array | None:
        """Which entries are sent, bool like `values`; None for all of them."""
        return together(self.masks, self.values.shape)

    @property
    def entry_bits(self) -> Array | int:
        """Bits of one entry that is sent."""
        return FLOAT_BITS if self.coding is None else self.coding.bits


def unwritten(message: Message) -> Message:
    """The message, if nothing has quantized it yet.

    Raises:
      ValueError: it is quantized; the receiver could not undo what happens to codes after that.
    """
    if message.coding is not None:
        raise ValueError("what leaves entries out comes before what quantizes them, and that once")
    return message


def kept_only(values: Array, kept: Array | None) -> Message:
    """The entries that both ends know to be kept, of all if `kept` is None, uncompressed."""
    if kept is None:
        return Message(values)
    return Message(jnp.where(kept, values, 0.0), (Mask(kept),))


def together(masks: Sequence[Mask], shape: tuple[int, ...]) -> Array | None:
    """The entries that all masks have, bool of a shape, or None for all of them."""
    if not masks:
        return None
    return functools.reduce(
        jnp.logical_and, [jnp.broadcast_to(mask.chosen, shape) for mask in masks]
    )


def to_buckets(x: Array, width: int) -> Array:
    """Consecutive entries as rows `[N, width]`, filled up with zeros."""
    flat = jnp.pad(x.reshape(-1), (0, -x.size % width))
    return flat.reshape(-1, width)


def from_buckets(x: Array, shape: tuple[int, ...]) -> Array:
    """Undoes `to_buckets`."""
    return x.reshape(-1)[: math.prod(shape)].reshape(shape)


def candidates(masks: Sequence[Mask], mask: Mask, shape: tuple[int, ...]) -> Array | None:
    """What of a mask is still open after the masks before it, like its `chosen`; None: all."""
    return still_open(together(masks, shape), mask.chosen.shape)


def still_open(kept: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Whether any entry of each unit is kept; a unit is all that an axis of length 1 spans."""
    if kept is None or kept.shape == shape:
        return kept
    spanned = tuple(i for i, size in enumerate(shape) if size != kept.shape[i])
    return jnp.any(kept, axis=spanned, keepdims=True)


def position_bits(size: int) -> int:
    """Bits of a position among so many.

    >>> [position_bits(size) for size in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
    """
    return max(0, size - 1).bit_length()


def is_listed(open_: Number, count: Number, width: int) -> Number | bool:
    """Whether a list of positions is shorter than a bitmap; the product might overflow."""
    return width == 0 or count <= (open_ - 1) // width


def choice_bits(open_: Array | int, count: Array, width: int) -> Array:
    """Bits that tell which `count` of so many are chosen: a bitmap or a list, the shorter, int32.

    Args:
      open_: how many could be; a bitmap has a bit for each.
      count: how many are.
      width: bits of a position.
    """
    return jnp.where(is_listed(jnp.int32(open_), count, width), count * width, open_)


def told_bits(message: Message) -> Array:
    """Bits that tell the receiver which entries are sent, int32."""
    bits, shape = jnp.int32(0), message.values.shape
    for i, mask in enumerate(message.masks):
        if mask.shared:
            continue
        open_ = candidates(message.masks[:i], mask, shape)
        chosen = mask.chosen if open_ is None else mask.chosen & open_
        among = mask.chosen.size if open_ is None else jnp.sum(open_, dtype=jnp.int32)
        bits += choice_bits(among, jnp.sum(chosen, dtype=jnp.int32), mask.width)
        bits += 0 if mask.counts is not None else COUNT_BITS
    return bits


def entries(message: Message) -> Array:
    """Entries sent, int32 scalar."""
    kept = message.kept
    return jnp.int32(message.values.size) if kept is None else jnp.sum(kept, dtype=jnp.int32)


def buckets(message: Message) -> Array:
    """Buckets with an entry that is sent: each has a header; int32 scalar."""
    coding, kept = message.coding, message.kept
    if coding is None:
        return jnp.int32(0)
    if kept is None:
        return jnp.int32(len(coding.headers))
    return jnp.sum(jnp.any(to_buckets(kept, coding.bucket), axis=1), dtype=jnp.int32)


def message_bytes(messages: Sequence[Message], extra_bits: Array | int = 0) -> Array:
    """Whole bytes of one transmission made of several tensors, int32 scalar.

    Bits = sum of entries sent * bits an entry + headers + what tells the kept ones + `extra_bits`,
    rounded up to whole bytes once. The bits of all entries are never held in one integer: those of
    a 67M-parameter float32 model overflow int32.

    Args:
      messages: the tensors.
      extra_bits: labels or masks that travel along.

    Raises:
      ValueError: they might take 2 GiB or more.
    """
    if sum(map(_most_bytes, messages)) >= 2**31:
        raise ValueError("a message of 2 GiB or more does not fit the byte counter")
    whole, rest = jnp.int32(extra_bits // 8), jnp.int32(extra_bits % 8)
    for message in messages:
        sent, told = entries(message), told_bits(message)
        whole += sent // 8 * message.entry_bits + told // 8
        rest += sent % 8 * message.entry_bits + told % 8
        if message.coding is not None:
            whole += buckets(message) * (message.coding.header_bits // 8)
    return whole + (rest + 7) // 8


def _most_bytes(message: Message) -> int:
    """Bytes of a message with everything kept, in float32 and with all its headers."""
    coding = message.coding
    headers = 0 if coding is None else coding.headers.size * HEADER_BITS // 8
    told = sum(mask.chosen.size // 8 + 1 + COUNT_BITS // 8 for mask in message.masks)
    return message.values.size * FLOAT_BITS // 8 + headers + told


@jax.custom_jvp
def straight_through(x: Array, quantized: Array) -> Array:
    """The value `quantized` with the gradient of `x`: backward, a quantizer is invisible."""
    return quantized


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    return primals[1], tangents[0]


def as_bits(x: Array) -> Array:
    """float32 as the uint32 that it is written as."""
    return lax.bitcast_convert_type(x, jnp.uint32)


def from_bits(codes: Array) -> Array:
    """Undoes `as_bits`."""
    return lax.bitcast_convert_type(codes, jnp.float32)
