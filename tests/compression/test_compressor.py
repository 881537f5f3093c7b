"""Messages: chains are sequences, costs are exact, and leaves are sent with noise of their own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import Array

from jfedsl.compression.compressor import (
    Compressor,
    Message,
    chain,
    entries,
    init_tree,
    message_bytes,
    send_tree,
    stateless,
)
from jfedsl.compression.dropout import dropout
from jfedsl.compression.quantization import uniform


def draws(shape: tuple[int, ...], seed: int = 1) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def assert_trees_equal(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def counter() -> Compressor:
    """Counts its messages and adds the count, to see states pass through."""

    def send(state: Array, key: Array, message: Message) -> tuple[Array, Message]:
        return state + 1.0, message.replace(values=message.values + state)

    return Compressor(lambda values: jnp.float32(0), send)


def test_a_chain_of_nothing_is_the_identity() -> None:
    message = Message(draws((4, 3)), draws((4, 3)) > 0, 7, 5)
    states, sent = chain().send(chain().init(message.values), jax.random.key(0), message)
    assert states == ()
    assert sent is message


def test_a_chain_equals_its_compressors_in_order_with_keys_of_their_own() -> None:
    parts = (dropout(0.3), counter(), uniform(3, 8))
    values = draws((5, 7))
    states = chain(*parts).init(values)
    assert_trees_equal(states, tuple(part.init(values) for part in parts))
    together = chain(*parts).send(states, jax.random.key(0), Message(values))

    updated, message = [], Message(values)
    for i, (part, state) in enumerate(zip(parts, states, strict=True)):
        state, message = part.send(state, jax.random.fold_in(jax.random.key(0), i), message)
        updated.append(state)
    assert_trees_equal(together, (tuple(updated), message))


def test_two_compressors_of_a_kind_in_one_chain_do_not_share_noise() -> None:
    values = jnp.ones(1000)
    twice = chain(dropout(0.5), dropout(0.5))
    _, message = twice.send(twice.init(values), jax.random.key(0), Message(values))
    # With one mask for both, half would be kept: 250 are expected, of deviation below 14.
    assert abs(int(entries(message)) - 250) < 70


def test_states_travel_through_a_chain() -> None:
    both = chain(counter(), counter())
    states = both.init(jnp.zeros(2))
    for sent in (0.0, 2.0, 4.0):
        states, message = both.send(states, jax.random.key(0), Message(jnp.zeros(2)))
        np.testing.assert_array_equal(message.values, np.full(2, sent))
    assert_trees_equal(states, (jnp.float32(3), jnp.float32(3)))


def test_a_stateless_compressor_has_no_memory() -> None:
    double = stateless(lambda key, message: message.replace(values=2.0 * message.values))
    assert double.init(jnp.ones(3)) == ()
    state, message = double.send((), jax.random.key(0), Message(jnp.ones(3)))
    assert state == ()
    np.testing.assert_array_equal(message.values, np.full(3, 2.0))


def test_entries_counts_what_is_sent() -> None:
    kept = draws((6, 5)) > 0
    assert int(entries(Message(draws((6, 5)), kept))) == int(np.sum(kept))
    assert int(entries(Message(draws((6, 5))))) == 30


@st.composite
def tensors(draw: st.DrawFn) -> tuple[np.ndarray | None, int, int, int]:
    """Mask, size, bits an entry and header bits; few sizes, because each compiles."""
    size = draw(st.sampled_from([0, 1, 7, 8, 9, 30]))
    kept = draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size))
    mask = None if kept is None else np.array(kept, bool)
    return mask, size, draw(st.integers(1, 32)), draw(st.integers(0, 700))


@given(parts=st.lists(tensors(), max_size=4), extra=st.integers(0, 10**6), traced=st.booleans())
def test_message_bytes_is_exact_and_rounds_up_once(
    parts: list[tuple[np.ndarray | None, int, int, int]], extra: int, traced: bool
) -> None:
    wrap = jnp.int32 if traced else int
    messages = [
        Message(jnp.zeros(size), None if mask is None else jnp.asarray(mask), wrap(b), wrap(header))
        for mask, size, b, header in parts
    ]
    bits = extra + sum(
        (size if mask is None else int(mask.sum())) * b + header for mask, size, b, header in parts
    )
    found = message_bytes(messages, extra)
    assert found.dtype == jnp.int32
    assert int(found) == -(-bits // 8)


def test_a_message_of_two_half_bytes_is_one_byte() -> None:
    half = Message(jnp.zeros(1), None, 4)
    assert int(message_bytes([half])) == 1
    assert int(message_bytes([half, half])) == 1
    assert int(message_bytes([half, half], 1)) == 2


def bytes_of(size: int, bits: int, header: int = 0, tensors: int = 1) -> int:
    """Bytes of tensors of so many entries; compiled, so that their values never exist."""

    def count() -> Array:
        values = jnp.zeros(size, jnp.bool_)
        return message_bytes([Message(values, None, bits, header)] * tensors)

    return int(jax.jit(count)())


@pytest.mark.parametrize("bits", [1, 16, 27, 32])
def test_bytes_are_exact_where_bits_overflow_32_bits(bits: int) -> None:
    size = 80_000_003
    assert bytes_of(size, bits, 9) == -(-(size * bits + 9) // 8)


def test_bytes_are_exact_for_a_large_mask() -> None:
    kept = np.ones(80_000_003, bool)
    kept[::5] = False
    count = jax.jit(lambda kept: message_bytes([Message(kept, kept, 31, 8)]))
    assert int(count(kept)) == -(-(int(kept.sum()) * 31 + 8) // 8)


def test_headers_of_several_tensors_may_exceed_32_bits_together() -> None:
    assert bytes_of(8, 8, 2**30, tensors=2) == 2 * (8 + 2**27)


def test_a_message_that_could_take_2_gib_is_refused() -> None:
    assert bytes_of(2**29 - 1, 32) == 2**31 - 4
    with pytest.raises(ValueError, match="2 GiB"):
        bytes_of(2**29, 1)
    with pytest.raises(ValueError, match="2 GiB"):
        bytes_of(2**28, 1, tensors=2)


TREE = {"a": draws((40,), 2), "b": {"c": draws((5, 8), 3)}}


def send(compressor: Compressor, kept: Any = None, seed: int = 0) -> tuple[Any, Any, list[Message]]:
    states = init_tree(compressor, TREE)
    return send_tree(compressor, states, jax.random.key(seed), TREE, kept)


def test_a_tree_has_one_state_a_leaf() -> None:
    assert_trees_equal(init_tree(counter(), TREE), (jnp.float32(0), jnp.float32(0)))
    assert_trees_equal(send(counter())[0], (jnp.float32(1), jnp.float32(1)))


def test_each_leaf_of_a_tree_is_sent_alone_with_its_own_key() -> None:
    _, values, messages = send(uniform(2, 16))
    assert jax.tree.structure(values) == jax.tree.structure(TREE)
    for i, (leaf, value) in enumerate(
        zip(jax.tree.leaves(TREE), jax.tree.leaves(values), strict=True)
    ):
        key = jax.random.fold_in(jax.random.key(0), i)
        _, alone = uniform(2, 16).send((), key, Message(leaf))
        assert_trees_equal(alone, messages[i])
        np.testing.assert_array_equal(alone.values, value)


def test_equal_leaves_of_a_tree_get_independent_noise() -> None:
    leaf = jnp.ones(1000)
    _, values, _ = send_tree(dropout(0.5), ((), ()), jax.random.key(0), (leaf, leaf))
    alike = int(jnp.sum((values[0] > 0) == (values[1] > 0)))
    # Binomial of 1000 and 1/2: five deviations are 79.
    assert abs(alike - 500) < 79


def test_a_tree_sent_with_masks_costs_and_shows_only_what_is_kept() -> None:
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
