"""The one place that maps code written for one client over the client axis."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from jfedsl.sharding.slots import SHARDED

# Clients whose programs stand side by side in the body of a loop over clients: their small
# operations overlap, where each alone would leave cores idle.
_SIDE_BY_SIDE = 4


def map_clients(
    function: Callable[..., Any], chunk: int, mesh: Mesh | None = None
) -> Callable[..., Any]:
    """Maps a function of one client over the leading axis of every argument.

    Args:
      function: of pytrees of arrays; returns any pytree, `jax.vjp` functions included.
      chunk: clients computed at once: 1 is a loop, the number of clients or more a plain vmap, in
        between a loop over nearly equal chunks, the last filled up with repeats of the last client.
      mesh: of devices that the clients are spread over, each mapping its own; None for one.

    Returns:
      The mapped function; results do not depend on the chunk beyond rounding.
    """

    def mapped(*arguments: Any) -> Any:
        clients = jax.tree.leaves(arguments)[0].shape[0]
        if chunk >= clients:
            return jax.vmap(function)(*arguments)
        if chunk == 1:
            # Fewer than all: without a loop XLA merges a recomputed forward pass with the first.
            most = min(_SIDE_BY_SIDE, max(1, clients - 1))
            step = max(n for n in range(1, most + 1) if clients % n == 0)
            return lax.scan(lambda _, one: ((), function(*one)), (), arguments, unroll=step)[1]
        chunks = -(-clients // chunk)
        width = -(-clients // chunks)
        folded = jax.tree.map(lambda x: _fold(x, chunks, width), arguments)
        out = lax.map(lambda some: jax.vmap(function)(*some), folded)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:clients], out)

    if mesh is None:
        return mapped
    # Compilers spread a batch over devices by themselves, but not the turns of a loop.
    return jax.shard_map(mapped, mesh=mesh, in_specs=SHARDED, out_specs=SHARDED, check_vma=False)


def _fold(x: Array, chunks: int, width: int) -> Array:
    if chunks * width > x.shape[0]:
        x = x[jnp.minimum(jnp.arange(chunks * width), x.shape[0] - 1)]
    return x.reshape(chunks, width, *x.shape[1:])


def default_chunk(backend: str, params: Any, clients: int) -> int:
    """How many clients to compute at once; a pure function of its arguments, never of a timing.

    On CPU a vmapped convolution with per-client kernels becomes a grouped one, several times slower
    than a loop over clients, while dense layers prefer one batched product.

    Args:
      backend: as `jax.default_backend()` names it.
      params: client-side parameters of one client; 4-dimensional leaves are convolutions.
      clients: size of the client axis.
    """
    convolutions = any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
    return 1 if backend == "cpu" and convolutions else clients
