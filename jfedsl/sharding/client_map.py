"""The map over the client axis of functions written for one client."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from jfedsl.sharding.slots import SHARDED

# Clients unrolled into one iteration of the loop over clients: their small operations run in
# parallel, where those of one client would leave cores idle. More only compile longer.
_UNROLLED = 2


def map_clients(
    function: Callable[..., Any], chunk: int, mesh: Mesh | None = None
) -> Callable[..., Any]:
    """Maps a function of one client over the leading axis of every argument.

    Args:
      function: takes pytrees of arrays of one client; returns any pytree, which may hold functions
        that `jax.vjp` returned.
      chunk: clients computed at once. 1 is a loop, the number of clients or more one vmap, and any
        other number a loop over chunks of nearly that size.
      mesh: devices with axes `AXES` over which the client axis is sharded; each device maps over
        its clients. None for one device.

    Returns:
      The mapped function: arguments and results have a leading axis of clients. Results do not
      depend on the chunk beyond rounding.
    """

    def mapped(*arguments: Any) -> Any:
        clients = jax.tree.leaves(arguments)[0].shape[0]
        if chunk >= clients:
            return jax.vmap(function)(*arguments)
        if chunk == 1:
            # Not all clients at once: XLA removes a loop of one iteration, and then merges a
            # recomputed forward pass with the first one, so that recomputing saves no memory.
            most = min(_UNROLLED, max(1, clients - 1))
            unroll = max(n for n in range(1, most + 1) if clients % n == 0)
            return lax.scan(
                lambda _, client: ((), function(*client)), (), arguments, unroll=unroll
            )[1]
        chunks = -(-clients // chunk)
        size = -(-clients // chunks)
        chunked = jax.tree.map(lambda x: _to_chunks(x, chunks, size), arguments)
        results = lax.map(lambda of_chunk: jax.vmap(function)(*of_chunk), chunked)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:clients], results)

    if mesh is None:
        return mapped
    # XLA shards a batched operation over devices by itself, but not the iterations of a loop.
    return jax.shard_map(mapped, mesh=mesh, in_specs=SHARDED, out_specs=SHARDED, check_vma=False)


def _to_chunks(x: Array, chunks: int, size: int) -> Array:
    """`[C, ...]` as `[chunks, size, ...]`; copies of the last client fill up the last chunk."""
    if chunks * size > x.shape[0]:
        x = x[jnp.minimum(jnp.arange(chunks * size), x.shape[0] - 1)]
    return x.reshape(chunks, size, *x.shape[1:])


def default_chunk(platform: str, params: Any, clients: int) -> int:
    """How many clients to compute at once.

    On CPU a vmapped convolution with per-client kernels becomes a grouped one, several times slower
    than a loop over clients, while dense layers are faster as one batched product. Nothing is
    timed, so that a run repeats exactly.

    Args:
      platform: cpu, gpu or tpu.
      params: client-side parameters of one client; leaves `[KH, KW, Cin, Cout]` are convolutions.
      clients: size of the client axis.
    """
    return 1 if platform == "cpu" and has_convolutions(params) else clients


def has_convolutions(params: Any) -> bool:
    """Whether any leaf has the shape of a convolution's kernel, `[KH, KW, Cin, Cout]`."""
    return any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
