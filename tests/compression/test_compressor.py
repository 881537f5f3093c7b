"""Compressors: chains are sequences, nothing is hidden, and leaves have independent noise."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jfedsl.compression.compressor import (
    Compressor,
    chain,
    feedback,
    init_tree,
    send_tree,
    stateless,
)
from jfedsl.compression.dropout import dropout
from jfedsl.compression.message import Mask, Message, entries, kept_only, mask_bits, message_bytes
from jfedsl.compression.quantization import cast, qsgd, sign, ternary, uniform
from jfedsl.compression.sparsification import randtopk, splitfc, topk
from jfedsl.keys import fold


def draws(shape: tuple[int, ...], seed: int = 1) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def assert_trees_equal(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def counter() -> Compressor:
    """Counts its messages and adds the count, to see states pass through."""

    def send(state: Array, key: Array, message: Message) -> tuple[Array, Message]:
        return state + 1.0, message.replace(values=message.values + state)

    return Compressor(lambda values: jnp.float32(0), send)


def test_a_chain_of_nothing_is_the_identity() -> None:
    message = Message(draws((4, 3)), (Mask(draws((4, 3)) > 0),))
    states, sent = chain().send(chain().init(message.values), jax.random.key(0), message)
    assert states == ()
    assert sent is message


def test_a_chain_equals_its_compressors_in_order_with_independent_keys() -> None:
    parts = (dropout(0.3), counter(), uniform(3, 8))
    values = draws((5, 7))
    states = chain(*parts).init(values)
    assert_trees_equal(states, tuple(part.init(values) for part in parts))

    @jax.jit
    def chained(values: Array) -> Any:
        return chain(*parts).send(states, jax.random.key(0), Message(values))

    @jax.jit
    def one_by_one(values: Array) -> Any:
        updated, message = [], Message(values)
        for i, (part, state) in enumerate(zip(parts, states, strict=True)):
            state, message = part.send(state, jax.random.fold_in(jax.random.key(0), i), message)
            updated.append(state)
        return tuple(updated), message

    assert_trees_equal(chained(values), one_by_one(values))


def test_two_compressors_of_a_kind_in_one_chain_do_not_share_noise() -> None:
    values = jnp.ones(1000)
    twice = chain(dropout(0.5), dropout(0.5))
    _, message = twice.send(twice.init(values), jax.random.key(0), Message(values))
    # With one mask for both, half would be kept: 250 are expected, of deviation below 14.
    assert abs(int(entries(message)) - 250) < 70


def test_messages_of_one_compressor_are_trees_of_one_structure() -> None:
    # Branches and loops need that; and a program compiled for one message serves the next.
    compressor = chain(dropout(0.5), uniform(4, 8))
    first, second = (
        jax.eval_shape(
            lambda x: compressor.send(compressor.init(x), jax.random.key(0), Message(x)),
            draws((9,)),
        )
        for _ in range(2)
    )
    assert jax.tree.structure(first) == jax.tree.structure(second)


def test_states_pass_through_a_chain() -> None:
    both = chain(counter(), counter())
    states = both.init(jnp.zeros(2))
    for added in (0.0, 2.0, 4.0):
        states, message = both.send(states, jax.random.key(0), Message(jnp.zeros(2)))
        np.testing.assert_array_equal(message.values, np.full(2, added))
    assert_trees_equal(states, (jnp.float32(3), jnp.float32(3)))


def test_a_stateless_compressor_has_no_memory() -> None:
    double = stateless(lambda key, message: message.replace(values=2.0 * message.values))
    assert double.init(jnp.ones(3)) == ()
    state, message = double.send((), jax.random.key(0), Message(jnp.ones(3)))
    assert state == ()
    np.testing.assert_array_equal(message.values, np.full(3, 2.0))


# Sparsifiers and quantizers, alone and in chains.
CHAINS = {
    "nothing": chain(),
    "dropout": dropout(0.4),
    "features, then qsgd": chain(dropout(0.4, "feature"), qsgd(4, 8)),
    "channels, then bfloat16": chain(dropout(0.4, "channel", exact=True), cast("bfloat16")),
    "dropout, top-k, uniform": chain(dropout(0.3), topk(0.4), uniform(3, 8)),
    "top-k of examples, then float16": chain(topk(0.4, "example"), cast("float16")),
    "randtopk, then sign": chain(randtopk(0.4, 0.3), sign(8)),
    "splitfc, then ternary": chain(splitfc(0.4), ternary(8)),
    "feedback": feedback(chain(topk(0.4), qsgd(4, 8))),
}
all_chains = pytest.mark.parametrize("kind", CHAINS)
SHAPE = (6, 3, 4)


@cache
def sender(kind: str) -> Callable[[Array, Array, Array], Message]:
    """Sends the kept entries through a chain, compiled once for each."""

    def send_kept(key: Array, values: Array, kept: Array) -> Message:
        compressor = CHAINS[kind]
        return compressor.send(compressor.init(values), key, kept_only(values, kept))[1]

    return jax.jit(send_kept)


def mask(seed: int, density: float = 0.7) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < density


@all_chains
@pytest.mark.parametrize("density", [0.0, 0.1, 0.7, 1.0])
def test_entries_that_are_not_sent_are_exactly_zero(kind: str, density: float) -> None:
    for seed in range(5):
        kept = mask(seed, density)
        sent = sender(kind)(jax.random.key(seed), draws(SHAPE, seed), jnp.asarray(kept))
        assert not np.any(np.asarray(sent.values)[~np.asarray(sent.kept)])
        assert not np.any(np.asarray(sent.kept) & ~kept)


@all_chains
def test_nan_arrives_as_nan_where_it_is_sent_and_is_never_hidden(kind: str) -> None:
    kept = mask(0)
    kept[2, 1, 3] = True
    values = draws(SHAPE).at[2, 1, 3].set(jnp.nan)
    for seed in range(5):
        sent = sender(kind)(jax.random.key(seed), values, jnp.asarray(kept))
        assert np.isnan(sent.values[2, 1, 3]) == bool(sent.kept[2, 1, 3])
        # A selection by value sends it; a random one may leave it out.
        assert sent.kept[2, 1, 3] or kind.startswith(
            ("dropout", "features", "channels", "randtopk")
        )


@all_chains
def test_an_infinity_arrives_as_infinity_or_nan_where_it_is_sent(kind: str) -> None:
    values = draws(SHAPE).at[2, 1, 3].set(-jnp.inf)
    for seed in range(5):
        sent = sender(kind)(jax.random.key(seed), values, jnp.ones(SHAPE, bool))
        assert np.isfinite(sent.values[2, 1, 3]) == (not sent.kept[2, 1, 3])


@all_chains
def test_the_byte_count_is_that_of_entries_masks_and_headers(kind: str) -> None:
    sent = sender(kind)(jax.random.key(0), draws(SHAPE), jnp.asarray(mask(0)))
    kept = np.asarray(sent.kept)
    bits = int(sent.entry_bits) * int(kept.sum()) + int(mask_bits(sent))
    if sent.coding is not None:
        width = sent.coding.bucket
        padded = np.pad(kept.ravel(), (0, -kept.size % width)).reshape(-1, width)
        bits += int(sent.coding.header_bits) * int(padded.any(1).sum())
    assert int(message_bytes([sent])) == -(-bits // 8)


@all_chains
def test_no_gradient_reaches_entries_that_are_not_sent(kind: str) -> None:
    def loss(values: Array) -> tuple[Array, Message]:
        sent = sender(kind)(jax.random.key(0), values, jnp.asarray(mask(0)))
        return jnp.sum(sent.values), sent

    slope, sent = jax.grad(loss, has_aux=True)(draws(SHAPE))
    np.testing.assert_array_equal(np.asarray(slope) != 0, sent.kept)
    assert np.all(np.asarray(slope)[np.asarray(sent.kept)] >= 1 - 1e-6)


@pytest.mark.parametrize("quantizer", [uniform(4), cast("bfloat16")])
@pytest.mark.parametrize(
    "sparsifier", [dropout(0.5), dropout(0.5, exact=True), topk(0.5), randtopk(0.5), splitfc(0.5)]
)
def test_a_sparsifier_is_refused_after_a_quantizer(
    quantizer: Compressor, sparsifier: Compressor
) -> None:
    for compressor in (chain(quantizer, sparsifier), chain(quantizer, chain(sparsifier))):
        with pytest.raises(ValueError, match="a quantizer must be the last of a chain"):
            jax.eval_shape(
                lambda values, compressor=compressor: compressor.send(
                    compressor.init(values), jax.random.key(0), Message(values)
                ),
                draws(SHAPE),
            )


NOISY = {
    "dropout": dropout(0.5),
    "exact dropout": dropout(0.5, exact=True),
    "uniform": uniform(2, 64),
    "qsgd": qsgd(3, 64),
    "ternary": ternary(64),
    "randtopk": randtopk(0.5, 0.5),
}


@pytest.mark.parametrize("kind", NOISY)
def test_rounds_steps_clients_and_streams_have_independent_noise(kind: str) -> None:
    size, counters = 4096, np.stack(np.meshgrid(*[np.arange(2)] * 4), -1).reshape(-1, 4)
    values = draws((size,))

    def send_with(counter: Array) -> Array:
        key = fold(jax.random.key(0), *counter)  # round, step, client, stage
        return NOISY[kind].send((), key, Message(values))[1].values

    received = np.asarray(
        jax.jit(jax.vmap(send_with))(jnp.asarray(counters, jnp.int32)), np.float64
    )
    # The mean of an entry over the draws is no noise.
    noise = received - received.mean(axis=0)
    noise = noise[:, noise.std(axis=0) > 0]
    noise /= noise.std(axis=0)
    number = noise.shape[1]
    assert number > size / 2
    count = len(counters)
    correlations = (noise @ noise.T / number)[~np.eye(count, dtype=bool)]
    # Without their mean, independent draws have the correlation -1 / (count - 1).
    assert np.all(np.abs(correlations + 1 / (count - 1)) <= 5 / np.sqrt(number))


TREE = {"a": draws((40,), 2), "b": {"c": draws((5, 8), 3)}}


def send(compressor: Compressor, kept: Any = None, seed: int = 0) -> tuple[Any, Any, list[Message]]:
    states = init_tree(compressor, TREE)
    return jax.jit(partial(send_tree, compressor, states))(jax.random.key(seed), TREE, kept)


def test_a_tree_has_one_state_for_each_leaf() -> None:
    assert_trees_equal(init_tree(counter(), TREE), (jnp.float32(0), jnp.float32(0)))
    assert_trees_equal(send(counter())[0], (jnp.float32(1), jnp.float32(1)))


def test_each_leaf_of_a_tree_is_sent_alone_with_its_own_key() -> None:
    compressor = uniform(2, 16)
    _, values, messages = send(compressor)
    assert jax.tree.structure(values) == jax.tree.structure(TREE)
    for i, (leaf, value) in enumerate(
        zip(jax.tree.leaves(TREE), jax.tree.leaves(values), strict=True)
    ):
        key = jax.random.fold_in(jax.random.key(0), i)
        _, alone = jax.jit(compressor.send)((), key, Message(leaf))
        assert_trees_equal(alone, messages[i])
        np.testing.assert_array_equal(alone.values, value)


def test_equal_leaves_of_a_tree_get_independent_noise() -> None:
    leaf = jnp.ones(1000)
    _, values, _ = send_tree(dropout(0.5), ((), ()), jax.random.key(0), (leaf, leaf))
    agreements = int(jnp.sum((values[0] > 0) == (values[1] > 0)))
    # Binomial of 1000 and 1/2: five deviations are 79.
    assert abs(agreements - 500) < 79


def test_a_tree_sent_with_masks_costs_and_delivers_the_kept_entries_only() -> None:
    kept = jax.tree.map(lambda leaf: leaf > 0, TREE)
    _, values, messages = send(uniform(4, 16), kept)
    leaves = zip(*map(jax.tree.leaves, (values, kept, TREE)), messages, strict=True)
    for value, mask, leaf, message in leaves:
        assert np.all(value[~mask] == 0)
        # The kept entries are positive and lie between the least and the greatest kept.
        assert np.all(value[mask] > 0)
        assert np.all(value[mask] <= jnp.max(leaf) * (1 + 1e-6))
        assert int(entries(message)) == int(np.sum(mask))
    assert int(message_bytes(messages)) == -(
        -sum(
            4 * int(m.sum()) + 64 * int(np.any(np.pad(m.ravel(), (0, 8)).reshape(-1, 16), 1).sum())
            for m in map(np.asarray, jax.tree.leaves(kept))
        )
        // 8
    )


def test_a_tree_sent_with_masks_and_no_compressor_is_zero_where_not_kept() -> None:
    kept = jax.tree.map(lambda leaf: leaf > 0, TREE)
    _, values, _ = send(chain(), kept)
    assert_trees_equal(values, jax.tree.map(lambda leaf: jnp.maximum(leaf, 0.0), TREE))
