"""Training examples where they lie: on the devices of the clients that they belong to."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.engine.participants import first_participants
from jfedsl.engine.state import Data, RunSpec
from jfedsl.sharding.slots import AXES, REPLICATED, SHARDED


def fetch(spec: RunSpec, data: Data, positions: Array) -> tuple[Array, Array]:
    """Images `[P, B, ...]` and labels `[P, B, ...]` at `positions[P, B]` of the data.

    Where all clients take part, each computes on the device that has its examples; a padding
    slot gets some of those there. Else they come from wherever the client belongs.
    """
    mesh, rows = spec.slots.mesh, (data.images, data.labels)
    if mesh is None:
        return data.images[positions], data.labels[positions]
    width = data.labels.shape[0] // mesh.size

    def at_home(rows: tuple[Array, Array], positions: Array) -> tuple[Array, Array]:
        local = positions - lax.axis_index(AXES) * width
        return jax.tree.map(lambda x: x[jnp.clip(local, 0, width - 1)], rows)

    def from_anywhere(rows: tuple[Array, Array], positions: Array) -> tuple[Array, Array]:
        local = positions - lax.axis_index(AXES) * width
        here = (local >= 0) & (local < width)

        def gather(x: Array) -> Array:
            rows = x[jnp.clip(local, 0, width - 1)]
            rows = jnp.where(here.reshape(*here.shape, *(1,) * (x.ndim - 1)), rows, 0)
            return lax.psum_scatter(rows, AXES, scatter_dimension=0, tiled=True)

        return jax.tree.map(gather, rows)

    local = spec.full_participation
    return jax.shard_map(
        at_home if local else from_anywhere,
        mesh=mesh,
        in_specs=(SHARDED, SHARDED if local else REPLICATED),
        out_specs=SHARDED,
        check_vma=False,
    )(rows, positions)


def homes(spec: RunSpec) -> np.ndarray:
    """The device that each client's examples lie on, int `[C]`.

    The one where it computes, if all take part; else any, all having as many clients, or one more.
    """
    slots = spec.slots
    if not spec.full_participation:
        return np.arange(spec.clients) * slots.devices // spec.clients
    per_device = slots.num_slots // slots.devices
    owners = np.empty(spec.clients, int)
    owners[np.asarray(first_participants(spec))] = slots.slot // per_device
    return owners
