"""Slots: one for each participant, in order, and equally many of each group on every device."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh

from jfedsl.sharding.slots import AXES, SlotLayout, assign_slots, put


class MeshOfSize(NamedTuple):
    """The part of a mesh on which the layout of slots depends."""

    size: int


def on(devices: int, group_sizes: list[int]) -> SlotLayout:
    mesh: Any = MeshOfSize(devices)
    return assign_slots(group_sizes, mesh)


def rows_of(numbers: np.ndarray) -> Any:
    return {"a": jnp.asarray(numbers), "b": jnp.asarray(np.stack([numbers * 2.0] * 3, axis=1))}


def group_of(group_sizes: list[int]) -> np.ndarray:
    """The group of each participant, `[K]`."""
    return np.repeat(np.arange(len(group_sizes)), group_sizes)


sizes = st.lists(st.integers(1, 7), min_size=1, max_size=4)
counts = st.integers(1, 5)


@given(sizes)
def test_on_one_device_slots_are_participants(group_sizes: list[int]) -> None:
    for slots in (assign_slots(group_sizes), on(1, group_sizes)):
        assert slots.is_identity and slots.group_slots == tuple(group_sizes)
        np.testing.assert_array_equal(slots.participant, np.arange(sum(group_sizes)))
        np.testing.assert_array_equal(slots.slot, slots.participant)
        assert slots.is_real.all()


@given(sizes, counts)
def test_each_participant_has_a_slot_and_devices_have_equally_many_of_each_group(
    group_sizes: list[int], devices: int
) -> None:
    slots, groups = on(devices, group_sizes), group_of(group_sizes)
    np.testing.assert_array_equal(slots.participant[slots.slot], np.arange(len(groups)))
    assert slots.is_real.sum() == len(groups)
    on_devices = groups[slots.participant].reshape(devices, -1)
    np.testing.assert_array_equal(
        on_devices, np.tile(np.repeat(np.arange(len(group_sizes)), slots.group_slots), (devices, 1))
    )
    for count, size in zip(slots.group_slots, group_sizes, strict=True):
        assert 0 <= devices * count - size < devices, "as few padding slots as possible"


@given(sizes, counts)
def test_members_of_a_group_are_in_order_and_padding_repeats_the_last(
    group_sizes: list[int], devices: int
) -> None:
    slots, groups = on(devices, group_sizes), group_of(group_sizes)
    numbers = slots.split_groups(jnp.asarray(slots.participant))
    for group, (in_slots, size) in enumerate(zip(numbers, group_sizes, strict=True)):
        members = np.flatnonzero(groups == group)
        np.testing.assert_array_equal(in_slots[:size], members)
        np.testing.assert_array_equal(in_slots[size:], members[-1])


@given(sizes, counts)
def test_joining_split_groups_gives_the_tree_back(group_sizes: list[int], devices: int) -> None:
    slots = on(devices, group_sizes)
    tree = rows_of(np.arange(slots.participant.size))
    parts = slots.split_groups(tree)
    assert [p["a"].size for p in parts] == [devices * count for count in slots.group_slots]
    assert_equal(slots.join_groups(parts), tree)


@given(sizes, counts)
def test_rows_return_from_slots_and_padding_slots_weigh_nothing(
    group_sizes: list[int], devices: int
) -> None:
    slots = on(devices, group_sizes)._replace(mesh=None)
    tree = rows_of(np.arange(sum(group_sizes)))
    in_slots = slots.to_slots(tree)
    np.testing.assert_array_equal(in_slots["a"], slots.participant)
    assert_equal(slots.to_participants(in_slots), tree)
    share = jnp.arange(1.0, sum(group_sizes) + 1)
    weights = slots.weights(share)
    assert_equal(slots.to_participants(weights), share)
    np.testing.assert_array_equal(weights[~slots.is_real], 0)


def test_one_message_keeps_rows_of_every_dtype_to_the_bit() -> None:
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), AXES)
    slots = on(3, [5, 2])._replace(mesh=mesh)
    draw = np.random.default_rng(0)
    words = draw.integers(0, 2**32, (7, 4, 2), dtype=np.uint32)
    words[0, 0] = 0x7FC01234, 0xFFA07FB1  # NaNs, quiet and signalling
    rows = {
        "float32": words.view(np.float32), "int32": words[:, 0].view(np.int32), "uint32": words,
        "bool": words[:, 0, 0] % 2 == 0, "uint8": words.astype(np.uint8),
        "bfloat16": words.astype(np.uint16).view(jnp.bfloat16), "empty": np.zeros((7, 0, 3)),
    }  # fmt: skip
    in_slots = jax.tree.map(lambda x: jnp.asarray(x)[slots.participant], rows)
    received = jax.jit(slots.in_one_message)(in_slots)
    for name, sent in rows.items():
        assert received[name].dtype == jnp.asarray(sent).dtype
        assert received[name].shape == sent.shape
        expected = np.asarray(jnp.asarray(sent)).tobytes()
        assert np.asarray(received[name]).tobytes() == expected, name


def test_without_a_mesh_put_copies_arrays_to_the_device() -> None:
    tree = {"a": np.arange(6).reshape(3, 2), "b": np.float32(2)}
    on_device = put(None, tree)
    assert_equal(on_device, tree)
    assert on_device["b"].dtype == jnp.float32
