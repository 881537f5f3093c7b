"""Codes of any width as one little-endian stream of bits, and back, on the host.

Bit i of a stream is bit i % 8 of byte i // 8, and a code's lowest bit comes first. So 16 bits that
begin at a byte are a little-endian integer, whatever the byte order of the machine.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]  # little-endian in memory

_WORD = 32  # bits of a word; 32 codes of any width fill whole words
_BLOCK = 1 << 16  # codes packed at once, few enough for the cache of a core


class Field(NamedTuple):
    """Codes that follow one another in a stream.

    Attributes:
      codes: `[N]`, integers or bool.
      width: bits of a code, 0 to 32.
    """

    codes: NDArray[Any]
    width: int

    @property
    def bits(self) -> int:
        """Bits of all codes together."""
        return len(self.codes) * self.width


def write(fields: Sequence[Field]) -> bytes:
    """The fields one after the other, padded with zero bits to a whole byte.

    Raises:
      ValueError: a code is negative or wider than its field.
    """
    ends = list(itertools.accumulate((field.bits for field in fields), initial=0))
    size = _whole_bytes(ends[-1])
    out = np.zeros(size + 1, np.uint8)  # `_put` may carry zero bits into one byte more
    for field, begin in zip(fields, ends[:-1], strict=True):
        _put(out, begin, pack_codes(field))
    return out[:size].tobytes()


class Reader:
    """Reads codes from the front of a stream."""

    def __init__(self, data: bytes) -> None:
        self._bytes = np.frombuffer(data, np.uint8)
        self._at = 0

    def read(self, count: int, width: int) -> Words:
        """The next codes, uint32 `[count]`.

        Raises:
          ValueError: the stream is too short.
        """
        begin, self._at = self._at, self._at + count * width
        if self._at > 8 * len(self._bytes):
            raise ValueError(f"{len(self._bytes)} bytes are too few: {self._at} bits were expected")
        return unpack_codes(_get(self._bytes, begin, self._at), count, width)

    def close(self) -> None:
        """Checks that only zero bits are left, which pad the last byte.

        Raises:
          ValueError: something else is left.
        """
        expected = _whole_bytes(self._at)
        if len(self._bytes) > expected:
            raise ValueError(f"{len(self._bytes)} bytes are too many: {expected} were expected")
        if self._at % 8 and self._bytes[-1] >> self._at % 8:
            raise ValueError("the bits that pad the last byte are not all zero")


def pack_codes(field: Field) -> Bytes:
    """The bytes of one field, the last byte padded with zero bits.

    Raises:
      ValueError: a code is negative or wider than the field.
    """
    codes, width = field
    if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < 1 << width:
        raise ValueError(f"codes from {codes.min()} to {codes.max()} do not fit {width} bits")
    if width == 0:
        return np.zeros(0, np.uint8)
    if width == 1:
        return np.packbits(codes.astype(bool), bitorder="little")
    if width in (8, 16, 32):
        whole: Words = codes.astype(f"<u{width // 8}")
        return whole.view(np.uint8)
    blocks = [_pack(codes[i : i + _BLOCK], width) for i in range(0, len(codes), _BLOCK)]
    whole = np.concatenate([np.zeros(0, "<u4"), *blocks])
    return whole.view(np.uint8)[: _whole_bytes(field.bits)]


def unpack_codes(packed: Bytes, count: int, width: int) -> Words:
    """Undoes `pack_codes`: uint32 `[count]`."""
    if width == 0:
        return np.zeros(count, np.uint32)
    if width == 1:
        return np.unpackbits(packed, count=count, bitorder="little").astype(np.uint32)
    if width in (8, 16, 32):
        return packed.view(f"<u{width // 8}").astype(np.uint32)
    codes = np.empty(-(-count // _WORD) * _WORD, np.uint32)
    for i in range(0, count, _BLOCK):
        block = codes[i : i + _BLOCK]
        part = packed[i // 8 * width : (i + len(block)) // 8 * width]
        words = np.zeros(len(block) // _WORD * width, "<u4")
        words.view(np.uint8)[: len(part)] = part
        block[:] = _unpack(words, width)
    return codes[:count]


def _whole_bytes(bits: int) -> int:
    return -(-bits // 8)


def _put(out: Bytes, at: int, packed: Bytes) -> None:
    """Writes bytes from bit `at` on, where `out` is zero."""
    begin, shift = divmod(at, 8)
    end = begin + len(packed)
    if shift == 0:
        out[begin:end] = packed
        return
    out[begin:end] |= packed << shift
    out[begin + 1 : end + 1] |= packed >> (8 - shift)


def _get(data: Bytes, begin: int, end: int) -> Bytes:
    """The bits from `begin` to `end`, as bytes whose first bit is that at `begin`."""
    first, shift = divmod(begin, 8)
    size = _whole_bytes(end - begin)
    part = data[first : _whole_bytes(end)]
    if shift == 0:
        return part
    out = part[:size] >> np.uint8(shift)
    out[: len(part) - 1] |= part[1:] << (8 - shift)
    return out


def _pack(codes: NDArray[Any], width: int) -> Words:
    """Codes as words, padded with zero codes to a multiple of 32."""
    words = np.zeros(-(-len(codes) // _WORD) * _WORD, "<u4")
    words[: len(codes)] = codes
    while width <= _WORD // 2:
        words, width = _join(words, width), 2 * width
    return words if width == _WORD else _squeeze(words, width)


def _unpack(words: Words, width: int) -> Words:
    """Undoes `_pack`; the padding stays."""
    doublings = (_WORD // width).bit_length() - 1
    if (width << doublings) < _WORD:
        words = _stretch(words, width << doublings)
    for i in reversed(range(doublings)):
        words = _split(words, width << i)
    return words


def _join(words: Words, width: int) -> Words:
    """Joins pairs of codes of up to 16 bits, one code in each word, to one code in one word."""
    pairs = words.view("<u8")
    return (pairs | pairs >> (_WORD - width)).astype("<u4")


def _split(words: Words, width: int) -> Words:
    """Undoes `_join`."""
    pairs = words.astype("<u8")
    pairs |= pairs << (_WORD - width)
    pairs &= ((1 << _WORD) + 1) * ((1 << width) - 1)
    return pairs.view("<u4")


def _squeeze(words: Words, width: int) -> Words:
    """Removes the gaps between codes of more than 16 bits, one code in each word."""
    period = _period(width)
    codes = words.reshape(-1, period)
    out = np.zeros((len(codes), period * width // _WORD), "<u4")
    for i in range(period):
        word, shift = divmod(i * width, _WORD)
        out[:, word] |= codes[:, i] << shift
        if shift + width > _WORD:
            out[:, word + 1] |= codes[:, i] >> (_WORD - shift)
    return out.reshape(-1)


def _stretch(words: Words, width: int) -> Words:
    """Undoes `_squeeze`."""
    period = _period(width)
    words = words.reshape(-1, period * width // _WORD)
    codes = np.empty((len(words), period), "<u4")
    for i in range(period):
        word, shift = divmod(i * width, _WORD)
        codes[:, i] = words[:, word] >> shift
        if shift + width > _WORD:
            codes[:, i] |= words[:, word + 1] << (_WORD - shift)
    codes &= (1 << width) - 1
    return codes.reshape(-1)


def _period(width: int) -> int:
    """The number of codes after which a code begins at the start of a word again."""
    return _WORD // math.gcd(width, _WORD)
