"""Quantizers: unbiased, within their error bounds, exact in cost, and never hiding a NaN."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jfedsl.compression.compressor import Compressor, Message, chain, entries, message_bytes
from jfedsl.compression.draws import LEVELS, uint16
from jfedsl.compression.dropout import dropout
from jfedsl.compression.quantization import LEAST_BITS, QUANTIZERS

DRAWS = 2000
EPSILON = float(np.finfo(np.float32).eps)
HEADERS = {"uniform": 64, "qsgd": 32}
EVERY = [(kind, bits) for kind, least in LEAST_BITS.items() for bits in range(least, 17)]
both_kinds = pytest.mark.parametrize("kind", QUANTIZERS)


def data(shape: tuple[int, ...] = (70,), seed: int = 5) -> Array:
    """Values away from 0, so that zeros of padding or masks would show in a bucket's range."""
    return jax.random.normal(jax.random.key(seed), shape) + 3.0


@cache
def quantizer(kind: str, bits: int, bucket: int) -> Compressor:
    """One object for each setting, so that each compiles once."""
    return QUANTIZERS[kind](bits, bucket)


@partial(jax.jit, static_argnums=0)
def compiled_send(compressor: Compressor, key: Array, message: Message) -> Message:
    state, sent = compressor.send(compressor.init(message.values), key, message)
    assert jax.tree.leaves(state) == []
    return sent


def send_through(compressor: Compressor, values: Any, kept: Any = None, seed: int = 0) -> Message:
    message = Message(jnp.asarray(values), None if kept is None else jnp.asarray(kept))
    return compiled_send(compressor, jax.random.key(seed), message)


def send(
    kind: str, bits: int, bucket: int, values: Any, kept: Any = None, seed: int = 0
) -> Message:
    """What a receiver gets, in NumPy arrays."""
    sent = send_through(quantizer(kind, bits, bucket), values, kept, seed)
    return jax.tree.map(np.asarray, sent)


@partial(jax.jit, static_argnums=(0, 1, 2, 4))
def many(
    kind: str, bits: tuple[int, ...], bucket: int, values: Array, count: int = DRAWS
) -> list[Array]:
    """The same values sent by many clients with keys of their own, `[count, ...]` for each bits."""

    def of(bits: int) -> Array:
        send_one = quantizer(kind, bits, bucket).send
        keys = jax.random.split(jax.random.key(0), count)
        return jax.vmap(lambda key: send_one((), key, Message(values))[1].values)(keys)

    # One program for all bits compiles the drawing once.
    return [of(b) for b in bits]


def largest_step(kind: str, bits: int, buckets: np.ndarray) -> np.ndarray:
    """Distance between neighbouring values of each bucket `[N, width]`: `[N, 1]`."""
    if kind == "uniform":
        return np.ptp(buckets, axis=1, keepdims=True) / (2**bits - 1)
    return np.linalg.norm(buckets, axis=1, keepdims=True) / (2 ** (bits - 1) - 1)


def squared_error_bound(kind: str, bits: int, buckets: np.ndarray) -> float:
    """The documented bound of E||Q(x) - x||^2, summed over buckets `[N, width]`."""
    width, step = buckets.shape[1], largest_step(kind, bits, buckets)
    if kind == "uniform":
        return float(np.sum(width * step**2 / 4))
    s = 2 ** (bits - 1) - 1
    return min(width / s**2, np.sqrt(width) / s) * float(np.sum(buckets**2))


@cache
def all_samples(kind: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Values `[3, 32]`, one row a bucket, and `[DRAWS, 3, 32]` received for each bits."""
    values = data((3, 32)) * jnp.array([[1.0], [-100.0], [1e-3]])
    received = many(kind, tuple(range(LEAST_BITS[kind], 17)), 32, values)
    return np.asarray(values, np.float64), [np.asarray(r, np.float64) for r in received]


def samples(kind: str, bits: int) -> tuple[np.ndarray, np.ndarray]:
    values, received = all_samples(kind)
    return values, received[bits - LEAST_BITS[kind]]


@pytest.mark.parametrize(("kind", "bits"), EVERY)
def test_is_unbiased(kind: str, bits: int) -> None:
    values, received = samples(kind, bits)
    # Rounding to one of two neighbours deviates by half a step at most; and float32 rounds.
    error = largest_step(kind, bits, values) / 2 / np.sqrt(DRAWS)
    rounding = 4 * EPSILON * np.abs(values).max(axis=1, keepdims=True)
    assert np.all(np.abs(received.mean(axis=0) - values) <= 5 * error + rounding)


@pytest.mark.parametrize(("kind", "bits"), EVERY)
def test_the_mean_squared_error_is_within_its_bound(kind: str, bits: int) -> None:
    values, received = samples(kind, bits)
    errors = np.sum((received - values) ** 2, axis=(1, 2))
    standard_error = errors.std() / np.sqrt(DRAWS)
    # At 16 bits a step is some hundred float32 roundings.
    allowed = squared_error_bound(kind, bits, values) * 1.02
    assert errors.mean() <= allowed + 5 * standard_error
    # Not for free either: a quantizer that returned its input would pass.
    assert errors.mean() > 0


@pytest.mark.parametrize(("kind", "bits"), EVERY)
def test_every_value_is_one_of_its_two_neighbours_on_the_grid(kind: str, bits: int) -> None:
    values, received = samples(kind, bits)
    rounding = 4 * EPSILON * np.abs(values).max(axis=1, keepdims=True)
    step = largest_step(kind, bits, values)
    assert np.all(np.abs(received - values) <= step * (1 + 1e-3) + rounding)
    assert all(len(np.unique(entry)) <= 2 for entry in received.reshape(DRAWS, -1).T)


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
    """The formulas in float64, bucket after bucket; and where a draw decides beyond float32."""
    out, clear = np.zeros(values.size), np.ones(values.size, bool)
    x, kept = values.ravel().astype(np.float64), kept.ravel()
    for row, start in enumerate(range(0, x.size, bucket)):
        places = np.arange(start, min(start + bucket, x.size))
        places = places[kept[places]]
        if not places.size:
            continue
        mine, u = x[places], draws[row, places - start]
        if kind == "uniform":
            low, top = mine.min(), 2**bits - 1
            step, sign, t = (mine.max() - low) / top, 1.0, mine - low
        else:
            low, top = 0.0, 2 ** (bits - 1) - 1
            step, sign, t = np.linalg.norm(mine) / top, np.sign(mine), np.abs(mine)
        t = t / step if step else np.zeros(t.shape)
        k = np.minimum(np.floor(t), top)
        out[places] = low + sign * step * np.minimum(k + (u < t - k), top)
        # Around a whole t, a rounding takes the fraction from just above 0 to just below 1.
        distance = np.abs(u - (t - k))
        clear[places] = np.minimum(distance, 1 - distance) > 8 * EPSILON * top
    return out.reshape(values.shape), clear.reshape(values.shape)


@both_kinds
@pytest.mark.parametrize(
    ("shape", "bucket", "masked"),
    [((70,), 16, False), ((70,), 16, True), ((5, 14), 0, True), ((4, 4, 4), 64, False)],
)
def test_equals_the_formula_in_float64(
    kind: str, shape: tuple[int, ...], bucket: int, masked: bool
) -> None:
    for bits in (LEAST_BITS[kind], 8):
        # Mixed signs for the norm; one sign for the range, so that a stray 0 would widen it.
        mixed = np.where(np.asarray(data(shape, 6)) > 3, 1, -1)
        sign = mixed if kind == "qsgd" else 1 - 2 * int(masked)
        values = np.abs(data(shape)) * np.asarray(sign, np.float32)
        kept = np.asarray(data(shape, 7)) > 2.5 if masked else np.ones(shape, bool)
        width = bucket or values.size
        draws = uint16(jax.random.key(0), (-(-values.size // width), width))
        u = (np.asarray(draws, np.float64) + 0.5) / LEVELS
        expected, clear = reference(kind, bits, width, values, kept, u)
        sent = send(kind, bits, bucket, values, kept if masked else None)
        # Places a rounding of float32 can tip over are few.
        assert clear.mean() > 0.95
        np.testing.assert_allclose(
            np.where(clear, sent.values, 0), np.where(clear, expected, 0), rtol=1e-5, atol=1e-5
        )


@given(
    kind=st.sampled_from(list(QUANTIZERS)),
    sizes=st.sampled_from([(33, 16), (17, 0), (7, 100), (5, 1)]),
    seed=st.integers(0, 2**32 - 1),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_kept_and_headers_are_counted_exactly_and_the_rest_is_zero(
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
    assert int(sent.header_bits) == HEADERS[kind] * filled
    assert int(entries(sent)) == kept.sum()
    bits = 4 * int(kept.sum()) + HEADERS[kind] * filled
    assert int(message_bytes([sent])) == -(-bits // 8)


@both_kinds
@pytest.mark.parametrize(("bucket", "headers"), [(0, 1), (71, 1), (70, 1), (69, 2), (16, 5)])
def test_every_bucket_of_a_whole_tensor_sends_a_header(
    kind: str, bucket: int, headers: int
) -> None:
    sent = send(kind, 3, bucket, data())
    assert int(sent.header_bits) == headers * HEADERS[kind]
    assert int(sent.entry_bits) == 3
    assert sent.kept is None


@both_kinds
def test_a_bucket_at_least_as_large_as_the_tensor_is_the_whole_tensor(kind: str) -> None:
    whole = send(kind, 3, 0, data()).values
    for bucket in (70, 71):
        np.testing.assert_array_equal(send(kind, 3, bucket, data()).values, whole)


@both_kinds
@pytest.mark.parametrize("junk", [1e6, np.nan, -np.inf])
def test_entries_not_kept_do_not_matter(kind: str, junk: float) -> None:
    kept = np.asarray(data((70,), 7)) > 3
    clean = send(kind, 4, 16, data(), kept)
    dirty = send(kind, 4, 16, jnp.where(kept, data(), junk), kept)
    np.testing.assert_array_equal(dirty.values, clean.values)


@both_kinds
def test_buckets_do_not_influence_each_other(kind: str) -> None:
    changed = data().at[16:32].multiply(1000.0)
    one, other = (send(kind, 4, 16, x).values for x in (data(), changed))
    same = np.asarray(one == other)
    assert same[:16].all()
    assert same[32:].all()
    assert same[16:32].mean() < 0.2  # but where both round to the same


@both_kinds
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [16, 31])
def test_nan_or_infinity_makes_its_bucket_nan_and_no_other(
    kind: str, bad: float, place: int
) -> None:
    kept = np.asarray(data((70,), 7)) > 2.5
    kept[place] = True
    clean = send(kind, 4, 16, data(), kept).values
    dirty = np.asarray(send(kind, 4, 16, data().at[place].set(bad), kept).values)
    inside = (np.arange(70) >= 16) & (np.arange(70) < 32)
    assert np.all(np.isnan(dirty[inside & kept]))
    assert np.all(dirty[inside & ~kept] == 0)
    np.testing.assert_array_equal(dirty[~inside], np.asarray(clean)[~inside])


@both_kinds
@pytest.mark.parametrize("bad", [[np.inf] * 4, [np.inf, -np.inf, 0, 1], [np.nan] * 4])
def test_buckets_of_several_infinities_or_nans_are_nan(kind: str, bad: list[float]) -> None:
    assert np.all(np.isnan(send(kind, 4, 4, np.array(bad, np.float32)).values))


@pytest.mark.parametrize("bits", [1, 16])
@pytest.mark.parametrize("constant", [0.0, 3.7, -1e-30, 1e30])
def test_uniform_sends_a_constant_bucket_exactly(bits: int, constant: float) -> None:
    values = jnp.full(20, constant, jnp.float32)
    np.testing.assert_array_equal(send("uniform", bits, 8, values).values, values)


@pytest.mark.parametrize("bits", [2, 16])
def test_qsgd_sends_zeros_and_a_single_nonzero_entry_exactly(bits: int) -> None:
    values = jnp.zeros((3, 8)).at[1, 5].set(-2.5)
    np.testing.assert_array_equal(send("qsgd", bits, 8, values).values, values)


@both_kinds
def test_zeros_stay_zeros(kind: str) -> None:
    np.testing.assert_array_equal(send(kind, 4, 8, jnp.zeros(20)).values, np.zeros(20))


@both_kinds
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_a_tensor_does_not_matter(kind: str, scale: float) -> None:
    received = np.asarray(send(kind, 4, 16, data() * scale).values, np.float64)
    plain = np.asarray(send(kind, 4, 16, data()).values, np.float64)
    # Squares of these overflow or vanish in float32. A rounding may tip few entries over.
    close = np.isclose(received / scale, plain, rtol=1e-4, atol=1e-4)
    assert close.mean() > 0.95


@pytest.mark.parametrize("bits", [12, 16])
def test_the_top_code_is_never_exceeded(bits: int) -> None:
    top = 2**bits - 1
    # Dense near the top, where float32 cannot hold t + u; a million draws.
    values = top - np.random.default_rng(0).random(2**20).astype(np.float32)
    values[::4096], values[1::4096] = 0, top
    received = send("uniform", bits, 4096, values, np.ones(values.shape, bool)).values
    # Steps are 1 and codes whole numbers, so that nothing is rounded.
    assert received.max() == top
    assert received.min() == 0
    assert np.all(received == np.floor(received))


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


@both_kinds
def test_the_gradient_passes_straight_through(kind: str) -> None:
    weights = data((70,), 8)

    def loss(values: Array) -> Array:
        return jnp.sum(weights * send_through(quantizer(kind, 2, 16), values).values)

    np.testing.assert_array_equal(jax.grad(loss)(data()), weights)


@both_kinds
def test_after_dropout_the_gradient_has_its_mask_and_scale_only(kind: str) -> None:
    link, weights = chain(dropout(0.25), quantizer(kind, 2, 16)), data((70,), 8)
    _, slope = jax.value_and_grad(lambda v: jnp.sum(weights * send_through(link, v).values))(data())
    expected = np.where(send_through(link, data()).kept, weights / 0.75, 0)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@both_kinds
def test_the_same_key_quantizes_alike_and_another_differently(kind: str) -> None:
    first, again, other = (send(kind, 2, 16, data(), seed=seed).values for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@both_kinds
def test_no_two_clients_share_noise(kind: str) -> None:
    for received in many(kind, (LEAST_BITS[kind], 4, 8), 64, data((512,)), 200):
        assert len(np.unique(received, axis=0)) == 200


@both_kinds
def test_mapped_over_clients_equals_a_python_loop(kind: str) -> None:
    values, masks = data((3, 40)), data((3, 40), 7) > 3

    def one(key: Array, values: Array, kept: Array) -> Message:
        return quantizer(kind, 4, 16).send((), key, Message(values, kept))[1]

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.jit(jax.vmap(one, out_axes=Message(0, 0, None, 0)))(keys, values, masks)
    for n, key in enumerate(jax.random.split(jax.random.key(0), 3)):
        alone = jax.jit(one)(key, values[n], masks[n])
        np.testing.assert_array_equal(together.values[n], alone.values)
        assert int(together.header_bits[n]) == int(alone.header_bits)
