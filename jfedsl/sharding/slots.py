"""Slots: the rows of the client axis, sharded over devices, in which participants are computed.

Arrays as large as clients' models are `[P, ...]`, one row a slot, sharded over the devices. Small
arrays about participants are `[K, ...]`, replicated. Each participant has one slot; the remaining
slots are padding, so that every device has equally many. On one device slots are participants.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# The client axis is sharded over both axes of the mesh: processes, and the devices of a process.
AXES = ("process", "device")
SHARDED, REPLICATED = PartitionSpec(AXES), PartitionSpec()


class SlotLayout(NamedTuple):
    """The slots of a period's participants; the same in every period.

    Participants are in groups, such as one for each pruning rate, that run different programs.
    Every device has equally many slots for each group. Padding slots of a group repeat its last
    participant: they compute with weight 0, maybe on examples of other clients, and are dropped.

    Attributes:
      mesh: devices, with axes `AXES`; None for one device.
      participant: number of the participant that each slot computes, int `[P]`.
      slot: slot of each participant, int `[K]`.
      group_slots: number of slots of each group on one device.
    """

    mesh: Mesh | None
    participant: np.ndarray
    slot: np.ndarray
    group_slots: tuple[int, ...]

    @property
    def devices(self) -> int:
        """Number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def processes(self) -> int:
        """Number of processes that the devices belong to."""
        return 1 if self.mesh is None else self.mesh.shape["process"]

    @property
    def num_slots(self) -> int:
        """P, the number of slots on all devices."""
        return self.participant.size

    @property
    def is_identity(self) -> bool:
        """Whether slot n is that of participant n, without padding."""
        return np.array_equal(self.participant, np.arange(self.slot.size))

    def padded_rows(self, count: int) -> int:
        """`count` rounded up to a multiple of the number of devices."""
        return -(-count // self.devices) * self.devices

    def to_slots(self, rows: Any) -> Any:
        """Arrays `[K, ...]` of participants as `[P, ...]` of slots, sharded."""
        if not self.is_identity:
            rows = jax.tree.map(lambda x: x[self.participant], rows)
        return self.shard(rows)

    def to_participants(self, rows: Any) -> Any:
        """Arrays `[P, ...]` of slots as `[K, ...]` of participants, replicated."""
        rows = self.replicate(rows)
        return rows if self.is_identity else jax.tree.map(lambda x: x[self.slot], rows)

    def in_one_message(self, rows: Any) -> Any:
        """`to_participants` for small arrays, in one message for all of them.

        The latency of a message exceeds the time of sending a small array. Entries of any dtype up
        to 32 bits travel as words of 32 bits, so that values are unchanged to the bit.
        """
        if self.mesh is None:
            return self.to_participants(rows)
        leaves, structure = jax.tree.flatten(rows)
        words = self.shard(jnp.concatenate([_to_words(x) for x in leaves], axis=1))
        message = self.to_participants(words)
        ends = np.cumsum([math.prod(x.shape[1:]) for x in leaves])
        parts = zip(jnp.split(message, ends[:-1], axis=1), leaves, strict=True)
        return jax.tree.unflatten(structure, [_from_words(part, x) for part, x in parts])

    def weights(self, weights: Array) -> Array:
        """Weights `[K]` of participants as `[P]` of slots, 0 for padding slots."""
        rows = self.to_slots(weights)
        return rows if self.is_identity else jnp.where(self.is_real, rows, 0.0)

    @property
    def is_real(self) -> np.ndarray:
        """Whether each slot is a participant's, not padding, bool `[P]`."""
        is_real = np.zeros(self.num_slots, bool)
        is_real[self.slot] = True
        return is_real

    def shard(self, tree: Any) -> Any:
        """The arrays of a tree with their leading axis sharded over the devices."""
        return self._constrain(tree, SHARDED)

    def replicate(self, tree: Any) -> Any:
        """The arrays of a tree, replicated on all devices."""
        return self._constrain(tree, REPLICATED)

    def _constrain(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, spec))

    def split_groups(self, tree: Any) -> list[Any]:
        """The rows of each group of a tree `[P, ...]`, sharded as the tree is."""
        if len(self.group_slots) == 1:
            return [tree]
        ends = np.cumsum(self.group_slots).tolist()

        def rows_between(x: Array, first: int, end: int) -> Array:
            on_each_device = x.reshape(self.devices, -1, *x.shape[1:])[:, first:end]
            return on_each_device.reshape(-1, *x.shape[1:])

        bounds = zip([0, *ends], ends, strict=False)
        return [
            jax.tree.map(lambda x, first=first, end=end: rows_between(x, first, end), tree)
            for first, end in bounds
        ]

    def join_groups(self, rows: Sequence[Any]) -> Any:
        """The rows of all groups, from `split_groups`, as one tree `[P, ...]`."""
        if len(rows) == 1:
            return rows[0]

        def join(*groups: Array) -> Array:
            shape = groups[0].shape[1:]
            on_each_device = [x.reshape(self.devices, -1, *shape) for x in groups]
            return jnp.concatenate(on_each_device, axis=1).reshape(-1, *shape)

        return jax.tree.map(join, *rows)


def _to_words(x: Array) -> Array:
    """An array `[P, ...]` with entries of up to 32 bits as uint32 `[P, n]`."""
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    if x.dtype == bool:
        return flat.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(flat, _unsigned_dtype(x)).astype(jnp.uint32)


def _from_words(words: Array, like: Array) -> Array:
    """The array of which `words[K, n]` are the words; `like` has its dtype and row shape."""
    shape = (len(words), *like.shape[1:])
    if like.dtype == bool:
        return words.astype(bool).reshape(shape)
    codes = words.astype(_unsigned_dtype(like))
    return jax.lax.bitcast_convert_type(codes, like.dtype).reshape(shape)


def _unsigned_dtype(x: Array) -> np.dtype:
    return np.dtype(f"uint{8 * x.dtype.itemsize}")


def put(mesh: Mesh | None, tree: Any, spec: PartitionSpec = REPLICATED) -> Any:
    """Copies arrays from the host to devices; a process reads only the rows of its devices.

    Args:
      mesh: devices, with axes `AXES`; None for one device.
      tree: arrays, or objects with `shape` whose rows can be sliced.
      spec: how the arrays are sharded.

    Returns:
      Arrays; shapes with shardings if the devices of the mesh are not there, see `is_absent`.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    sharding = NamedSharding(mesh, spec)
    if is_absent(mesh):
        return jax.tree.map(lambda x: _shape(x, sharding), tree)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda i: np.asarray(x[i])), tree
    )


def is_absent(mesh: Mesh) -> bool:
    """Whether programs can be compiled for the devices of a mesh, but nothing can run there.

    Such devices are those of `jax.experimental.topologies`.
    """
    return "CompileOnly" in type(mesh.devices.flat[0].client).__name__


def _shape(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding)


def assign_slots(group_sizes: Sequence[int], mesh: Mesh | None = None) -> SlotLayout:
    """Gives each participant a slot, with as few padding slots as possible.

    >>> assign_slots((5, 2)).participant.tolist()
    [0, 1, 2, 3, 4, 5, 6]

    Args:
      group_sizes: number of participants in each group; participants are in the order of groups.
      mesh: devices, with axes `AXES`; None for one device.
    """
    devices, first, columns = 1 if mesh is None else mesh.size, 0, []
    group_slots = tuple(-(-size // devices) for size in group_sizes)
    for size, slots in zip(group_sizes, group_slots, strict=True):
        # Padding slots repeat the last participant of the group.
        members = first + np.minimum(np.arange(devices * slots), size - 1)
        columns.append(members.reshape(devices, slots))
        first += size
    participant = np.concatenate(columns, axis=1).ravel()
    slot = np.unique(participant, return_index=True)[1]  # the first slot of each
    return SlotLayout(mesh, participant, slot, group_slots)


def where_rows(rows: Array, new: Any, old: Any) -> Any:
    """Rows of `new` where `rows` is true, else of `old`.

    Args:
      rows: bool `[K]`.
      new: tree of arrays `[K, ...]`.
      old: tree of arrays of the same shapes.
    """
    return jax.tree.map(
        lambda n, o: jnp.where(rows.reshape(-1, *(1,) * (n.ndim - 1)), n, o), new, old
    )
