"""Streams of codes: every bit is where the layout says, and the same codes come back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.compression.bits import Field, Reader, write


def by_definition(fields: list[Field]) -> bytes:
    """Bit i of the stream is bit i % 8 of byte i // 8."""
    stream = shift = 0
    for codes, width in fields:
        for code in codes:
            stream |= int(code) << shift
            shift += width
    return stream.to_bytes(-(-shift // 8), "little")


def codes_of(width: int, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << width, count, dtype=np.uint32)


def read_all(data: bytes, fields: list[Field]) -> list[np.ndarray]:
    reader = Reader(data)
    read = [reader.read(len(codes), width) for codes, width in fields]
    reader.close()
    return read


@pytest.mark.parametrize("width", range(33))
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_codes_of_any_width_are_where_the_layout_says(width: int, count: int) -> None:
    fields = [Field(np.array([1]), 1), Field(codes_of(width, count), width)]
    for stream in (fields, fields[1:]):
        data = write(stream)
        assert data == by_definition(stream)
        for codes, (expected, _) in zip(read_all(data, stream), stream, strict=True):
            assert codes.dtype == np.uint32
            np.testing.assert_array_equal(codes, expected)


@given(st.lists(st.tuples(st.integers(0, 32), st.integers(0, 40)), max_size=6))
def test_fields_follow_one_another_without_gaps(kinds: list[tuple[int, int]]) -> None:
    fields = [Field(codes_of(*kind, seed=i), kind[0]) for i, kind in enumerate(kinds)]
    data = write(fields)
    assert data == by_definition(fields)
    for codes, (expected, _) in zip(read_all(data, fields), fields, strict=True):
        np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("width", [1, 3, 8, 12, 31])
def test_long_fields_are_packed_in_blocks(width: int) -> None:
    fields = [Field(codes_of(3, 1), 3), Field(codes_of(width, (1 << 17) + 45), width)]
    data = write(fields)
    np.testing.assert_array_equal(read_all(data, fields)[1], fields[1].codes)
    assert data[:1000] == by_definition([fields[0], Field(fields[1].codes[:9000], width)])[:1000]


@pytest.mark.parametrize("width", [1, 5, 8, 12, 16, 27, 32])
def test_bytes_do_not_depend_on_the_byte_order_of_the_machine(width: int) -> None:
    codes = codes_of(width, 40)
    fields = [[Field(codes.astype(order), width)] for order in ("<u4", ">u4")]
    assert write(fields[0]) == write(fields[1])


@pytest.mark.parametrize("width", [0, 1, 5, 8, 16, 20])
def test_codes_that_do_not_fit_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        write([Field(np.array([0, 1 << width]), width)])
    with pytest.raises(ValueError, match="do not fit"):
        write([Field(np.array([-1]), width)])


def test_streams_of_another_length_are_refused() -> None:
    reader = Reader(b"\x01\x02")
    with pytest.raises(ValueError, match="2 bytes are too few: 21 bits"):
        reader.read(3, 7)
    reader = Reader(b"\x01\x02")
    reader.read(1, 7)
    with pytest.raises(ValueError, match="2 bytes are too many: 1 were expected"):
        reader.close()
    reader.read(1, 2)
    with pytest.raises(ValueError, match="not all zero"):
        reader.close()
    Reader(b"").close()
