"""Messages: what they cost, to the bit, and that receivers decode what senders coded."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jfedsl.compression.compressor import Compressor, chain
from jfedsl.compression.dropout import dropout
from jfedsl.compression.message import (
    Coding,
    Mask,
    Message,
    as_bits,
    buckets,
    choice_bits,
    entries,
    from_bits,
    from_buckets,
    kept_only,
    mask_bits,
    message_bytes,
    position_bits,
    to_buckets,
)
from jfedsl.compression.quantization import cast, qsgd, sign, ternary, uniform
from jfedsl.compression.sparsification import splitfc, topk

# Compiles as runs do, whatever options the other tests are compiled with.
optimized = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
    },
)

CODINGS = {
    "uniform": partial(uniform, bucket_size=64),
    "qsgd": partial(qsgd, bucket_size=64),
    "ternary": lambda bits: ternary(64),
    "clipped": lambda bits: ternary(64, 1.5),
    "sign": lambda bits: sign(64),
    "bfloat16": lambda bits: cast("bfloat16"),
    "float16": lambda bits: cast("float16"),
}
BITS = {"uniform": [1, 8, 16], "qsgd": [2, 8, 16], "ternary": [2], "clipped": [2]}
ALL_CODINGS = [(kind, bits) for kind in CODINGS for bits in BITS.get(kind, [0])]


def draws(shape: tuple[int, ...], seed: int = 1) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def mask(chosen: Any, shared: bool = True, **more: Any) -> Mask:
    return Mask(jnp.asarray(chosen), shared, **more)


def coding(
    size: int, bits: int | Array, header_bits: int | Array = 0, bucket: int = 0, count: int = 1
) -> Coding:
    """A coding of a given cost, which cannot be decoded."""
    codes, headers = jnp.zeros(size, jnp.uint32), jnp.zeros((count, 1))
    return Coding(codes, headers, bits, header_bits, bucket or size or 1, lambda *_: codes)


def first(count: int, size: int) -> np.ndarray:
    return np.arange(size) < count


def send(compressor: Compressor, values: Array, kept: Array | None = None) -> Message:
    message = kept_only(values, kept)
    return compressor.send(compressor.init(values), jax.random.key(0), message)[1]


def decoded(message: Message) -> Array:
    """The receiver's values from codes and headers; undefined where not kept."""
    coding = message.coding
    assert coding is not None
    values = coding.decode(to_buckets(coding.codes, coding.bucket), coding.headers, coding.bits)
    return from_buckets(values, message.values.shape)


@cache
def program(kind: str, bits: int) -> Callable[[Array], Message]:
    return optimized(partial(send, CODINGS[kind](bits)))


def assert_same_bits(actual: Any, expected: Any) -> None:
    floats = np.asarray(actual, np.float32), np.asarray(expected, np.float32)
    np.testing.assert_array_equal(*(x.view(np.uint32) for x in floats))


def test_entries_counts_the_entries_that_are_sent() -> None:
    kept = draws((6, 5)) > 0
    assert int(entries(Message(draws((6, 5)), (Mask(kept),)))) == int(np.sum(kept))
    assert int(entries(Message(draws((6, 5))))) == 30


def test_an_entry_is_sent_if_all_masks_keep_it() -> None:
    single, rows, columns = draws((6, 5)) > 0, draws((6, 1), 2) > 0, draws((1, 5), 3) > 0
    message = Message(draws((6, 5)), (Mask(single), Mask(rows), Mask(columns, shared=False)))
    np.testing.assert_array_equal(message.kept, np.asarray(single) & rows & columns)
    assert Message(draws((6, 5))).kept is None


def test_entries_that_are_not_kept_are_zero_from_the_start() -> None:
    values = jnp.array([1.0, jnp.nan, jnp.inf, 4.0])
    message = kept_only(values, jnp.array([True, False, False, True]))
    np.testing.assert_array_equal(message.values, [1, 0, 0, 4])
    assert kept_only(values, None).masks == ()


def test_uncompressed_entries_are_float32_without_headers() -> None:
    message = Message(draws((7,)))
    assert message.entry_bits == 32
    assert int(buckets(message)) == int(mask_bits(message)) == 0
    assert int(message_bytes([message])) == 28


@pytest.mark.parametrize(("size", "width"), [(0, 1), (1, 1), (7, 3), (9, 3), (5, 8)])
def test_buckets_are_consecutive_entries_padded_with_zeros(size: int, width: int) -> None:
    x = jnp.arange(1.0, size + 1).reshape(1, size)
    rows = np.asarray(to_buckets(x, width))
    assert rows.shape == (-(-size // width), width)
    np.testing.assert_array_equal(rows.ravel()[:size], x[0])
    assert not rows.ravel()[size:].any()
    np.testing.assert_array_equal(from_buckets(jnp.asarray(rows), x.shape), x)


@given(
    size=st.sampled_from([1, 16, 33]),
    bucket=st.sampled_from([1, 5, 16, 33]),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_bucket_without_kept_entries_has_no_header(
    size: int, bucket: int, density: float, seed: int
) -> None:
    kept = np.random.default_rng(seed).random(size) < density
    starts = range(0, size, bucket)
    coded = coding(size, 4, 32, bucket, len(starts))
    message = Message(jnp.zeros(size), (mask(kept),), coded)
    assert int(buckets(message)) == sum(kept[i : i + bucket].any() for i in starts)
    assert int(buckets(Message(jnp.zeros(size), (), coded))) == len(starts)


def plain_choice_bits(among: int, count: int, size: int) -> int:
    """A bit for each candidate, or a position for each chosen unit, in Python's integers."""
    return min(among, count * (size - 1).bit_length())


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 64, 65, 100])
def test_a_mask_is_sent_as_a_bitmap_or_a_list_whichever_is_shorter(size: int) -> None:
    for count in range(size + 1):
        counts = jnp.array([count], jnp.int32)
        chosen = mask(first(count, size), False, counts=counts)
        bits = mask_bits(Message(jnp.zeros(size), (chosen,)))
        assert bits.dtype == jnp.int32
        assert int(bits) == plain_choice_bits(size, count, size)


@pytest.mark.parametrize(
    ("among", "count", "width", "bits"),
    [
        (64, 10, 6, 60),  # a list just below the bitmap
        (64, 11, 6, 64),  # just above
        (60, 10, 6, 60),  # as long
        (61, 10, 6, 60),
        (59, 10, 6, 59),
        (0, 0, 6, 0),
        (5, 5, 0, 0),  # one position needs no bits
        (2**31 - 1, 2**31 - 1, 31, 2**31 - 1),  # their product overflows
        (2**31 - 1, 2**26, 31, 31 * 2**26),
    ],
)
def test_the_shorter_is_chosen_at_the_boundary_and_beyond_32_bits(
    among: int, count: int, width: int, bits: int
) -> None:
    assert int(choice_bits(among, jnp.int32(count), width)) == bits
    assert int(choice_bits(jnp.int32(among), jnp.int32(count), width)) == bits


def test_a_count_that_the_receiver_does_not_know_is_sent_in_32_bits() -> None:
    chosen = first(3, 64)
    assert int(mask_bits(Message(jnp.zeros(64), (mask(chosen, False),)))) == 3 * 6 + 32


def test_masks_that_both_ends_know_cost_nothing() -> None:
    message = Message(jnp.zeros(64), (mask(first(40, 64)), mask(first(20, 64))))
    assert int(mask_bits(message)) == 0


def test_a_mask_is_sent_for_the_units_that_earlier_masks_keep() -> None:
    known, chosen = mask(first(12, 64)), mask(np.ones(64, bool), False, counts=jnp.array([12]))
    assert int(mask_bits(Message(jnp.zeros(64), (known, chosen)))) == 12
    # A later mask does not make an earlier one cheaper.
    assert int(mask_bits(Message(jnp.zeros(64), (chosen, known)))) == 64
    both = (mask(first(32, 64), False), mask(first(3, 64), False))
    bits = plain_choice_bits(64, 32, 64) + plain_choice_bits(32, 3, 64) + 2 * 32
    assert int(mask_bits(Message(jnp.zeros(64), both))) == bits


def test_a_unit_of_many_entries_is_one_flag() -> None:
    chosen = mask(first(2, 16).reshape(1, 16), False)
    known = mask(draws((8, 16)) > 0)
    assert int(mask_bits(Message(jnp.zeros((8, 16)), (chosen,)))) == 2 * 4 + 32
    assert int(mask_bits(Message(jnp.zeros((8, 16)), (known, chosen)))) == 2 * 4 + 32


def test_positions_are_counted_within_their_row() -> None:
    chosen = np.tile(first(2, 16), (8, 1))
    counts = jnp.full(8, 2, jnp.int32)
    by_rows = mask(chosen, False, counts=counts, rows=8)
    assert by_rows.width == position_bits(16) == 4
    assert int(mask_bits(Message(jnp.zeros((8, 16)), (by_rows,)))) == 16 * 4


def test_top_k_sends_positions_and_splitfc_their_number_too() -> None:
    @jax.jit
    def costs(values: Array) -> tuple[list[Array], Message]:
        compressors = (topk(1 / 64), topk(1 / 64, "example"), topk(1.0), dropout(0.5))
        return [mask_bits(send(c, values)) for c in compressors], send(splitfc(0.9), values)

    bits, sent = costs(draws((4, 64)))
    assert list(map(int, bits)) == [4 * 8, 4 * 6, 256, 0]
    count = int(jnp.sum(sent.masks[0].chosen))
    assert int(mask_bits(sent)) == plain_choice_bits(64, count, 64) + 32


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    """A tensor's masks and coding; few sizes, because each compiles."""
    size = draw(st.sampled_from([0, 1, 7, 8, 9, 30]))
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    masks = draw(st.lists(st.tuples(flags, st.booleans(), st.booleans()), max_size=2))
    coded = draw(st.booleans())
    return {
        "size": size,
        "masks": [(np.array(chosen, bool), *how) for chosen, *how in masks],
        "bits": draw(st.integers(1, 32)) if coded else None,
        "header_bits": 8 * draw(st.integers(0, 9)),
        "bucket": draw(st.sampled_from([1, 4, 16])),
    }


def message_of(tensor: dict[str, Any], traced: bool) -> Message:
    size, bucket, wrap = tensor["size"], tensor["bucket"], jnp.int32 if traced else int
    masks = tuple(
        mask(chosen, shared, counts=jnp.array([int(chosen.sum())]) if known else None)
        for chosen, shared, known in tensor["masks"]
    )
    if tensor["bits"] is None:
        return Message(jnp.zeros(size), masks)
    bits, header_bits = wrap(tensor["bits"]), wrap(tensor["header_bits"])
    coded = coding(size, bits, header_bits, bucket, -(-size // bucket))
    return Message(jnp.zeros(size), masks, coded)


def plain_bits(tensor: dict[str, Any]) -> int:
    """The bits of a message, in Python's integers."""
    size, masks, kept = tensor["size"], 0, np.ones(tensor["size"], bool)
    for chosen, shared, known in tensor["masks"]:
        among = int(kept.sum())
        kept &= chosen
        if not shared:
            masks += plain_choice_bits(among, int(kept.sum()), max(size, 1)) + (not known) * 32
    if tensor["bits"] is None:
        return masks + 32 * int(kept.sum())
    filled = sum(kept[i : i + tensor["bucket"]].any() for i in range(0, size, tensor["bucket"]))
    return masks + tensor["bits"] * int(kept.sum()) + tensor["header_bits"] * int(filled)


@given(parts=st.lists(tensors(), max_size=4), extra=st.integers(0, 10**6), traced=st.booleans())
def test_message_bytes_is_exact_and_rounds_up_once(
    parts: list[dict[str, Any]], extra: int, traced: bool
) -> None:
    count = message_bytes([message_of(part, traced) for part in parts], extra)
    assert count.dtype == jnp.int32
    assert int(count) == -(-(extra + sum(map(plain_bits, parts))) // 8)


def test_a_message_of_two_half_bytes_is_one_byte() -> None:
    half = Message(jnp.zeros(1), (), coding(1, 4))
    assert int(message_bytes([half])) == 1
    assert int(message_bytes([half, half])) == 1
    assert int(message_bytes([half, half], 1)) == 2


def test_a_transmission_without_messages_has_the_bytes_of_its_extra_bits() -> None:
    assert int(message_bytes([])) == 0
    assert int(message_bytes([], 9)) == 2
    assert int(message_bytes([], jnp.int32(9))) == 2


def bytes_of(size: int, bits: int, header: int = 0, tensors: int = 1, masked: bool = False) -> int:
    """Bytes of tensors of `size` entries; compiled, so that their values never exist."""

    def count() -> Array:
        values = jnp.zeros(size, jnp.bool_)
        masks = (Mask(~values, shared=False),) if masked else ()
        codes = Coding(values, jnp.zeros((1, 1)), bits, header, size, lambda *_: values)
        return message_bytes([Message(values, masks, codes)] * tensors)

    return int(jax.jit(count)())


@pytest.mark.parametrize("bits", [1, 16, 27, 32])
def test_bytes_are_exact_where_bits_overflow_32_bits(bits: int) -> None:
    size = 80_000_003
    assert bytes_of(size, bits, 8) == -(-(size * bits + 8) // 8)


def test_bytes_are_exact_for_a_large_mask() -> None:
    kept = np.ones(80_000_003, bool)
    kept[::5] = False

    def count(kept: Array) -> Array:
        codes = Coding(kept, jnp.zeros((1, 1)), 31, 8, kept.size, lambda *_: kept)
        sent = Mask(kept, shared=False)
        return message_bytes([Message(kept, (Mask(kept),), codes), Message(kept, (sent,), codes)])

    entries_bits = int(kept.sum()) * 31 + 8
    assert int(jax.jit(count)(kept)) == -(-(2 * entries_bits + kept.size + 32) // 8)


def test_headers_of_several_tensors_may_exceed_32_bits_together() -> None:
    assert bytes_of(8, 8, 2**30, tensors=2) == 2 * (8 + 2**27)


def test_a_message_that_could_take_2_gib_is_refused() -> None:
    # With a header of 32 bits.
    assert bytes_of(2**29 - 2, 32, 32) == 2**31 - 4
    with pytest.raises(ValueError, match="2 GiB"):
        bytes_of(2**29 - 1, 1)
    with pytest.raises(ValueError, match="2 GiB"):
        bytes_of(2**28, 1, tensors=2)
    with pytest.raises(ValueError, match="2 GiB"):
        bytes_of(2**29 - 2, 1, masked=True)


@pytest.mark.parametrize(("kind", "bits"), ALL_CODINGS)
def test_decoded_codes_and_headers_are_what_was_received_to_the_bit(kind: str, bits: int) -> None:
    sent = program(kind, bits)(draws((500,)))
    assert_same_bits(decoded(sent), sent.values)  # one operation after the other
    assert_same_bits(optimized(decoded)(sent), sent.values)
    assert_same_bits(jax.jit(decoded)(sent), sent.values)


@pytest.mark.parametrize("kind", BITS)
def test_what_is_sent_does_not_depend_on_compiler_options(kind: str) -> None:
    bits = BITS[kind][-1]
    slow = jax.jit(partial(send, CODINGS[kind](bits)))(draws((500,)))
    assert_same_bits(program(kind, bits)(draws((500,))).values, slow.values)


@pytest.mark.parametrize("kind", ["uniform", "qsgd"])
def test_codes_of_clients_with_different_bits_are_decoded_with_their_bits(kind: str) -> None:
    all_bits = [*BITS[kind], 32]
    values, kept = draws((70,)), draws((70,), 2) > -1
    together = optimized(jax.vmap(lambda bits: send(CODINGS[kind](bits), values, kept)))
    for n, bits in enumerate(all_bits):
        sent = jax.tree.map(lambda leaf, n=n: leaf[n], together(jnp.array(all_bits)))
        sent = sent.replace(coding=sent.coding.replace(bits=bits))
        assert_same_bits(jnp.where(kept, decoded(sent), 0.0), sent.values)


@pytest.mark.parametrize(("kind", "bits"), ALL_CODINGS)
def test_a_code_has_no_more_bits_than_are_counted(kind: str, bits: int) -> None:
    sent = program(kind, bits)(draws((500,)).at[7].set(jnp.nan).at[499].set(jnp.inf))
    assert sent.coding is not None
    assert sent.coding.codes.dtype == jnp.uint32
    assert sent.coding.codes.shape == sent.values.shape
    assert int(jnp.max(sent.coding.codes)) < 2 ** int(sent.entry_bits)


def test_bit_patterns_of_floats_are_those_of_numpy() -> None:
    values = np.array([0.0, -0.0, 1.5, -1e-42, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(as_bits(jnp.asarray(values)), values.view(np.uint32))
    assert_same_bits(from_bits(as_bits(jnp.asarray(values))), values)


def test_a_chain_costs_its_masks_and_the_codes_and_headers_of_kept_entries() -> None:
    compressor = chain(dropout(0.5), topk(0.25), qsgd(4, 32))
    sent = jax.jit(partial(send, compressor))(draws((3, 40)))
    kept = np.asarray(sent.kept)
    among = int(jnp.sum(sent.masks[0].chosen))
    headers = np.pad(kept.ravel(), (0, 8)).reshape(4, 32).any(1).sum()
    bits = 4 * kept.sum() + 32 * headers + plain_choice_bits(among, int(kept.sum()), 120)
    assert int(message_bytes([sent])) == -(-int(bits) // 8)
