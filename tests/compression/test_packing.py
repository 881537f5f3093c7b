"""Messages as bytes: as many as are counted, and the same message back, bit for bit."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from jfedsl.compression.bits import Field
from jfedsl.compression.compressor import Compressor, chain, feedback
from jfedsl.compression.dropout import dropout
from jfedsl.compression.message import Coding, Mask, Message, kept_only, message_bytes, to_buckets
from jfedsl.compression.packing import (
    bitmap,
    channel_list,
    labels_field,
    outline,
    pack,
    read_bitmap,
    read_channel_list,
    unpack,
)
from jfedsl.compression.quantization import cast, qsgd, sign, ternary, uniform
from jfedsl.compression.sparsification import randtopk, splitfc, topk

# By traced bits and a traced rate in (0, 1), so that one program serves all of them.
CHAINS: dict[str, Callable[[Any, Any], Compressor]] = {
    "nothing": lambda bits, rate: chain(),
    "uniform": lambda bits, rate: uniform(bits, 16),
    "qsgd": lambda bits, rate: qsgd(jnp.maximum(bits, 2), 16),
    "ternary": lambda bits, rate: ternary(0, clip=2.5),
    "sign": lambda bits, rate: feedback(sign(7)),
    "bfloat16": lambda bits, rate: cast("bfloat16"),
    "entries uniform": lambda bits, rate: chain(dropout(rate), uniform(bits, 8)),
    "features qsgd": lambda bits, rate: chain(
        dropout(rate, "feature"), qsgd(jnp.maximum(bits, 2), 8)
    ),
    "channels float16": lambda bits, rate: chain(dropout(rate, "channel"), cast("float16")),
    "exact channels sign": lambda bits, rate: chain(dropout(rate, "channel", True), sign(16)),
    "topk": lambda bits, rate: topk(1 - rate),
    "topk of examples, uniform": lambda bits, rate: feedback(
        chain(topk(1 - rate, "example"), uniform(bits, 8, "nearest"))
    ),
    "randtopk ternary": lambda bits, rate: chain(randtopk(1 - rate, 0.3), ternary(16)),
    "randtopk of examples": lambda bits, rate: feedback(randtopk(1 - rate, each="example")),
    "splitfc uniform": lambda bits, rate: chain(splitfc(rate), uniform(bits, 16)),
    "exact features topk of examples qsgd": lambda bits, rate: chain(
        dropout(rate, "feature", True), topk(1 - rate, "example"), qsgd(jnp.maximum(bits, 2), 8)
    ),
    "channels splitfc topk bfloat16": lambda bits, rate: chain(
        dropout(rate, "channel"), splitfc(rate), topk(1 - rate), cast("bfloat16")
    ),
    "topk topk exact": lambda bits, rate: chain(
        topk(1 - rate, "example"), topk(1 - rate), dropout(rate, exact=True)
    ),
}
SHAPES = [((3, 4, 5), True), ((1, 1), False), ((4, 2, 67), False)]
KINDS = ["normal", "zeros", "constant", "negative", "huge", "nan", "inf"]


def values_of(kind: str, shape: tuple[int, ...], seed: int) -> Array:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    changed = {"zeros": 0 * x, "constant": 0 * x + 0.3, "negative": -abs(x) - 5, "huge": 3e37 * x}
    x = changed.get(kind, x)
    if kind in ("nan", "inf"):
        x.flat[0] = float(kind)
    return jnp.asarray(x)


@cache
def compiled(compressor: Any) -> Callable[..., Message]:
    """The second message that a compressor sends, compiled."""

    @jax.jit
    def run(bits: Array, rate: Array, seed: int, values: Array, kept: Array | None) -> Message:
        chained = compressor(bits, rate)
        keys = jax.random.split(jax.random.key(seed))
        state, _ = chained.send(chained.init(values), keys[0], kept_only(values[::-1], kept))
        return chained.send(state, keys[1], kept_only(values, kept))[1]

    return run


def send(
    compressor: Any,
    values: Any,
    kept: Any = None,
    bits: int = 8,
    rate: float = 0.5,
    seed: int = 0,
) -> Message:
    values, kept = jnp.asarray(values), None if kept is None else jnp.asarray(kept)
    return compiled(compressor)(jnp.int32(bits), jnp.float32(rate), seed, values, kept)


def assert_same_floats(actual: Any, expected: Any) -> None:
    """Equal to the bit, -0.0 included; NaNs may differ in their bits."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    for x in (actual, expected):
        assert x.shape == actual.shape
    same = actual.view(np.uint32) == expected.view(np.uint32)
    assert np.all(same | np.isnan(expected)), (actual[~same], expected[~same])


def assert_same(actual: Message, expected: Message) -> None:
    """Equal in everything that the receiver can know of a message."""
    assert_same_floats(actual.values, expected.values)
    kept = np.ones(expected.values.shape, bool) if expected.kept is None else expected.kept
    if expected.kept is not None:
        assert actual.kept is not None
        np.testing.assert_array_equal(actual.kept, kept)
    if expected.coding is None:
        assert actual.coding is None
        return
    assert actual.coding is not None
    codes = [np.asarray(m.codes)[np.asarray(kept)] for m in (actual.coding, expected.coding)]
    np.testing.assert_array_equal(*codes)
    if int(expected.coding.header_bits):
        used = np.asarray(to_buckets(jnp.asarray(kept), expected.coding.bucket)).any(1)
        headers = [np.asarray(m.headers) for m in (actual.coding, expected.coding)]
        assert_same_floats(headers[0][used], headers[1][used])
        assert np.all(np.isnan(headers[0][~used]))


def check(*messages: Message, fields: tuple[Field, ...] = ()) -> bytes:
    """Packs and unpacks messages, asserts that they are the same, and returns the bytes."""
    data = pack(messages, fields)
    extra_bits = sum(len(field.codes) * field.width for field in fields)
    assert len(data) == int(message_bytes(messages, extra_bits))
    blank = [Field(np.zeros_like(field.codes), field.width) for field in fields]
    received, read = unpack(data, [outline(message) for message in messages], blank)
    for actual, expected in zip(received, messages, strict=True):
        assert_same(actual, expected)
    for field, expected_field in zip(read, fields, strict=True):
        assert field.width == expected_field.width
        np.testing.assert_array_equal(field.codes, expected_field.codes)
    assert pack(received, read) == data
    return data


def cases() -> Iterator[Any]:
    """All chains on the first shape and a third of them on the others; the rest is slow."""
    for i, name in enumerate(CHAINS):
        for j, (shape, masked) in enumerate(SHAPES):
            marks = pytest.mark.slow if j and (i + j) % 3 else ()
            yield pytest.param(name, shape, masked, marks=marks)


@pytest.mark.parametrize(("name", "shape", "masked"), list(cases()))
@settings(max_examples=5)
@given(data=st.data())
def test_every_chain(name: str, shape: tuple[int, ...], masked: bool, data: st.DataObject) -> None:
    values = values_of(data.draw(st.sampled_from(KINDS)), shape, data.draw(st.integers(0, 99)))
    share = data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) if masked else 1.0
    kept = np.random.default_rng(1).random(shape) < share if masked else None
    bits = data.draw(st.sampled_from([*range(1, 17), 32]))
    rate = data.draw(st.sampled_from([0.02, 0.3, 0.6, 0.97]))
    check(send(CHAINS[name], values, kept, bits, rate, seed=data.draw(st.integers(0, 99))))


@partial(jax.jit, static_argnums=(0, 1))
def widths(kind: Callable[..., Compressor], bits: tuple[int, ...], values: Array) -> list[Message]:
    keys = jax.random.split(jax.random.key(3), 18)
    dropped = dropout(0.4).send((), keys[17], Message(values))[1]
    return [kind(b, 16).send((), keys[b], dropped)[1] for b in bits]


@pytest.mark.parametrize("kind", [uniform, qsgd])
@pytest.mark.parametrize("bits", [(2, 7, 12), slow(tuple(range(2, 17)))], ids=len)
def test_bits_that_are_static(kind: Callable[..., Compressor], bits: tuple[int, ...]) -> None:
    least = (1, *bits) if kind is uniform else bits
    for message in widths(kind, least, values_of("normal", (3, 37), 0)):
        check(message)


def test_the_layout_byte_by_byte() -> None:
    """A message with every part of the layout, written out by hand."""
    chosen = jnp.array([True, False, True, True])
    listed = jnp.array([True] + 15 * [False])
    coding = Coding(
        codes=jnp.array([5, 9, 2, 7], jnp.uint32),
        headers=jnp.array([[1.0], [-2.0]]),
        bits=3,
        header_bits=32,
        bucket=2,
        decode=lambda codes, headers, bits: headers * codes.astype(jnp.float32),
    )
    coded = Message(jnp.array([5.0, 0.0, -4.0, -14.0]), (Mask(chosen, shared=False),), coding)
    floats = Message(
        jnp.array([0.5] + 15 * [0.0]), (Mask(listed, shared=False, counts=jnp.array([1])),)
    )
    stream = "".join([
        "10" "01" "11",  # labels 1, 2, 3 of 4 classes
        "11" + 30 * "0",  # 3 units are chosen
        "1011",  # bitmap
        f"{0x3F800000:032b}"[::-1], f"{0xC0000000:032b}"[::-1],  # 1.0, -2.0
        "101" "010" "111",  # codes 5, 2, 7
        "0000",  # position 0 of 16; the receiver knows that there is one
        f"{0x3F000000:032b}"[::-1],  # 0.5
    ])  # fmt: skip
    stream += -len(stream) % 8 * "0"
    expected = bytes(int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8))
    assert check(coded, floats, fields=(labels_field([1, 2, 3], 4),)) == expected


def test_floats_are_little_endian_one_after_the_other() -> None:
    values = jnp.array([[1.0, -0.0], [jnp.inf, 1e-45]])
    assert check(Message(values)) == np.asarray(values).astype("<f4").tobytes()
    assert check(Message(jnp.float32(2.0))) == bytes([0, 0, 0, 0x40])
    assert check(Message(jnp.zeros((0, 3)))) == b""


def test_a_transmission_is_rounded_up_to_bytes_once() -> None:
    three = CHAINS["entries uniform"]
    values = [values_of("normal", (3, 4, 5), i) for i in range(3)]
    messages = [send(three, x, bits=3, seed=i) for i, x in enumerate(values)]
    fields = (labels_field(np.arange(7), 10), bitmap(np.eye(3, dtype=bool)))
    alone = [len(check(message)) for message in messages]
    together = check(*messages, fields=fields)
    assert len(together) <= sum(alone) + (7 * 4 + 9 + 7) // 8
    assert check() == b""
    assert check(fields=fields[1:]) == bytes([0b00010001, 1])


def test_values_that_are_sent_are_not_in_the_outline() -> None:
    sent = send(CHAINS["exact features topk of examples qsgd"], values_of("normal", (3, 4, 5), 0))
    known = outline(sent)
    assert sent.coding is not None and known.coding is not None
    unknown = [known.values, known.coding.codes, known.coding.headers, known.masks[1].chosen]
    assert not any(np.any(x) for x in unknown)
    np.testing.assert_array_equal(known.masks[0].chosen, sent.masks[0].chosen)
    np.testing.assert_array_equal(known.masks[1].counts, sent.masks[1].counts)


def test_messages_of_mapped_clients_are_packed_one_by_one_in_numpy() -> None:
    compressor = chain(topk(0.3), uniform(5, 16))

    @jax.jit
    @jax.vmap
    def all_send(key: Array, values: Array) -> Message:
        return compressor.send(((), ()), key, Message(values))[1]

    sent = all_send(jax.random.split(jax.random.key(0), 4), values_of("normal", (4, 50), 1))
    for i in range(4):
        check(jax.tree.map(lambda x, i=i: np.asarray(x)[i], sent))


def test_data_of_another_length_is_refused() -> None:
    sent = send(CHAINS["entries uniform"], values_of("normal", (3, 4, 5), 0))
    data, outlines = pack([sent]), [outline(sent)]
    with pytest.raises(ValueError, match="too few"):
        unpack(data[:-1], outlines)
    with pytest.raises(ValueError, match="too many"):
        unpack(data + b"\0", outlines)


def listed(rows: int = 1, counted: bool = True) -> Message:
    """A message with a list of positions: one chosen unit in each row of 5."""
    chosen = jnp.zeros((rows, 5), bool).at[:, 1].set(True)
    counts = jnp.full(rows, 1, jnp.int32) if counted else None
    return Message(chosen.astype(jnp.float32), (Mask(chosen, False, counts, rows),))


@pytest.mark.parametrize("position", [5, 7])
@pytest.mark.parametrize("rows", [1, 2])
def test_positions_beyond_their_row_are_refused(position: int, rows: int) -> None:
    message = listed(rows)
    data = bytes([pack([message])[0] & 0b11111000 | position, *pack([message])[1:]])
    with pytest.raises(ValueError, match=r"should choose \[1"):
        unpack(data, [outline(message)])


def test_impossible_counts_are_refused() -> None:
    message = listed(counted=False)
    data = pack([message])
    assert data[:4] == bytes([1, 0, 0, 0])
    with pytest.raises(ValueError, match="should choose"):
        unpack(bytes([255, 255, 255, 255]) + data[4:], [outline(message)])


def test_a_message_that_contradicts_itself_is_refused() -> None:
    message = listed()
    wrong = message.masks[0].replace(counts=jnp.array([2]))
    with pytest.raises(ValueError, match=r"should choose \[2\] .* but chooses \[1\]"):
        pack([message.replace(masks=(wrong,))])


@given(st.integers(1, 70), st.floats(0, 1), st.integers(0, 99))
def test_channels_are_sent_as_the_shorter_of_bitmap_and_list(
    channels: int, share: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(channels) < share
    field = channel_list(mask)
    kept, width = int(mask.sum()), (channels - 1).bit_length()
    assert len(field.codes) * field.width == min(channels, kept * width)
    # The receiver knows the number of kept channels, hence the size of the field.
    blank = channel_list(np.arange(channels) < kept)
    _, [read] = unpack(pack([], [field]), [], [blank])
    np.testing.assert_array_equal(read_channel_list(read, channels, kept), mask)


def test_bitmaps_and_labels_come_back() -> None:
    mask, labels = np.random.default_rng(0).random((3, 5)) < 0.5, np.array([[0, 6], [9, 3]])
    fields = [bitmap(jnp.asarray(mask)), labels_field(labels, 10)]
    data = pack([], fields)
    assert len(data) == (15 + 4 * 4 + 7) // 8
    _, read = unpack(data, [], [bitmap(np.zeros(15)), labels_field(np.zeros(4, int), 10)])
    np.testing.assert_array_equal(read_bitmap(read[0], (3, 5)), mask)
    np.testing.assert_array_equal(read[1].codes, labels.ravel())
