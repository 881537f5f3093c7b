"""Messages as real bytes, and back, on the host.

The layout has the version `LAYOUT_VERSION`, which is not sent: both ends agree on it. A
transmission is one stream of bits: bit i is bit i % 8 of byte i // 8, and the lowest bit of every
number comes first. In order:

1. the extra fields (labels, pruning masks), as they are given;
2. for each message:
   a. each mask that is not `shared`, in order: first the number of chosen units, 32 bits, if
      `counts` is None; then a list of positions if `is_listed` says that it is shorter than a
      bitmap, with `width` bits for each position in its row, ascending, row after row; otherwise a
      bitmap with a bit for each unit that the masks before it keep, in dense order;
   b. the headers of the buckets with an entry to send, in order, every number a float32;
   c. the codes of the entries to send, in dense order, `bits` for each. Without a coding, or where
      its bits are 32, these are the bits of the float32, and there are no headers;
3. zero bits up to a whole byte, once.

The receiver knows everything else beforehand: shapes, shared masks or the key that they are drawn
from, counts that are not sent, bits, buckets. `message.message_bytes` counts exactly these bytes.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from jfedsl.compression.bits import Field, Reader, Words, write
from jfedsl.compression.buckets import where_kept
from jfedsl.compression.message import (
    COUNT_BITS,
    FLOAT_BITS,
    HEADER_BITS,
    Coding,
    Mask,
    Message,
    candidate_units,
    from_buckets,
    is_listed,
    position_bits,
    to_buckets,
)

LAYOUT_VERSION = 1

Flags = NDArray[np.bool_]


def pack(messages: Sequence[Message], fields: Sequence[Field] = ()) -> bytes:
    """The bytes of one transmission, `message_bytes(messages, bits of the fields)` of them.

    Args:
      messages: of one client, in NumPy or JAX arrays.
      fields: labels or masks that are sent ahead of the messages.

    Raises:
      ValueError: a message contradicts itself: a mask chooses another number of units than its
        counts say, or a code is wider than its bits.
    """
    return write([*fields, *chain.from_iterable(map(_message_fields, messages))])


def unpack(
    data: bytes, outlines: Sequence[Message], fields: Sequence[Field] = ()
) -> tuple[list[Message], list[Field]]:
    """Undoes `pack`.

    Args:
      data: one transmission.
      outlines: what the receiver knows of each message beforehand; see `outline`.
      fields: of the number and width of the codes that are sent; their values do not matter.

    Returns:
      The messages, whose `values` have the same bits as those packed (except for the bits of a
      NaN), and the fields. Headers that were not sent are NaN.

    Raises:
      ValueError: the data is shorter or longer than such messages, or contradicts the outlines.
    """
    reader = Reader(data)
    read = [Field(reader.read(len(codes), width), width) for codes, width in fields]
    messages = [_read_message(reader, known) for known in outlines]
    reader.close()
    return messages, read


def outline(message: Message) -> Message:
    """What the receiver knows of a message beforehand: everything that is sent is set to 0."""
    masks = [
        mask if mask.shared else mask.replace(chosen=jnp.zeros_like(mask.chosen))
        for mask in message.masks
    ]
    coding = message.coding
    if coding is not None:
        coding = coding.replace(
            codes=jnp.zeros_like(coding.codes),
            headers=jnp.zeros_like(coding.headers),
            bits=int(coding.bits),
            header_bits=int(coding.header_bits),
        )
    return Message(jnp.zeros_like(message.values), tuple(masks), coding)


def labels_field(labels: Any, classes: int) -> Field:
    """The field of labels, integers in [0, classes) of any shape."""
    return Field(np.asarray(labels).reshape(-1), position_bits(classes))


def bitmap(mask: Any) -> Field:
    """The field with a bit for each flag, bool of any shape."""
    return Field(np.asarray(mask).reshape(-1), 1)


def read_bitmap(field: Field, shape: tuple[int, ...]) -> Flags:
    """The flags of a `bitmap`."""
    return field.codes.astype(bool).reshape(shape)


def channel_list(mask: Any) -> Field:
    """The field of a channel mask, bool `[channels]`: a bitmap or a list, whichever is shorter.

    The receiver knows how many channels are kept, so the number is not sent.
    """
    flags = np.asarray(mask)
    kept, width = np.flatnonzero(flags), position_bits(flags.size)
    return Field(kept, width) if is_listed(flags.size, kept.size, width) else bitmap(flags)


def read_channel_list(field: Field, channels: int, kept: int) -> Flags:
    """The flags of a `channel_list`."""
    if not is_listed(channels, kept, position_bits(channels)):
        return read_bitmap(field, (channels,))
    flags = np.zeros(channels, bool)
    flags[field.codes] = True
    return flags


def _message_fields(message: Message) -> Iterator[Field]:
    for i, mask in enumerate(message.masks):
        if not mask.shared:
            yield from _mask_fields(
                mask, candidate_units(message.masks[:i], mask, message.values.shape)
            )
    coding, kept = message.coding, message.kept
    if coding is not None and int(coding.header_bits):
        yield Field(_words(np.asarray(coding.headers)[_used(kept, coding)]), HEADER_BITS)
    codes = _words(message.values if coding is None else coding.codes)
    sent = codes if kept is None else codes[np.asarray(kept).reshape(-1)]
    yield Field(sent, int(message.entry_bits))


def _read_message(reader: Reader, known: Message) -> Message:
    shape, masks = known.values.shape, list[Mask]()
    for mask in known.masks:
        if not mask.shared:
            mask = _read_mask(reader, mask, candidate_units(masks, mask, shape))
        masks.append(mask)
    message = known.replace(masks=tuple(masks))
    coding, kept = message.coding, message.kept
    if coding is not None and coding.header_bits:
        coding = coding.replace(headers=_read_headers(reader, _used(kept, coding), coding.headers))
    codes = _read_entries(reader, kept, shape, int(message.entry_bits))
    if coding is not None:
        coding = coding.replace(codes=jnp.asarray(codes))
    if coding is None or coding.bits == FLOAT_BITS:
        return Message(jnp.asarray(codes.view(np.float32)), message.masks, coding)
    return Message(_decoded(coding, kept), message.masks, coding)


@jax.jit
def _decoded(coding: Coding, kept: Array | None) -> Array:
    values = coding.decode(to_buckets(coding.codes, coding.bucket), coding.headers, coding.bits)
    return where_kept(kept, from_buckets(values, coding.codes.shape), 0.0)


def _mask_fields(mask: Mask, candidates: Array | None) -> Iterator[Field]:
    units = _flags(mask, candidates)
    chosen = np.asarray(mask.chosen) & units
    count = int(np.count_nonzero(chosen))
    if mask.counts is None:
        yield Field(np.array([count]), COUNT_BITS)
    else:
        _check(chosen, np.asarray(mask.counts), mask.rows)
    if is_listed(int(np.count_nonzero(units)), count, mask.width):
        yield Field(np.nonzero(chosen.reshape(mask.rows, -1))[1], mask.width)
    else:
        yield Field(chosen[units], 1)


def _read_mask(reader: Reader, mask: Mask, candidates: Array | None) -> Mask:
    units = _flags(mask, candidates)
    counts = reader.read(1, COUNT_BITS) if mask.counts is None else np.asarray(mask.counts)
    among, count = int(np.count_nonzero(units)), int(counts.sum())
    chosen = np.zeros(units.shape, bool)
    if count <= among and is_listed(among, count, mask.width):
        positions = reader.read(count, mask.width)
        width = chosen.size // mask.rows
        # A position past the end of its row, from damaged data, counts in the next row or nowhere;
        # then the check below fails.
        flat = np.repeat(np.arange(mask.rows) * width, counts) + positions
        chosen.reshape(-1)[flat[flat < chosen.size]] = True
    else:
        chosen[units] = reader.read(among, 1)
    _check(chosen & units, counts, mask.rows)
    return mask.replace(chosen=jnp.asarray(chosen))


def _flags(mask: Mask, candidates: Array | None) -> Flags:
    """Flags of the units that a mask could choose; None: all."""
    return np.ones(mask.chosen.shape, bool) if candidates is None else np.asarray(candidates)


def _check(chosen: Flags, counts: NDArray[Any], rows: int) -> None:
    """Raises ValueError if the rows of a mask do not choose as many units as `counts` says."""
    actual = np.count_nonzero(chosen.reshape(rows, -1), axis=1)
    if not np.array_equal(actual, counts):
        raise ValueError(f"a mask should choose {counts} of the candidates but chooses {actual}")


def _used(kept: Array | None, coding: Coding) -> Flags:
    """Which buckets have an entry that is sent, bool `[buckets]`."""
    if kept is None:
        return np.ones(len(coding.headers), bool)
    return np.asarray(jnp.any(to_buckets(kept, coding.bucket), axis=1))


def _words(x: Any) -> Words:
    """The bit patterns of uint32 or float32 entries, uint32 `[size]`."""
    return np.asarray(x).reshape(-1).view(np.uint32)


def _read_headers(reader: Reader, used: Flags, like: Array) -> Array:
    headers = np.full(like.shape, np.nan, np.float32)
    sent = reader.read(headers[used].size, HEADER_BITS)
    headers[used] = sent.view(np.float32).reshape(-1, like.shape[1])
    return jnp.asarray(headers)


def _read_entries(reader: Reader, kept: Array | None, shape: tuple[int, ...], bits: int) -> Words:
    """Codes of the entries that are sent and 0 for the others, uint32 of that shape."""
    if kept is None:
        return reader.read(math.prod(shape), bits).reshape(shape)
    codes = np.zeros(shape, np.uint32)
    codes[np.asarray(kept)] = reader.read(int(np.count_nonzero(kept)), bits)
    return codes
