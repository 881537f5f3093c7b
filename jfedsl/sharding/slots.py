"""Where participants compute: each has a slot on one of the devices that the run uses.

Everything as large as clients' models is `[P, ...]`, a row for each slot, sharded over the devices;
small numbers about participants are `[K]`, on all devices. On one device slots are participants.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Both axes of a mesh together are that of clients: processes, and the devices of each.
AXES = ("process", "device")
SHARDED, REPLICATED = PartitionSpec(AXES), PartitionSpec()


class SlotLayout(NamedTuple):
    """Slots of a period's participants, the same in every period.

    Each device has as many slots for participants of each of the pruner's groups as any other.
    Where there are more slots than participants of a group, its last one has the others too: it
    computes there in vain, with weight 0, and maybe on others' examples.

    Attributes:
      mesh: the devices, with `AXES`; None for one.
      participant: who has each slot, int `[P]`.
      slot: of each participant, int `[K]`.
      widths: slots of each group on a device.
    """

    mesh: Mesh | None
    participant: np.ndarray
    slot: np.ndarray
    widths: tuple[int, ...]

    @property
    def devices(self) -> int:
        """How many there are."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def processes(self) -> int:
        """How many processes these belong to."""
        return 1 if self.mesh is None else self.mesh.shape["process"]

    @property
    def num_slots(self) -> int:
        """P."""
        return self.participant.size

    @property
    def identical(self) -> bool:
        """Whether slots are participants, in their order."""
        return np.array_equal(self.participant, np.arange(self.slot.size))

    def evenly(self, count: int) -> int:
        """The least number of rows, for so many, that devices can share evenly."""
        return -(-count // self.devices) * self.devices

    def to_slots(self, rows: Any) -> Any:
        """Arrays `[K, ...]` of participants as `[P, ...]` of slots."""
        if not self.identical:
            rows = jax.tree.map(lambda x: x[self.participant], rows)
        return self.shard(rows)

    def to_participants(self, rows: Any) -> Any:
        """Arrays `[P, ...]` of slots as `[K, ...]` of participants, on all devices."""
        rows = self.replicate(rows)
        return rows if self.identical else jax.tree.map(lambda x: x[self.slot], rows)

    def in_one_message(self, rows: Any) -> Any:
        """What `to_participants` makes of small arrays.

        On many a link starting a message takes longer than such a one.
        """
        if self.mesh is None:
            return self.to_participants(rows)
        leaves, structure = jax.tree.flatten(rows)
        words = self.shard(jnp.concatenate([_words(x) for x in leaves], axis=1))
        message = self.to_participants(words)
        ends = np.cumsum([math.prod(x.shape[1:]) for x in leaves])
        parts = zip(jnp.split(message, ends[:-1], axis=1), leaves, strict=True)
        return jax.tree.unflatten(structure, [_read(part, x) for part, x in parts])

    def weights(self, weights: Array) -> Array:
        """Weights `[K]` of participants as `[P]` of slots, 0 for padding slots."""
        rows = self.to_slots(weights)
        return rows if self.identical else jnp.where(self.is_real, rows, 0.0)

    @property
    def is_real(self) -> np.ndarray:
        """Which slots are a participant's and not padding, bool `[P]`."""
        own = np.zeros(self.num_slots, bool)
        own[self.slot] = True
        return own

    def shard(self, tree: Any) -> Any:
        """The arrays of a tree with their leading axis spread over the devices."""
        return self._lay(tree, SHARDED)

    def replicate(self, tree: Any) -> Any:
        """The arrays of a tree whole on every device."""
        return self._lay(tree, REPLICATED)

    def _lay(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, spec))

    def split_groups(self, tree: Any) -> list[Any]:
        """The rows of each group of a tree `[P, ...]`, spread as that is."""
        if len(self.widths) == 1:
            return [tree]
        ends = np.cumsum(self.widths).tolist()

        def some(x: Array, first: int, end: int) -> Array:
            own = x.reshape(self.devices, -1, *x.shape[1:])[:, first:end]
            return own.reshape(-1, *x.shape[1:])

        bounds = zip([0, *ends], ends, strict=False)
        return [jax.tree.map(lambda x, a=a, b=b: some(x, a, b), tree) for a, b in bounds]

    def join_groups(self, rows: Sequence[Any]) -> Any:
        """The rows of all groups as one tree `[P, ...]`."""
        if len(rows) == 1:
            return rows[0]

        def join(*parts: Array) -> Array:
            shape = parts[0].shape[1:]
            own = [x.reshape(self.devices, -1, *shape) for x in parts]
            return jnp.concatenate(own, axis=1).reshape(-1, *shape)

        return jax.tree.map(join, *rows)


def _words(x: Array) -> Array:
    """An array `[P, ...]` of entries of up to four bytes as uint32 `[P, n]`."""
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    if x.dtype == bool:
        return flat.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(flat, _bits(x)).astype(jnp.uint32)


def _read(words: Array, like: Array) -> Array:
    """Rows of what `_words` made of an array like this one."""
    shape = (len(words), *like.shape[1:])
    if like.dtype == bool:
        return words.astype(bool).reshape(shape)
    return jax.lax.bitcast_convert_type(words.astype(_bits(like)), like.dtype).reshape(shape)


def _bits(x: Array) -> np.dtype:
    return np.dtype(f"uint{8 * x.dtype.itemsize}")


def put(mesh: Mesh | None, tree: Any, spec: PartitionSpec = REPLICATED) -> Any:
    """Arrays of the host on the devices of a mesh; a process reads only the rows that it needs.

    Args:
      mesh: None for the only device.
      tree: of arrays, or of anything that has a shape and rows to slice.
      spec: where their rows go.
    """
    if mesh is None:
        return jax.tree.map(jnp.asarray, tree)
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda i: np.asarray(x[i])), tree
    )


def assign_slots(group_sizes: Sequence[int], mesh: Mesh | None = None) -> SlotLayout:
    """Gives the participants of each group slots, in their order, as evenly as can be.

    >>> assign_slots((5, 2)).participant.tolist()
    [0, 1, 2, 3, 4, 5, 6]

    Args:
      group_sizes: how many participants are of each group.
      mesh: of devices; None for one.
    """
    devices, first, columns = 1 if mesh is None else mesh.size, 0, []
    widths = tuple(-(-size // devices) for size in group_sizes)
    for size, width in zip(group_sizes, widths, strict=True):
        members = first + np.minimum(np.arange(devices * width), size - 1)
        columns.append(members.reshape(devices, width))
        first += size
    participant = np.concatenate(columns, axis=1).ravel()
    return SlotLayout(mesh, participant, np.unique(participant, return_index=True)[1], widths)


def where_rows(rows: Array, new: Any, old: Any) -> Any:
    """Rows of `new` where `rows[K]` says so, else of `old`, in every array `[K, ...]` of a tree."""
    return jax.tree.map(
        lambda n, o: jnp.where(rows.reshape(-1, *(1,) * (n.ndim - 1)), n, o), new, old
    )
