"""Places of participants: one each at least, as many of each group on every device, in order."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from helpers import assert_equal
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh

from jfedsl.sharding.slots import AXES, SlotLayout, assign_slots, put


class Devices(NamedTuple):
    """What of a mesh the layout of places depends on."""

    size: int


def on(devices: int, group_sizes: list[int]) -> SlotLayout:
    mesh: Any = Devices(devices)
    return assign_slots(group_sizes, mesh)


def rows_of(numbers: np.ndarray) -> Any:
    return {"a": jnp.asarray(numbers), "b": jnp.asarray(np.stack([numbers * 2.0] * 3, axis=1))}


def group_of(group_sizes: list[int]) -> np.ndarray:
    """Of each participant."""
    return np.repeat(np.arange(len(group_sizes)), group_sizes)


sizes = st.lists(st.integers(1, 7), min_size=1, max_size=4)
counts = st.integers(1, 5)


@given(sizes)
def test_on_one_device_places_are_participants(group_sizes: list[int]) -> None:
    for slots in (assign_slots(group_sizes), on(1, group_sizes)):
        assert slots.identical and slots.widths == tuple(group_sizes)
        np.testing.assert_array_equal(slots.participant, np.arange(sum(group_sizes)))
        np.testing.assert_array_equal(slots.slot, slots.participant)
        assert slots.is_real.all()


@given(sizes, counts)
def test_everybody_has_a_place_and_devices_have_as_many_of_each_group(
    group_sizes: list[int], devices: int
) -> None:
    slots, groups = on(devices, group_sizes), group_of(group_sizes)
    np.testing.assert_array_equal(slots.participant[slots.slot], np.arange(len(groups)))
    assert slots.is_real.sum() == len(groups)
    on_devices = groups[slots.participant].reshape(devices, -1)
    np.testing.assert_array_equal(
        on_devices, np.tile(np.repeat(np.arange(len(group_sizes)), slots.widths), (devices, 1))
    )
    for width, size in zip(slots.widths, group_sizes, strict=True):
        assert 0 <= devices * width - size < devices, "no more room than has to be"


@given(sizes, counts)
def test_members_of_a_group_come_in_order_and_its_last_has_the_places_left(
    group_sizes: list[int], devices: int
) -> None:
    slots, groups = on(devices, group_sizes), group_of(group_sizes)
    numbers = slots.split_groups(jnp.asarray(slots.participant))
    for group, (found, size) in enumerate(zip(numbers, group_sizes, strict=True)):
        members = np.flatnonzero(groups == group)
        np.testing.assert_array_equal(found[:size], members)
        np.testing.assert_array_equal(found[size:], members[-1])


@given(sizes, counts)
def test_groups_taken_apart_and_put_together_are_as_before(
    group_sizes: list[int], devices: int
) -> None:
    slots = on(devices, group_sizes)
    tree = rows_of(np.arange(slots.participant.size))
    parts = slots.split_groups(tree)
    assert [p["a"].size for p in parts] == [devices * width for width in slots.widths]
    assert_equal(slots.join_groups(parts), tree)


@given(sizes, counts)
def test_what_goes_to_places_comes_back_and_weighs_as_much(
    group_sizes: list[int], devices: int
) -> None:
    slots = on(devices, group_sizes)._replace(mesh=None)
    tree = rows_of(np.arange(sum(group_sizes)))
    there = slots.to_slots(tree)
    np.testing.assert_array_equal(there["a"], slots.participant)
    assert_equal(slots.to_participants(there), tree)
    share = jnp.arange(1.0, sum(group_sizes) + 1)
    weights = slots.weights(share)
    assert_equal(slots.to_participants(weights), share)
    np.testing.assert_array_equal(weights[~slots.is_real], 0)


def test_one_message_brings_rows_of_every_type_back_to_the_bit() -> None:
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
    there = jax.tree.map(lambda x: jnp.asarray(x)[slots.participant], rows)
    found = jax.jit(slots.in_one_message)(there)
    for name, row in rows.items():
        assert found[name].dtype == jnp.asarray(row).dtype and found[name].shape == row.shape
        expected = np.asarray(jnp.asarray(row)).tobytes()
        assert np.asarray(found[name]).tobytes() == expected, name


def test_without_a_mesh_arrays_are_put_as_they_are() -> None:
    tree = {"a": np.arange(6).reshape(3, 2), "b": np.float32(2)}
    found = put(None, tree)
    assert_equal(found, tree)
    assert found["b"].dtype == jnp.float32
