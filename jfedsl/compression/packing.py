"""Messages as real bytes, and back, on the host.

Layout, version `LAYOUT_VERSION` (not part of a transmission; both ends agree on it). A transmission
is one stream of bits: bit i is bit i % 8 of byte i // 8, and of every number the lowest bit comes
first. In order:

1. the extra fields (labels, pruning masks), as they are given;
2. each message:
   a. each mask that is not `shared`, in order. How many are chosen, 32 bits, where `counts` is
      None. Then a list of positions, where `is_listed` has it shorter than a bitmap: positions in
      a row, `width` bits each, ascending, row after row. Otherwise a bit for each unit that is
      still open after the masks before, in dense order;
   b. the headers of the buckets that have an entry to send, in order, each number a float32;
   c. the codes of the entries to send, in dense order, `bits` each: the bits of the float32 where
      there is no coding or its bits are 32, and then no headers either;
3. zero bits up to a whole byte, once.

The receiver knows all else beforehand: shapes, shared masks and the key others are drawn from,
counts that do not travel, bits, buckets. `message.message_bytes` counts just these bytes.
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
from jfedsl.compression.buckets import only
from jfedsl.compression.message import (
    COUNT_BITS,
    FLOAT_BITS,
    HEADER_BITS,
    Coding,
    Mask,
    Message,
    candidates,
    from_buckets,
    is_listed,
    position_bits,
    to_buckets,
)

LAYOUT_VERSION = 1

Flags = NDArray[np.bool_]


def pack(messages: Sequence[Message], fields: Sequence[Field] = ()) -> bytes:
    """One transmission: `message_bytes(messages, bits of the fields)` bytes.

    Args:
      messages: of one client, in NumPy or JAX arrays.
      fields: what travels ahead of them.

    Raises:
      ValueError: a message contradicts itself: its masks choose another number than their counts,
        or a code is wider than its bits.
    """
    return write([*fields, *chain.from_iterable(map(_message_fields, messages))])


def unpack(
    data: bytes, outlines: Sequence[Message], fields: Sequence[Field] = ()
) -> tuple[list[Message], list[Field]]:
    """Undoes `pack`.

    Args:
      data: one transmission.
      outlines: what the receiver knows of each message beforehand, as `outline` has it.
      fields: as many codes as wide as those that travel; their values do not matter.

    Returns:
      The messages, their `values` with the same bits as what was packed (but which NaN it is), and
      the fields. Headers that did not travel are NaN.

    Raises:
      ValueError: the data is shorter or longer than such messages, or contradicts the outlines.
    """
    reader = Reader(data)
    read = [Field(reader.read(len(codes), width), width) for codes, width in fields]
    messages = [_read_message(reader, known) for known in outlines]
    reader.close()
    return messages, read


def outline(message: Message) -> Message:
    """What the receiver knows of a message beforehand: everything that travels is zeroed."""
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
    """Labels, integers in [0, classes) of any shape."""
    return Field(np.asarray(labels).reshape(-1), position_bits(classes))


def bitmap(mask: Any) -> Field:
    """A bit for each flag, bool of any shape."""
    return Field(np.asarray(mask).reshape(-1), 1)


def read_bitmap(field: Field, shape: tuple[int, ...]) -> Flags:
    """The flags of a `bitmap`."""
    return field.codes.astype(bool).reshape(shape)


def channel_list(mask: Any) -> Field:
    """Which channels are kept, bool `[channels]`: a bitmap or their numbers, the shorter.

    The receiver knows how many are kept.
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
            yield from _mask_fields(mask, candidates(message.masks[:i], mask, message.values.shape))
    coding, kept = message.coding, message.kept
    if coding is not None and int(coding.header_bits):
        yield Field(_words(np.asarray(coding.headers)[_used(kept, coding)]), HEADER_BITS)
    codes = _words(message.values if coding is None else coding.codes)
    sent = codes if kept is None else codes[np.asarray(kept).reshape(-1)]
    yield Field(sent, int(message.entry_bits))


def _read_message(reader: Reader, known: Message) -> Message:
    shape, masks = known.values.shape, list[Mask]()
    for mask in known.masks:
        told = mask if mask.shared else _read_mask(reader, mask, candidates(masks, mask, shape))
        masks.append(told)
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
    return only(kept, from_buckets(values, coding.codes.shape), 0.0)


def _mask_fields(mask: Mask, open_: Array | None) -> Iterator[Field]:
    units = _units(mask, open_)
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


def _read_mask(reader: Reader, mask: Mask, open_: Array | None) -> Mask:
    units = _units(mask, open_)
    counts = reader.read(1, COUNT_BITS) if mask.counts is None else np.asarray(mask.counts)
    among, count = int(np.count_nonzero(units)), int(counts.sum())
    chosen = np.zeros(units.shape, bool)
    if count <= among and is_listed(among, count, mask.width):
        positions = reader.read(count, mask.width)
        row = chosen.size // mask.rows
        # One past the end of its row is one too few to be counted there, or none at all.
        places = np.repeat(np.arange(mask.rows) * row, counts) + positions
        chosen.reshape(-1)[places[places < chosen.size]] = True
    else:
        chosen[units] = reader.read(among, 1)
    _check(chosen & units, counts, mask.rows)
    return mask.replace(chosen=jnp.asarray(chosen))


def _units(mask: Mask, open_: Array | None) -> Flags:
    """What of a mask is still open."""
    return np.ones(mask.chosen.shape, bool) if open_ is None else np.asarray(open_)


def _check(chosen: Flags, counts: NDArray[Any], rows: int) -> None:
    found = np.count_nonzero(chosen.reshape(rows, -1), axis=1)
    if not np.array_equal(found, counts):
        raise ValueError(f"a mask should choose {counts} of what is open but chooses {found}")


def _used(kept: Array | None, coding: Coding) -> Flags:
    """Buckets with an entry that is sent."""
    if kept is None:
        return np.ones(len(coding.headers), bool)
    return np.asarray(jnp.any(to_buckets(kept, coding.bucket), axis=1))


def _words(x: Any) -> Words:
    """uint32 or float32 as uint32, in one row."""
    return np.asarray(x).reshape(-1).view(np.uint32)


def _read_headers(reader: Reader, used: Flags, like: Array) -> Array:
    headers = np.full(like.shape, np.nan, np.float32)
    sent = reader.read(headers[used].size, HEADER_BITS)
    headers[used] = sent.view(np.float32).reshape(-1, like.shape[1])
    return jnp.asarray(headers)


def _read_entries(reader: Reader, kept: Array | None, shape: tuple[int, ...], bits: int) -> Words:
    """Codes of the entries that are sent, 0 for the others, uint32 of a shape."""
    if kept is None:
        return reader.read(math.prod(shape), bits).reshape(shape)
    codes = np.zeros(shape, np.uint32)
    codes[np.asarray(kept)] = reader.read(int(np.count_nonzero(kept)), bits)
    return codes
