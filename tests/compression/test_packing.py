"""Messages as bytes: as many as were counted, and the same message back, bit for bit."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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

SHAPES = [(3, 4, 5), (1, 1), (4, 131)]

# Of bits and of a rate in (0, 1), traced, so that one program serves all of them.
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
    """What a compressor sends the second time."""

    @jax.jit
    def run(bits: Array, rate: Array, seed: int, values: Array, kept: Array | None) -> Message:
        made = compressor(bits, rate)
        keys = jax.random.split(jax.random.key(seed))
        state, _ = made.send(made.init(values), keys[0], kept_only(values[::-1], kept))
        return made.send(state, keys[1], kept_only(values, kept))[1]

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
    """To the bit, -0.0 and all, but which NaN it is."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    for x in (actual, expected):
        assert x.shape == actual.shape
    same = actual.view(np.uint32) == expected.view(np.uint32)
    assert np.all(same | np.isnan(expected)), (actual[~same], expected[~same])


def assert_same(actual: Message, expected: Message) -> None:
    """All that the receiver can have of a message."""
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
    """There and back; returns the bytes."""
    data = pack(messages, fields)
    extra_bits = sum(len(field.codes) * field.width for field in fields)
    assert len(data) == int(message_bytes(messages, extra_bits))
    blank = [Field(np.zeros_like(field.codes), field.width) for field in fields]
    received, read = unpack(data, [outline(message) for message in messages], blank)
    for actual, expected in zip(received, messages, strict=True):
        assert_same(actual, expected)
    for ours, theirs in zip(read, fields, strict=True):
        assert ours.width == theirs.width
        np.testing.assert_array_equal(ours.codes, theirs.codes)
    assert pack(received, read) == data
    return data


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CHAINS)
@settings(max_examples=8)
@given(data=st.data())
def test_every_chain(name: str, shape: tuple[int, ...], masked: bool, data: st.DataObject) -> None:
    values = values_of(data.draw(st.sampled_from(KINDS)), shape, data.draw(st.integers(0, 99)))
    share = data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) if masked else 1.0
    kept = np.random.default_rng(1).random(shape) < share if masked else None
    bits = data.draw(st.sampled_from([*range(1, 17), 32]))
    rate = data.draw(st.sampled_from([0.02, 0.3, 0.6, 0.97]))
    check(send(CHAINS[name], values, kept, bits, rate, seed=data.draw(st.integers(0, 99))))
