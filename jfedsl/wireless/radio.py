"""A network with its devices as training sees it: rates of a round, and who can be reached."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from jfedsl.keys import fold
from jfedsl.wireless import channel
from jfedsl.wireless.allocation import equal, minmax
from jfedsl.wireless.network import Network


class Devices(NamedTuple):
    """Every client's device, `[C]`: FLOP/s, transmit power in W, mean channel gain."""

    flops: Array
    power: Array
    gain: Array


class Deployment(NamedTuple):
    """Devices where they stand, and what they are expected to send.

    Attributes:
      devices: of all clients.
      bits: that each client is expected to send up in an exchange, in each of the pruner's layouts,
        `[layouts, C]`; only read to share the band.
    """

    devices: Devices
    bits: Array


class FlopCounts(NamedTuple):
    """What an exchange takes of a device and of the server.

    Attributes:
      forward: FLOPs of each client-side layer in each form that clients compute in, `[F, L_c]`.
      backward: likewise.
      server: FLOPs of the server's layers, both passes, for one client's batch.
    """

    forward: Array
    backward: Array
    server: float


class Radio(NamedTuple):
    """The simulated network of a run.

    Attributes:
      network: in SI units.
      deployment: devices where they stand.
      flop_counts: of an exchange.
      allocation: one of `allocation.ALLOCATIONS`.
      sparse: whether pruned single weights save devices arithmetic.
      outage_snr: ratio below which a device is out for a round; None: never.
      timeout: seconds waited for a device that is out; None: until the slowest other is done.
      deadline: seconds of an exchange after which activations come too late; None: never.
    """

    network: Network
    deployment: Deployment
    flop_counts: FlopCounts
    allocation: str
    sparse: bool
    outage_snr: float | None
    timeout: float | None
    deadline: float | None

    @property
    def can_fail(self) -> bool:
        """Whether a participant can miss an exchange."""
        return self.outage_snr is not None or self.deadline is not None


class Conditions(struct.PyTreeNode):
    """A round's conditions, per participant.

    Attributes:
      up_rate: float32 `[K]`, bit/s.
      down_rate: float32 `[K]`, bit/s.
      forward: float32 `[K]`, seconds of a forward pass.
      backward: float32 `[K]`, seconds of a backward pass.
      reachable: bool `[K]`, both directions are above the outage threshold.
      lone_up_rate: float32 `[K]`, bit/s with the whole band to itself.
      lone_down_rate: likewise.
    """

    up_rate: Array
    down_rate: Array
    forward: Array
    backward: Array
    reachable: Array
    lone_up_rate: Array
    lone_down_rate: Array


def conditions(
    radio: Radio, key: Array, ids: Array, forward: Array, backward: Array, bits: Array
) -> Conditions:
    """Draws a round's fading and shares the band.

    The same fading acts on both directions. The base station's power is spread evenly over the
    band, so that the downlink's signal-to-noise ratio does not depend on a device's share of it.
    Who is out is decided at equal shares; the band is then shared by the others.

    Args:
      radio: of the run.
      key: of the round; a client's is folded with its number.
      ids: of the participants, int32 `[K]`.
      forward: seconds that each one's forward pass takes, float32 `[K]`.
      backward: likewise.
      bits: that each one is expected to send up, float32 `[K]`.
    """
    net, devices = radio.network, radio.deployment.devices
    faded = jax.vmap(lambda n: channel.fading(fold(key, n), net.fading, net.rician_factor))(ids)
    gain = devices.gain[ids] * faded
    power, alike = devices.power[ids], equal(ids.size)
    up = channel.snr(power, gain, net.noise, alike * net.up_hz)
    down = channel.snr(channel.from_dbm(net.server_power_dbm), gain, net.noise, net.down_hz)
    reachable = jnp.ones(ids.shape, bool)
    if radio.outage_snr is not None:
        reachable = jnp.minimum(up, down) >= radio.outage_snr
    shares = alike
    if radio.allocation == "minmax":
        bits = jnp.where(reachable, bits, 0.0)
        own = minmax(forward, bits, power * gain / net.noise, net.up_hz)
        # Who is out tries in vain in a share as good as any.
        shares = jnp.where(reachable, own, alike)

    def rates(shares: Array) -> tuple[Array, Array]:
        up_rate = channel.rate_of_strength(shares * net.up_hz, power * gain / net.noise)
        return up_rate, channel.rate(shares * net.down_hz, down)

    alone = rates(jnp.ones_like(alike))
    return Conditions(*rates(shares), forward, backward, reachable, *alone)


def place(key: Array, network: Network, flops: np.ndarray, power_dbm: np.ndarray) -> Devices:
    """Devices in the cell, where they stay.

    Args:
      key: of the run's devices.
      network: path loss and shadowing, or its range of mean gains.
      flops: FLOP/s, `[C]`.
      power_dbm: `[C]`.
    """
    where, shadow = jax.random.split(key)
    clients = len(flops)
    if network.gain is not None:
        low, high = network.gain
        gain = jax.random.uniform(where, (clients,), minval=low, maxval=high)
    else:
        assert network.radius is not None
        gain = channel.path_gain(channel.distances(where, clients, network.radius))
        gain *= channel.shadowing(shadow, clients, network.shadowing_db)
    power = channel.from_dbm(np.asarray(power_dbm))
    return Devices(jnp.asarray(flops, jnp.float32), jnp.asarray(power, jnp.float32), gain)
