"""Sums over devices: in one message, or with packed integers between processes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from jfedsl.compression.compressor import Compressor
from jfedsl.compression.message import FLOAT_BITS, Message
from jfedsl.compression.quantization import uniform
from jfedsl.keys import fold
from jfedsl.sharding.slots import AXES, REPLICATED, SHARDED, where_rows

COLLECTIVE_BITS = (4, 8, 16, FLOAT_BITS)
_BUCKET = 512  # entries that share a header of two float32


def sum_devices(tree: Any) -> Any:
    """The sum over devices of what each has of a tree, in one message; where each has its own."""
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.psum(flat, AXES)) if flat.size else tree


def sum_rows(mesh: Mesh | None, rows: Any) -> Any:
    """Sums over the leading axis of every array of a tree `[P, ...]`.

    Args:
      mesh: of devices that it is spread over; None for one.
      rows: of one dtype.
    """

    def own(rows: Any) -> Any:
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), rows)

    if mesh is None:
        return own(rows)
    return jax.shard_map(
        lambda rows: sum_devices(own(rows)),
        mesh=mesh, in_specs=SHARDED, out_specs=REPLICATED, check_vma=False,
    )(rows)  # fmt: skip


def weighted_sum(mesh: Mesh, bits: int, key: Array, weights: Array, rows: Any) -> Any:
    """The weighted sum over clients, close to it and right in the mean.

    Devices of a process add up theirs first. Each process then sends every other its part of that
    sum, as integers of so many bits, adds up what it gets, and sends its part of the result the
    same way: as an all-reduce does, which sends float32. Both roundings are stochastic, unbiased.

    Args:
      mesh: of processes and their devices.
      bits: of an entry on its way, one of `COLLECTIVE_BITS` but the last.
      key: of this sum.
      weights: float32 `[P]`, spread over the devices.
      rows: tree of float32 `[P, ...]`, likewise.

    Returns:
      Tree of `[...]`, the same on all devices.
    """
    processes, devices = mesh.devices.shape

    def own(weights: Array, rows: Any, key: Array) -> Any:
        # Places left over may hold anything.
        rows = where_rows(weights > 0, rows, jax.tree.map(jnp.zeros_like, rows))
        sums = jax.tree.map(lambda x: jnp.tensordot(weights, x, 1), rows)
        flat, unravel = ravel_pytree(sums)
        padded = jnp.pad(flat, (0, -flat.size % (processes * devices * _BUCKET)))
        part = lax.psum_scatter(padded, "device", tiled=True)
        mine = fold(key, lax.axis_index(AXES))
        part = _across(uniform(bits, _BUCKET), bits, processes, mine, part)
        return unravel(lax.all_gather(part, "device", tiled=True)[: flat.size])

    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(SHARDED, SHARDED, REPLICATED),
        out_specs=REPLICATED,
        check_vma=False,
    )(weights, rows, key)


def _across(quantizer: Compressor, bits: int, processes: int, key: Array, part: Array) -> Array:
    """The sum over processes of a vector that they have a version of each."""
    codes, headers, decode = _encode(quantizer, bits, fold(key, 0), part)

    def swap(x: Array) -> Array:
        return lax.all_to_all(x, "process", 0, 0, tiled=True)

    rows = decode(swap(codes), swap(headers)).reshape(processes, -1)
    codes, headers, decode = _encode(quantizer, bits, fold(key, 1), jnp.sum(rows, axis=0))
    return decode(*(lax.all_gather(x, "process", tiled=True) for x in (codes, headers)))


def _encode(
    quantizer: Compressor, bits: int, key: Array, values: Array
) -> tuple[Array, Array, Any]:
    """Codes as they travel, headers, and the function that makes values of both."""
    _, message = quantizer.send(quantizer.init(values), key, Message(values))
    coding = message.coding
    assert coding is not None

    def decode(packed: Array, headers: Array) -> Array:
        codes = unpack(packed, bits).reshape(-1, _BUCKET)
        return coding.decode(codes, headers, bits).ravel()

    return pack(coding.codes, bits), coding.headers, decode


def pack(codes: Array, bits: int) -> Array:
    """Codes `[N]` of 4, 8 or 16 bits as integers of these; of 4, two in a byte, uint8 `[N/2]`."""
    if bits == 4:
        pairs = codes.reshape(-1, 2).astype(jnp.uint8)
        return pairs[:, 0] | (pairs[:, 1] << 4)
    return codes.astype(jnp.uint8 if bits == 8 else jnp.uint16)


def unpack(packed: Array, bits: int) -> Array:
    """What `pack` packed, uint32 `[N]`."""
    if bits == 4:
        packed = jnp.stack([packed & 15, packed >> 4], axis=1).ravel()
    return packed.astype(jnp.uint32)
