"""Training examples where they lie: on the devices of the clients that they belong to."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.engine.participants import first_participants
from jfedsl.engine.state import Data, Scheme
from jfedsl.sharding.slots import AXES, EVERYWHERE, SPREAD


def fetch(scheme: Scheme, data: Data, positions: Array) -> tuple[Array, Array]:
    """Images `[P, B, ...]` and labels `[P, B]` at `positions[P, B]` of the data.

    Where all clients take part, each computes on the device that has its examples; a place left
    over gets some of those there. Else they come from wherever the client belongs.
    """
    mesh, rows = scheme.placement.mesh, (data.images, data.labels)
    if mesh is None:
        return data.images[positions], data.labels[positions]
    width = data.labels.shape[0] // mesh.size

    def at_home(rows: tuple[Array, Array], positions: Array) -> tuple[Array, Array]:
        own = positions - lax.axis_index(AXES) * width
        return jax.tree.map(lambda x: x[jnp.clip(own, 0, width - 1)], rows)

    def from_anywhere(rows: tuple[Array, Array], positions: Array) -> tuple[Array, Array]:
        own = positions - lax.axis_index(AXES) * width
        here = (own >= 0) & (own < width)

        def gather(x: Array) -> Array:
            found = x[jnp.clip(own, 0, width - 1)]
            found = jnp.where(here.reshape(*here.shape, *(1,) * (x.ndim - 1)), found, 0)
            return lax.psum_scatter(found, AXES, scatter_dimension=0, tiled=True)

        return jax.tree.map(gather, rows)

    local = scheme.everyone
    return jax.shard_map(
        at_home if local else from_anywhere,
        mesh=mesh,
        in_specs=(SPREAD, SPREAD if local else EVERYWHERE),
        out_specs=SPREAD,
        check_vma=False,
    )(rows, positions)


def homes(scheme: Scheme) -> np.ndarray:
    """The device that each client's examples lie on, int `[C]`.

    The one where it computes, if all take part; else any, all having as many clients, or one more.
    """
    placement = scheme.placement
    if not scheme.everyone:
        return np.arange(scheme.clients) * placement.devices // scheme.clients
    per_device = placement.places // placement.devices
    owners = np.empty(scheme.clients, int)
    owners[np.asarray(first_participants(scheme))] = placement.place // per_device
    return owners
