"""Quantizers: unbiased, within their error bounds, exact in cost, and never hiding a NaN."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jfedsl.compression.compressor import Compressor, chain
from jfedsl.compression.draws import LEVELS, uint16
from jfedsl.compression.dropout import dropout
from jfedsl.compression.message import (
    Mask,
    Message,
    as_bits,
    buckets,
    entries,
    kept_only,
    message_bytes,
)
from jfedsl.compression.quantization import cast, qsgd, sign, ternary, uniform

DRAWS = 2000
EPSILON = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)
# (bits, bucket) -> compressor
KINDS: dict[str, Callable[[Any, int], Compressor]] = {
    "uniform": uniform,
    "qsgd": qsgd,
    "ternary": lambda bits, bucket: ternary(bucket),
    "sign": lambda bits, bucket: sign(bucket),
}
HEADERS = {"uniform": 64, "qsgd": 32, "ternary": 32, "sign": 32}
LEAST_BITS = {"uniform": 1, "qsgd": 2}
FIXED_BITS = {"ternary": 2, "sign": 1}
ALL_BITS = [(kind, bits) for kind, least in LEAST_BITS.items() for bits in range(least, 17)]
UNBIASED = [*ALL_BITS, ("ternary", 2)]
both_kinds = pytest.mark.parametrize("kind", LEAST_BITS)
random_kinds = pytest.mark.parametrize("kind", [*LEAST_BITS, "ternary"])
all_kinds = pytest.mark.parametrize("kind", KINDS)


def data(shape: tuple[int, ...] = (70,), seed: int = 5) -> Array:
    """Values away from 0, so that zeros of padding or masks would show in a bucket's range."""
    return jax.random.normal(jax.random.key(seed), shape) + 3.0


@cache
def quantizer(kind: str, bits: int, bucket: int) -> Compressor:
    """One compressor object for each setting, so that each setting is compiled once."""
    return KINDS[kind](bits, bucket)


def bits_of(kind: str, bits: int) -> int:
    return FIXED_BITS.get(kind, bits)


@partial(jax.jit, static_argnums=0)
def compiled_send(compressor: Compressor, key: Array, message: Message) -> Message:
    state, sent = compressor.send(compressor.init(message.values), key, message)
    assert jax.tree.leaves(state) == []
    return sent


def send_through(compressor: Compressor, values: Any, kept: Any = None, seed: int = 0) -> Message:
    masks = () if kept is None else (Mask(jnp.asarray(kept)),)
    return compiled_send(compressor, jax.random.key(seed), Message(jnp.asarray(values), masks))


def send(
    kind: str, bits: int, bucket: int, values: Any, kept: Any = None, seed: int = 0
) -> Message:
    """The message that is received, in NumPy arrays."""
    sent = send_through(quantizer(kind, bits, bucket), values, kept, seed)
    return jax.tree.map(np.asarray, sent)


@partial(jax.jit, static_argnums=(0, 2, 4))
def many(kind: str, bits: Array, bucket: int, values: Array, count: int = DRAWS) -> Array:
    """The same values sent with different keys: `[bits, count, ...]`."""

    def send_one(key: Array, bits: Array) -> Array:
        return KINDS[kind](bits, bucket).send((), key, Message(values))[1].values

    keys = jax.random.split(jax.random.key(0), count)
    return jax.vmap(jax.vmap(send_one, (0, None)), (None, 0))(keys, bits)


def largest_step(kind: str, bits: int, buckets: np.ndarray) -> np.ndarray:
    """Distance between neighbouring values of each bucket `[N, width]`: `[N, 1]`."""
    if kind == "uniform":
        return np.ptp(buckets, axis=1, keepdims=True) / (2**bits - 1)
    if kind == "ternary":
        return np.abs(buckets).max(axis=1, keepdims=True)
    return np.linalg.norm(buckets, axis=1, keepdims=True) / (2 ** (bits - 1) - 1)


def squared_error_bound(kind: str, bits: int, buckets: np.ndarray) -> float:
    """The documented bound of E||Q(x) - x||^2, summed over buckets `[N, width]`."""
    width, step = buckets.shape[1], largest_step(kind, bits, buckets)
    if kind == "uniform":
        return float(np.sum(width * step**2 / 4))
    if kind == "ternary":  # the variance of a value that is 0 or the greatest
        return float(np.sum(np.abs(buckets) * (step - np.abs(buckets))))
    s = 2 ** (bits - 1) - 1
    return min(width / s**2, np.sqrt(width) / s) * float(np.sum(buckets**2))


def sample_values() -> Array:
    """Values `[3, 32]`, a bucket in each row."""
    return data((3, 32)) * jnp.array([[1.0], [-100.0], [1e-3]])


@cache
def all_samples(kind: str) -> np.ndarray:
    """What is received of the sample values, `[bits, DRAWS, 3, 32]`."""
    all_bits = jnp.arange(LEAST_BITS[kind], 17) if kind in LEAST_BITS else jnp.array([2])
    return np.asarray(many(kind, all_bits, 32, sample_values()))


def samples(kind: str, bits: int) -> tuple[np.ndarray, np.ndarray]:
    received = all_samples(kind)[bits - LEAST_BITS.get(kind, 2)]
    return np.asarray(sample_values(), np.float64), np.asarray(received, np.float64)


@pytest.mark.parametrize(("kind", "bits"), UNBIASED)
def test_is_unbiased(kind: str, bits: int) -> None:
    values, received = samples(kind, bits)
    # The standard deviation of rounding is at most half a step; float32 rounds in addition.
    error = largest_step(kind, bits, values) / 2 / np.sqrt(DRAWS)
    rounding = 4 * EPSILON * np.abs(values).max(axis=1, keepdims=True)
    assert np.all(np.abs(received.mean(axis=0) - values) <= 5 * error + rounding)


@pytest.mark.parametrize(("kind", "bits"), UNBIASED)
def test_the_mean_squared_error_is_within_its_bound(kind: str, bits: int) -> None:
    values, received = samples(kind, bits)
    errors = np.sum((received - values) ** 2, axis=(1, 2))
    standard_error = errors.std() / np.sqrt(DRAWS)
    # At 16 bits a step is about a hundred float32 roundings.
    allowed = squared_error_bound(kind, bits, values) * 1.02
    assert errors.mean() <= allowed + 5 * standard_error
    # A quantizer that returns its input would pass the test so far.
    assert errors.mean() > 0


@pytest.mark.parametrize(("kind", "bits"), UNBIASED)
def test_every_value_is_one_of_its_two_neighbours_on_the_grid(kind: str, bits: int) -> None:
    values, received = samples(kind, bits)
    rounding = 4 * EPSILON * np.abs(values).max(axis=1, keepdims=True)
    step = largest_step(kind, bits, values)
    assert np.all(np.abs(received - values) <= step * (1 + 1e-3) + rounding)
    assert all(len(np.unique(entry)) <= 2 for entry in received.reshape(DRAWS, -1).T)


def test_the_error_of_ternary_is_the_variance_of_its_draws() -> None:
    values, received = samples("ternary", 2)
    errors = np.sum((received - values) ** 2, axis=(1, 2))
    expected = squared_error_bound("ternary", 2, values)
    assert abs(errors.mean() - expected) <= 5 * errors.std() / np.sqrt(DRAWS)


@both_kinds
def test_rounding_to_nearest_is_biased_and_within_half_a_step(kind: str) -> None:
    values = np.asarray(sample_values(), np.float64)
    for bits in (LEAST_BITS[kind], 4, 12):
        compressor = KINDS[kind](bits, 32)
        nearest = partial(KINDS[kind], rounding="nearest")(bits, 32)
        received, again = (
            np.asarray(send_through(nearest, sample_values(), seed=seed).values, np.float64)
            for seed in (0, 1)
        )
        np.testing.assert_array_equal(received, again)  # nothing is drawn
        step = largest_step(kind, bits, values)
        rounding = 4 * EPSILON * np.abs(values).max(axis=1, keepdims=True)
        error = np.abs(received - values)
        assert np.all(error <= step / 2 * (1 + 1e-3) + rounding)
        # The mean of an unbiased quantizer over all draws would be nearer than that.
        assert np.any(error > 5 * step / 2 / np.sqrt(DRAWS) + rounding)
        drawn = np.asarray(send_through(compressor, sample_values()).values, np.float64)
        assert np.sum(error**2) < np.sum((drawn - values) ** 2)


@pytest.mark.parametrize("bits", [1, 8])
def test_the_bound_of_uniform_is_met_by_values_halfway_between_neighbours(bits: int) -> None:
    top = 2**bits - 1
    values = np.full(64, (top // 2) + 0.5, np.float32)
    values[:2] = 0, top
    received = send("uniform", bits, 0, values).values
    # The step is 1, and the two ends are met exactly.
    assert np.sum((received - values) ** 2) == (64 - 2) / 4


def reference(
    kind: str, bits: int, bucket: int, values: np.ndarray, kept: np.ndarray, draws: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The formulas in float64, by bucket, and flags of entries that rounding cannot change."""
    out, clear = np.zeros(values.size), np.ones(values.size, bool)
    x, kept = values.ravel().astype(np.float64), kept.ravel()
    for row, start in enumerate(range(0, x.size, bucket)):
        positions = np.arange(start, min(start + bucket, x.size))
        positions = positions[kept[positions]]
        if not positions.size:
            continue
        part, u = x[positions], draws[row, positions - start]
        if kind == "uniform":
            low, top = part.min(), 2**bits - 1
            step, sign, t = (part.max() - low) / top, 1.0, part - low
        else:
            low, top = 0.0, 2 ** (bits - 1) - 1
            scale = np.linalg.norm(part) if kind == "qsgd" else np.abs(part).max()
            step, sign, t = scale / top, np.sign(part), np.abs(part)
        t = t / step if step else np.zeros(t.shape)
        k = np.minimum(np.floor(t), top)
        out[positions] = low + sign * step * np.minimum(k + (u < t - k), top)
        # Near a whole t, rounding may take the fraction from just above 0 to just below 1.
        distance = np.abs(u - (t - k))
        clear[positions] = np.minimum(distance, 1 - distance) > 8 * EPSILON * top
    return out.reshape(values.shape), clear.reshape(values.shape)


@random_kinds
@pytest.mark.parametrize(
    ("shape", "bucket", "masked"),
    [((70,), 16, False), ((70,), 16, True), ((5, 14), 0, True), ((4, 4, 4), 64, False)],
)
def test_equals_the_formula_in_float64(
    kind: str, shape: tuple[int, ...], bucket: int, masked: bool
) -> None:
    for bits in (LEAST_BITS[kind], 8) if kind in LEAST_BITS else (2,):
        # Mixed signs for the norm; one sign for the range, so that a stray 0 would widen it.
        mixed = np.where(np.asarray(data(shape, 6)) > 3, 1, -1)
        sign = 1 - 2 * int(masked) if kind == "uniform" else mixed
        values = np.abs(data(shape)) * np.asarray(sign, np.float32)
        kept = np.asarray(data(shape, 7)) > 2.5 if masked else np.ones(shape, bool)
        width = bucket or values.size
        draws = uint16(jax.random.key(0), (-(-values.size // width), width))
        u = (np.asarray(draws, np.float64) + 0.5) / LEVELS
        expected, clear = reference(kind, bits, width, values, kept, u)
        sent = send(kind, bits, bucket, values, kept if masked else None)
        # Few entries can be changed by float32 rounding, but the greatest of each bucket is one.
        assert clear.mean() > (0.9 if kind == "ternary" else 0.95)
        np.testing.assert_allclose(
            np.where(clear, sent.values, 0), np.where(clear, expected, 0), rtol=1e-5, atol=1e-5
        )


@given(
    kind=st.sampled_from(list(KINDS)),
    sizes=st.sampled_from([(33, 16), (17, 0), (5, 1)]),
    seed=st.integers(0, 2**32 - 1),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_entries_and_headers_are_counted_exactly_and_other_entries_are_zero(
    kind: str, sizes: tuple[int, int], seed: int, density: float
) -> None:
    size, bucket = sizes
    kept = np.random.default_rng(seed).random(size) < density
    sent = send(kind, 4, bucket, np.asarray(data())[:size], kept)
    np.testing.assert_array_equal(sent.kept, kept)
    assert np.all(sent.values[~kept] == 0)
    assert np.all(np.isfinite(sent.values))
    width = min(bucket, size) or size
    filled = sum(kept[i : i + width].any() for i in range(0, size, width))
    assert int(buckets(sent)) == filled
    assert int(sent.coding.header_bits) == HEADERS[kind]
    assert int(entries(sent)) == kept.sum()
    bits = bits_of(kind, 4) * int(kept.sum()) + HEADERS[kind] * filled
    assert int(message_bytes([sent])) == -(-bits // 8)


@all_kinds
@pytest.mark.parametrize(("bucket", "headers"), [(0, 1), (71, 1), (70, 1), (69, 2), (16, 5)])
def test_every_bucket_of_a_whole_tensor_sends_a_header(
    kind: str, bucket: int, headers: int
) -> None:
    sent = send(kind, 4, bucket, data())
    assert int(buckets(sent)) * int(sent.coding.header_bits) == headers * HEADERS[kind]
    assert sent.coding.headers.size * 32 == headers * HEADERS[kind]
    assert int(sent.entry_bits) == bits_of(kind, 4)
    assert sent.kept is None
    assert int(message_bytes([sent])) == -(-(70 * bits_of(kind, 4)) // 8) + (
        headers * HEADERS[kind] // 8
    )


@all_kinds
def test_a_bucket_at_least_as_large_as_the_tensor_is_the_whole_tensor(kind: str) -> None:
    whole = send(kind, 4, 0, data()).values
    for bucket in (70, 71):
        np.testing.assert_array_equal(send(kind, 4, bucket, data()).values, whole)


@all_kinds
@pytest.mark.parametrize("junk", [1e6, np.nan, -np.inf])
def test_entries_that_are_not_kept_have_no_influence(kind: str, junk: float) -> None:
    kept = np.asarray(data((70,), 7)) > 3
    clean = send(kind, 4, 16, data(), kept)
    dirty = send(kind, 4, 16, jnp.where(kept, data(), junk), kept)
    np.testing.assert_array_equal(dirty.values, clean.values)
    np.testing.assert_array_equal(dirty.coding.headers, clean.coding.headers)


@all_kinds
def test_buckets_do_not_influence_each_other(kind: str) -> None:
    changed = data().at[16:32].multiply(1000.0)
    before, after = (send(kind, 4, 16, x).values for x in (data(), changed))
    same = np.asarray(before == after)
    assert same[:16].all()
    assert same[32:].all()
    assert not np.any(same[16:32] & (before[16:32] != 0))  # except where both round to 0


@all_kinds
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [16, 31])
def test_nan_or_infinity_makes_its_bucket_nan_and_no_other(
    kind: str, bad: float, position: int
) -> None:
    kept = np.asarray(data((70,), 7)) > 2.5
    kept[position] = True
    clean = send(kind, 4, 16, data(), kept).values
    dirty = np.asarray(send(kind, 4, 16, data().at[position].set(bad), kept).values)
    inside = (np.arange(70) >= 16) & (np.arange(70) < 32)
    assert np.all(np.isnan(dirty[inside & kept]))
    assert np.all(dirty[inside & ~kept] == 0)
    np.testing.assert_array_equal(dirty[~inside], np.asarray(clean)[~inside])


@all_kinds
@pytest.mark.parametrize("bad", [[np.inf] * 4, [np.inf, -np.inf, 0, 1], [np.nan] * 4])
def test_buckets_of_several_infinities_or_nans_are_nan(kind: str, bad: list[float]) -> None:
    assert np.all(np.isnan(send(kind, 4, 4, np.array(bad, np.float32)).values))


@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("constant", [0.0, 3.7, -1e-30, 1e30])
def test_uniform_sends_a_constant_bucket_exactly(bits: int, constant: float) -> None:
    values = jnp.full(20, constant, jnp.float32)
    np.testing.assert_array_equal(send("uniform", bits, 8, values).values, values)


@pytest.mark.parametrize("constant", [0.0, 3.7, -1e-30, 1e30])
def test_ternary_and_sign_send_a_constant_magnitude(constant: float) -> None:
    values = np.where(np.arange(20) % 3, constant, -constant).astype(np.float32)
    np.testing.assert_array_equal(send("ternary", 4, 8, values).values, values)
    # The mean of equal numbers is rounded.
    np.testing.assert_allclose(send("sign", 4, 8, values).values, values, rtol=8 * EPSILON)


@pytest.mark.parametrize("bits", [2, 16])
def test_qsgd_sends_zeros_and_a_single_nonzero_entry_exactly(bits: int) -> None:
    values = jnp.zeros((3, 8)).at[1, 5].set(-2.5)
    np.testing.assert_array_equal(send("qsgd", bits, 8, values).values, values)


@all_kinds
def test_zeros_stay_zeros(kind: str) -> None:
    np.testing.assert_array_equal(send(kind, 4, 8, jnp.zeros(20)).values, np.zeros(20))


@pytest.mark.parametrize("kind", ["qsgd", "ternary"])
def test_zero_entries_of_any_bucket_stay_zero(kind: str) -> None:
    values = jnp.where(data((70,), 6) > 3, data(), 0.0)
    for seed in range(20):
        received = send(kind, 4, 16, values, seed=seed).values
        assert np.all(received[np.asarray(values) == 0] == 0)


@all_kinds
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_a_tensor_does_not_matter(kind: str, scale: float) -> None:
    received = np.asarray(send(kind, 4, 16, data() * scale).values, np.float64)
    plain = np.asarray(send(kind, 4, 16, data()).values, np.float64)
    # Squares overflow or underflow in float32. Rounding may change a few entries.
    close = np.isclose(received / scale, plain, rtol=1e-4, atol=1e-4)
    assert close.mean() > 0.95


@all_kinds
def test_denormal_entries_are_sent_to_within_the_least_normal_float(kind: str) -> None:
    # A processor may treat them as 0.
    small = np.asarray(data(), np.float64) * 1e-39
    received = np.asarray(send(kind, 4, 16, small.astype(np.float32)).values, np.float64)
    assert np.all(np.abs(received - small) <= TINY)


@random_kinds
def test_denormal_entries_beside_others_are_sent_to_within_the_least_normal_float(
    kind: str,
) -> None:
    values = np.full(70, -1e-42, np.float32)
    values[::16] = 1.0
    received = np.asarray(send(kind, 4, 16, values).values, np.float64)
    assert np.all(np.abs(received - values) <= TINY)


@pytest.mark.parametrize("scale", [1e-37, 1e-36, 1e-34, 1e-33])
def test_uniform_loses_a_least_normal_float_a_code_at_most_where_its_step_is_denormal(
    scale: float,
) -> None:
    values = (np.asarray(data(), np.float64) * scale).astype(np.float32)
    received = np.asarray(send("uniform", 16, 16, values).values, np.float64)
    step = largest_step("uniform", 16, values[:64].reshape(4, 16).astype(np.float64)).max()
    assert np.all(np.abs(received - values) <= 2 * step + 2**16 * TINY)


@random_kinds
def test_the_greatest_floats_are_quantized_or_become_nan_but_never_0(kind: str) -> None:
    values = np.zeros(70, np.float32)
    values[::8] = 2e38
    received = send(kind, 2, 16, values).values
    if kind == "qsgd":  # 0 or the norm of the bucket, which is unbiased
        norms = np.float32(2e38) * np.sqrt(np.add.reduceat(values > 0, range(0, 70, 16)))
        levels = norms[np.arange(70) // 16]
        assert np.all((received == 0) | (abs(received / levels - 1) < 1e-6)) and np.any(received)
    else:
        np.testing.assert_allclose(received, values, rtol=1e-6)


@cache
def compiled(kind: str, width: int) -> Callable[[Array, Array, np.ndarray], Message]:
    """Sends with traced bits."""
    return jax.jit(lambda key, bits, x: KINDS[kind](bits, width).send((), key, Message(x))[1])


@both_kinds
def test_ten_million_draws_never_exceed_the_top_code(kind: str) -> None:
    random = np.random.default_rng(0)
    for bits in (12, 16):
        top = 2**bits - 1 if kind == "uniform" else 2 ** (bits - 1) - 1
        # Dense near the top, where float32 cannot hold t + u.
        if kind == "uniform":
            width, least = 4096, 0.0
            values = top - random.random((2442, width), np.float32)
            values[:, 0], values[:, 1] = least, top
        else:
            # With three small entries the norm is slightly above the first entry.
            width = 4
            values = random.random((2_500_000, width), np.float32) * np.float32(0.02)
            values[:, 0] = np.where(random.random(len(values)) < 0.5, -1, 1)
        assert values.size >= 10**7
        sent = compiled(kind, width)(jax.random.key(bits), jnp.int32(bits), values)
        codes, received = np.asarray(sent.coding.codes), np.asarray(sent.values)
        if kind == "uniform":
            # The step is 1, so that codes are values, and no arithmetic rounds.
            assert codes.max() == received.max() == top
            assert codes.min() == received.min() == 0
            np.testing.assert_array_equal(received, codes)
        else:
            assert codes.max() <= 2**bits - 1
            np.testing.assert_array_equal(codes > top, received < 0)
            magnitudes = np.where(codes > top, codes - 2 ** (bits - 1), codes)
            assert magnitudes.max() == top
            norms = np.linalg.norm(values, axis=1)
            assert np.all(np.abs(received[:, 0]) <= norms * (1 + 4 * EPSILON))


@pytest.mark.parametrize("bits", [12, 16])
def test_the_top_value_stays_the_greatest_up_to_rounding(bits: int) -> None:
    values = np.random.default_rng(0).random(2**20).astype(np.float32) * 3 - 1
    received = send("uniform", bits, 4096, values, np.ones(values.shape, bool)).values
    rows, received = values.reshape(-1, 4096), received.reshape(-1, 4096)
    # low + step * top rounds the range, the step, the product and the sum, of numbers up to 3.
    assert np.all(received.max(1) <= rows.max(1) + 4 * 3 * EPSILON / 2)
    np.testing.assert_array_equal(received.min(1), rows.min(1))


def test_uniform_is_unbiased_at_16_bits_near_the_top() -> None:
    draws = 2**22
    values = np.full(draws, 65534.5, np.float32)
    values[::4096], values[1::4096] = 0, 65535
    received = send("uniform", 16, 4096, values, np.ones(draws, bool)).values
    up = np.mean(received[values == 65534.5] == 65535)
    # floor(t + u) would be off by half a float32 spacing, 2^-9, which is 8 standard errors.
    assert abs(up - 0.5) <= 5 * 0.5 / np.sqrt(draws)


@all_kinds
def test_the_gradient_passes_straight_through(kind: str) -> None:
    weights = data((70,), 8)

    def loss(values: Array) -> Array:
        return jnp.sum(weights * send_through(quantizer(kind, 4, 16), values).values)

    np.testing.assert_array_equal(jax.grad(loss)(data()), weights)


@all_kinds
def test_after_dropout_the_gradient_has_its_mask_and_scale_only(kind: str) -> None:
    compressor, weights = chain(dropout(0.25), quantizer(kind, 4, 16)), data((70,), 8)
    _, slope = jax.value_and_grad(lambda v: jnp.sum(weights * send_through(compressor, v).values))(
        data()
    )
    expected = np.where(send_through(compressor, data()).kept, weights / 0.75, 0)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@random_kinds
def test_the_draws_are_determined_by_the_key(kind: str) -> None:
    first, again, other = (send(kind, 4, 16, data(), seed=seed).values for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@random_kinds
def test_no_two_clients_share_noise(kind: str) -> None:
    all_bits = jnp.array([LEAST_BITS.get(kind, 2), 4, 8])
    for received in many(kind, all_bits, 64, data((512,)), 200):
        assert len(np.unique(received, axis=0)) == 200


@all_kinds
def test_mapped_over_clients_equals_a_python_loop(kind: str) -> None:
    values, masks = data((3, 40)), data((3, 40), 7) > 3

    def send_one(key: Array, values: Array, kept: Array) -> Message:
        return KINDS[kind](4, 16).send((), key, Message(values, (Mask(kept),)))[1]

    def arrays(sent: Message) -> tuple[Array, ...]:
        assert sent.coding is not None
        return sent.values, sent.coding.codes, sent.coding.headers, buckets(sent)

    together = jax.jit(jax.vmap(lambda *client: arrays(send_one(*client))))
    alone = jax.jit(lambda *client: arrays(send_one(*client)))
    keys = jax.random.split(jax.random.key(0), 3)
    mapped = together(keys, values, masks)
    for n, key in enumerate(jax.random.split(jax.random.key(0), 3)):
        for actual, expected in zip(mapped, alone(key, values[n], masks[n]), strict=True):
            np.testing.assert_array_equal(actual[n], expected)


@cache
def with_bits(kind: str) -> Callable[[Array, Array, Array, Array], Message]:
    """Sends with the bits of each client, traced."""

    def send_one(key: Array, bits: Array, values: Array, kept: Array) -> Message:
        return KINDS[kind](bits, 16).send((), key, kept_only(values, kept))[1]

    return jax.jit(jax.vmap(send_one, (None, 0, None, None)))


@both_kinds
def test_traced_bits_equal_static_ones(kind: str) -> None:
    all_bits = [LEAST_BITS[kind], 4, 8, 15, 16, 32]
    values, kept = data(), data((70,), 7) > 2.5

    @jax.jit
    def static(values: Array, kept: Array) -> list[Message]:
        compressors = [KINDS[kind](bits, 16) for bits in all_bits]
        return [
            compressor.send((), jax.random.key(0), kept_only(values, kept))[1]
            for compressor in compressors
        ]

    together = with_bits(kind)(jax.random.key(0), jnp.array(all_bits), values, kept)
    costs = jax.vmap(lambda message: message_bytes([message]))(together)
    for n, (bits, alone) in enumerate(zip(all_bits, static(values, kept), strict=True)):
        np.testing.assert_array_equal(together.values[n], alone.values)
        assert int(costs[n]) == int(message_bytes([alone]))
        assert int(together.entry_bits[n]) == int(alone.entry_bits) == bits
        if alone.coding is not None:
            np.testing.assert_array_equal(together.coding.codes[n], alone.coding.codes)
            np.testing.assert_array_equal(together.coding.headers[n], alone.coding.headers)
    # 32 bits are off: static, there is no coding; traced, a coding of float32 without headers.
    assert alone.coding is None
    np.testing.assert_array_equal(together.values[-1], kept_only(values, kept).values)
    np.testing.assert_array_equal(together.coding.codes[-1], as_bits(together.values[-1]))
    assert int(together.coding.header_bits[-1]) == 0


@both_kinds
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e-42])
def test_traced_bits_of_32_send_everything_as_it_is(kind: str, bad: float) -> None:
    values = data().at[3].set(bad)
    sent = with_bits(kind)(jax.random.key(0), jnp.array([4, 32]), values, jnp.ones(70, bool))
    np.testing.assert_array_equal(sent.values[1], values)


@both_kinds
def test_all_bits_share_one_compilation(kind: str) -> None:
    traces = []

    @jax.jit
    def send_one(key: Array, bits: Array) -> Array:
        traces.append(bits)
        return KINDS[kind](bits, 16).send((), key, Message(data()))[1].values

    received = [np.asarray(send_one(jax.random.key(0), jnp.int32(b))) for b in (2, 3, 8, 16, 32)]
    assert len(traces) == 1
    assert len(np.unique(received, axis=0)) == 5


@both_kinds
def test_the_gradient_passes_straight_through_traced_bits(kind: str) -> None:
    weights = data((70,), 8)

    def loss(values: Array, bits: Array) -> Array:
        sent = KINDS[kind](bits, 16).send((), jax.random.key(0), Message(values))[1]
        return jnp.sum(weights * sent.values)

    slopes = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(data(), jnp.array([2, 8, 32]))
    np.testing.assert_array_equal(slopes, np.stack([weights] * 3))


def deviation(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Standard deviation of the kept entries of each bucket `[N, width]`: `[N, 1]`."""
    return np.array([[row[flags].std()] for row, flags in zip(values, kept, strict=True)])


@pytest.mark.parametrize("masked", [False, True])
def test_clipping_is_unbiased_for_the_clipped_values_but_not_for_the_input(masked: bool) -> None:
    values = (data((3, 32)) - 3.0).at[:, 4].set(20.0)
    kept = np.asarray(data((3, 32), 7)) > 2.5 if masked else np.ones((3, 32), bool)
    kept[:, 4] = True
    mask = (Mask(jnp.asarray(kept)),) if masked else ()

    def send_one(key: Array) -> Message:
        return ternary(32, 2.5).send((), key, Message(values, mask))[1]

    sent = jax.jit(jax.vmap(send_one))(jax.random.split(jax.random.key(0), DRAWS))
    exact = np.asarray(values, np.float64)
    limit = 2.5 * deviation(exact, kept)
    clipped = np.where(kept, np.clip(exact, -limit, limit), 0)
    scale = np.abs(clipped).max(1, keepdims=True)
    assert np.all(scale == limit)
    np.testing.assert_allclose(sent.coding.headers[0], scale, rtol=1e-5)
    error = 5 * scale / 2 / np.sqrt(DRAWS) + 1e-5
    mean = np.asarray(sent.values, np.float64).mean(axis=0)
    assert np.all(np.abs(mean - clipped) <= error)
    assert np.all(np.abs(mean - exact)[:, 4:5] > error)


@pytest.mark.parametrize("masked", [False, True])
def test_sign_sends_the_mean_magnitude_and_its_error_is_the_rest_of_the_norm(masked: bool) -> None:
    values = np.array(data((70,)) - 3.0)
    values[5] = 0.0
    kept = np.asarray(data((70,), 7)) > 2.5 if masked else np.ones(70, bool)
    sent = send("sign", 1, 16, values, kept if masked else None)
    for start in range(0, 70, 16):
        part = slice(start, start + 16)
        x, received = values[part][kept[part]].astype(np.float64), sent.values[part][kept[part]]
        expected = np.where(x < 0, -1, 1) * np.abs(x).mean()
        np.testing.assert_allclose(received, expected, rtol=1e-5)
        lost = np.sum(x**2) - np.sum(np.abs(x)) ** 2 / len(x)
        np.testing.assert_allclose(np.sum((received - x) ** 2), lost, rtol=1e-4, atol=1e-6)
        assert lost > 0
    np.testing.assert_array_equal(sent.coding.codes[kept], values[kept] < 0)


def test_sign_draws_nothing_and_is_biased() -> None:
    first, second = (send("sign", 1, 16, data(), seed=seed).values for seed in (0, 1))
    np.testing.assert_array_equal(first, second)
    assert np.max(np.abs(first - data())) > 1


def as_short(values: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_rounds_as_numpy_does(dtype: str) -> None:
    words = np.random.default_rng(0).integers(0, 2**32, 2**18, np.uint32).view(np.float32)
    near = np.random.default_rng(1).normal(0, 1e4, 2**18).astype(np.float32)
    ends = np.array([0.0, -0.0, np.inf, -np.inf, 65504, 65519.9, 65520, 3.4e38, 6e-8], np.float32)
    values = np.concatenate([words, near, ends, (near * 1e-9).astype(np.float32)])
    values = values[~((np.abs(values) < TINY) & (values != 0)) & ~np.isnan(values)]
    sent = send_through(cast(dtype), values)
    expected = as_short(values, dtype)
    np.testing.assert_array_equal(sent.values, expected.astype(np.float32))
    np.testing.assert_array_equal(sent.coding.codes, expected.view(np.uint16))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_keeps_nan_and_loses_denormals_at_most(dtype: str) -> None:
    values = np.array([np.nan, -np.nan, 1e-40, -1e-45], np.float32)
    received = np.asarray(send_through(cast(dtype), values).values)
    np.testing.assert_array_equal(np.isnan(received), np.isnan(values))
    assert np.all(np.abs(received[2:]) <= TINY)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_takes_16_bits_for_each_entry_and_no_headers(dtype: str) -> None:
    kept = np.asarray(data((70,), 7)) > 3
    compressor = cast(dtype)
    assert int(message_bytes([send_through(compressor, data())])) == 140
    sent = send_through(compressor, jnp.where(kept, data(), 0.0), kept)
    assert int(message_bytes([sent])) == 2 * kept.sum()
    assert int(sent.entry_bits) == 16
    assert np.all(sent.values[~kept] == 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_gradient_passes_straight_through_a_cast(dtype: str) -> None:
    weights, compressor = data((70,), 8), cast(dtype)
    slope = jax.grad(lambda v: jnp.sum(weights * send_through(compressor, v).values))(data())
    np.testing.assert_array_equal(slope, weights)


@pytest.mark.parametrize("kind", [*KINDS, "bfloat16", "float16"])
def test_an_empty_tensor_takes_no_bytes(kind: str) -> None:
    compressor = KINDS[kind](4, 16) if kind in KINDS else cast(kind)
    for kept in (None, jnp.zeros((2, 0), bool)):
        sent = send_through(compressor, jnp.zeros((2, 0)), kept)
        assert sent.values.shape == (2, 0)
        assert int(message_bytes([sent])) == 0
