"""Messages: the values of a tensor, which of them are sent, how they are coded, and the cost."""

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
    """Which entries are sent, and what has to be sent about that.

    A unit is what one flag stands for: an entry, or a feature or channel that is kept or left out
    as a whole.

    Attributes:
      chosen: bool, one flag for each unit; broadcasts to the values.
      shared: whether the receiver knows the mask beforehand, or draws it from a shared key.
      counts: int32 `[rows]`, how many units are chosen in each row, where the receiver knows that;
        None: the number is sent too.
      rows: number of rows of units; positions are counted within a row.
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
    """How entries are coded: one code for each entry, one header for each bucket.

    Attributes:
      codes: uint32, of the shape of the values.
      headers: float32 `[buckets, H]`.
      bits: of a code.
      header_bits: of the header of a bucket; a multiple of 8.
      bucket: number of consecutive entries of the dense array that share a header.
      decode: the receiver's values from codes and headers; the same bits in every program.
    """

    codes: Array
    headers: Array
    bits: Array | int
    header_bits: Array | int
    bucket: int = struct.field(pytree_node=False)
    decode: Decode = struct.field(pytree_node=False)


class Message(struct.PyTreeNode):
    """The tensor that the receiver reconstructs, and everything that its cost depends on.

    Attributes:
      values: dense, any shape; exactly 0 where not kept.
      masks: in the order in which they were applied; an entry is sent if all of them keep it.
      coding: of the entries; None: they are sent as float32.
    """

    values: Array
    masks: tuple[Mask, ...] = ()
    coding: Coding | None = None

    @property
    def kept(self) -> Array | None:
        """Which entries are sent, bool like `values`; None for all of them."""
        return intersection(self.masks, self.values.shape)

    @property
    def entry_bits(self) -> Array | int:
        """Bits of one entry that is sent."""
        return FLOAT_BITS if self.coding is None else self.coding.bits


def unquantized(message: Message) -> Message:
    """The message itself; checks that it is not quantized yet.

    Raises:
      ValueError: it is quantized. The receiver could not undo what happens to codes after that.
    """
    if message.coding is not None:
        raise ValueError(
            "a quantizer must be the last of a chain: the message is quantized already"
        )
    return message


def kept_only(values: Array, kept: Array | None) -> Message:
    """The uncompressed message of the entries that both ends know to be kept; None: all entries."""
    if kept is None:
        return Message(values)
    return Message(jnp.where(kept, values, 0.0), (Mask(kept),))


def intersection(masks: Sequence[Mask], shape: tuple[int, ...]) -> Array | None:
    """The entries that all masks keep, bool of a shape; None: all entries."""
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


def candidate_units(masks: Sequence[Mask], mask: Mask, shape: tuple[int, ...]) -> Array | None:
    """The units that a mask could choose: those kept by the masks before it; None: all.

    Args:
      masks: those before it.
      mask: in question.
      shape: of the values.

    Returns:
      Bool, of the shape of `mask.chosen`.
    """
    return kept_units(intersection(masks, shape), mask.chosen.shape)


def kept_units(kept: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Whether any entry of each unit is kept.

    Args:
      kept: bool, which entries are kept; None: all.
      shape: of the flags of units: that of `kept`, but 1 along axes that a unit spans.

    Returns:
      Bool of that shape; None: all.
    """
    if kept is None or kept.shape == shape:
        return kept
    spanned = tuple(i for i, size in enumerate(shape) if size != kept.shape[i])
    return jnp.any(kept, axis=spanned, keepdims=True)


def position_bits(size: int) -> int:
    """Bits of a position among `size` positions.

    >>> [position_bits(size) for size in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
    """
    return max(0, size - 1).bit_length()


def is_listed(among: Number, count: Number, width: int) -> Number | bool:
    """Whether a list of `count` positions is shorter than a bitmap of `among` bits."""
    # The same as count * width < among, but the product might overflow.
    return width == 0 or count <= (among - 1) // width


def choice_bits(among: Array | int, count: Array, width: int) -> Array:
    """Bits that tell which units are chosen: as a bitmap or a list, whichever is shorter; int32.

    Args:
      among: number of candidates; a bitmap has a bit for each.
      count: number of chosen units.
      width: bits of a position in a list.
    """
    return jnp.where(is_listed(jnp.int32(among), count, width), count * width, among)


def mask_bits(message: Message) -> Array:
    """Bits that tell the receiver which entries are sent, int32."""
    bits, shape = jnp.int32(0), message.values.shape
    for i, mask in enumerate(message.masks):
        if mask.shared:
            continue
        units = candidate_units(message.masks[:i], mask, shape)
        chosen = mask.chosen if units is None else mask.chosen & units
        among = mask.chosen.size if units is None else jnp.sum(units, dtype=jnp.int32)
        bits += choice_bits(among, jnp.sum(chosen, dtype=jnp.int32), mask.width)
        bits += 0 if mask.counts is not None else COUNT_BITS
    return bits


def entries(message: Message) -> Array:
    """The number of entries sent, int32 scalar."""
    kept = message.kept
    return jnp.int32(message.values.size) if kept is None else jnp.sum(kept, dtype=jnp.int32)


def buckets(message: Message) -> Array:
    """The number of buckets with an entry that is sent, which are those with a header; int32."""
    coding, kept = message.coding, message.kept
    if coding is None:
        return jnp.int32(0)
    if kept is None:
        return jnp.int32(len(coding.headers))
    return jnp.sum(jnp.any(to_buckets(kept, coding.bucket), axis=1), dtype=jnp.int32)


def message_bytes(messages: Sequence[Message], extra_bits: Array | int = 0) -> Array:
    """Whole bytes of one transmission of several tensors, int32 scalar.

    Bits = sum over tensors of entries sent * bits of an entry + headers + bits of masks, and
    `extra_bits`; rounded up to whole bytes once. The bits of all entries are never held in one
    integer: those of a 67M-parameter float32 model overflow int32.

    Args:
      messages: one for each tensor.
      extra_bits: of labels or pruning masks that are sent along.

    Raises:
      ValueError: the transmission might take 2 GiB or more.
    """
    if sum(map(_most_bytes, messages)) >= 2**31:
        raise ValueError("a message of 2 GiB or more does not fit the byte counter")
    whole, rest = jnp.int32(extra_bits // 8), jnp.int32(extra_bits % 8)
    for message in messages:
        sent, mask = entries(message), mask_bits(message)
        whole += sent // 8 * message.entry_bits + mask // 8
        rest += sent % 8 * message.entry_bits + mask % 8
        if message.coding is not None:
            whole += buckets(message) * (message.coding.header_bits // 8)
    return whole + (rest + 7) // 8


def _most_bytes(message: Message) -> int:
    """An upper limit of a message's bytes: all entries as float32, all headers, all masks."""
    coding = message.coding
    headers = 0 if coding is None else coding.headers.size * HEADER_BITS // 8
    masks = sum(mask.chosen.size // 8 + 1 + COUNT_BITS // 8 for mask in message.masks)
    return message.values.size * FLOAT_BITS // 8 + headers + masks


@jax.custom_jvp
def straight_through(x: Array, quantized: Array) -> Array:
    """The value `quantized` with the gradient of `x`: the straight-through estimator."""
    return quantized


@straight_through.defjvp
def _straight_through_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    return primals[1], tangents[0]


def as_bits(x: Array) -> Array:
    """The bit pattern of float32 as uint32."""
    return lax.bitcast_convert_type(x, jnp.uint32)


def from_bits(codes: Array) -> Array:
    """Undoes `as_bits`."""
    return lax.bitcast_convert_type(codes, jnp.float32)
