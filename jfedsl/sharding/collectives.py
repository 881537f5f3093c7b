"""Sums over devices: in one collective, or in quantized messages between processes."""

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
_BUCKET = 512  # entries that share a header, which is two float32


def sum_devices(tree: Any) -> Any:
    """The sum over devices of a tree of arrays, inside of `shard_map`, in one collective.

    One message for all arrays, as the latency of a message exceeds the time of sending a small one.
    """
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.psum(flat, AXES)) if flat.size else tree


def sum_rows(mesh: Mesh | None, rows: Any) -> Any:
    """Sums over the leading axis of every array of a tree.

    Args:
      mesh: devices over which the leading axis is sharded; None for one device.
      rows: tree of arrays `[P, ...]` of one dtype.

    Returns:
      Tree of arrays `[...]`, replicated on all devices.
    """

    def sum_local(rows: Any) -> Any:
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), rows)

    if mesh is None:
        return sum_local(rows)
    return jax.shard_map(
        lambda rows: sum_devices(sum_local(rows)),
        mesh=mesh, in_specs=SHARDED, out_specs=REPLICATED, check_vma=False,
    )(rows)  # fmt: skip


def weighted_sum(mesh: Mesh, bits: int, key: Array, weights: Array, rows: Any) -> Any:
    """The weighted sum over clients, quantized between processes and unbiased.

    An all-reduce (reduce-scatter, then all-gather) with quantized messages instead of float32. The
    devices of a process add up their rows. Each process sends to every other one that one's part of
    the sum, quantized, adds up the parts that it receives, and sends the result to all, quantized
    again. Both quantizations are stochastic and unbiased.

    Args:
      mesh: devices, with axes `AXES`.
      bits: bits of a quantized entry, one of `COLLECTIVE_BITS` below 32.
      key: scalar PRNG key, for this sum only.
      weights: float32 `[P]`, 0 for padding slots, sharded over the devices.
      rows: tree of float32 `[P, ...]`, sharded over the devices.

    Returns:
      Tree of float32 `[...]`, replicated on all devices.
    """
    if not jax.tree.leaves(rows):
        return rows
    processes, devices = mesh.devices.shape

    def sum_on_device(weights: Array, rows: Any, key: Array) -> Any:
        # Rows of padding slots may be NaN, which a weight of 0 would not remove.
        rows = where_rows(weights > 0, rows, jax.tree.map(jnp.zeros_like, rows))
        sums = jax.tree.map(lambda x: jnp.tensordot(weights, x, 1), rows)
        flat, unravel = ravel_pytree(sums)
        padded = jnp.pad(flat, (0, -flat.size % (processes * devices * _BUCKET)))
        part = lax.psum_scatter(padded, "device", tiled=True)
        device_key = fold(key, lax.axis_index(AXES))
        part = _sum_processes(uniform(bits, _BUCKET), bits, processes, device_key, part)
        return unravel(lax.all_gather(part, "device", tiled=True)[: flat.size])

    return jax.shard_map(
        sum_on_device,
        mesh=mesh,
        in_specs=(SHARDED, SHARDED, REPLICATED),
        out_specs=REPLICATED,
        check_vma=False,
    )(weights, rows, key)


def _sum_processes(
    quantizer: Compressor, bits: int, processes: int, key: Array, part: Array
) -> Array:
    """The sum of the vectors `part[N]` of all processes, quantized on both ways."""
    codes, headers, decode = _encode(quantizer, bits, fold(key, 0), part)

    def exchange(x: Array) -> Array:
        return lax.all_to_all(x, "process", 0, 0, tiled=True)

    rows = decode(exchange(codes), exchange(headers)).reshape(processes, -1)
    codes, headers, decode = _encode(quantizer, bits, fold(key, 1), jnp.sum(rows, axis=0))
    return decode(*(lax.all_gather(x, "process", tiled=True) for x in (codes, headers)))


def _encode(
    quantizer: Compressor, bits: int, key: Array, values: Array
) -> tuple[Array, Array, Any]:
    """Packed codes, headers, and the function `(packed, headers) -> values` that decodes them."""
    _, message = quantizer.send(quantizer.init(values), key, Message(values))
    coding = message.coding
    assert coding is not None

    def decode(packed: Array, headers: Array) -> Array:
        codes = unpack(packed, bits).reshape(-1, _BUCKET)
        return coding.decode(codes, headers, bits).ravel()

    return pack(coding.codes, bits), coding.headers, decode


def pack(codes: Array, bits: int) -> Array:
    """Codes `[N]` as uint8 or uint16 `[N]`; two codes of 4 bits share a byte, uint8 `[N / 2]`.

    >>> pack(jnp.array([1, 2, 3, 15]), 4).tolist()
    [33, 243]
    """
    if bits == 4:
        pairs = codes.reshape(-1, 2).astype(jnp.uint8)
        return pairs[:, 0] | (pairs[:, 1] << 4)
    return codes.astype(jnp.uint8 if bits == 8 else jnp.uint16)


def unpack(packed: Array, bits: int) -> Array:
    """The codes that `pack` packed, uint32 `[N]`."""
    if bits == 4:
        packed = jnp.stack([packed & 15, packed >> 4], axis=1).ravel()
    return packed.astype(jnp.uint32)
