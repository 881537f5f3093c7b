"""The simulated network of a run: where clients are, and rates and outages of a round."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from jfedsl.keys import fold
from jfedsl.wireless import channel, gauss_markov, mobility
from jfedsl.wireless.allocation import equal, minmax
from jfedsl.wireless.cells import Cells, equal_in_cells, minmax_in_cells
from jfedsl.wireless.network import Network


class RadioHardware(NamedTuple):
    """The hardware and the radio link of every client.

    Attributes:
      flops: speed, float32 `[C]`, FLOP/s.
      power: transmit power, float32 `[C]`, W.
      gain: mean channel gain (path loss and shadowing), float32 `[C]`, ratio; where clients move,
        that of the first round.
      motion: of each client `[C]`; None where they stand still.
    """

    flops: Array
    power: Array
    gain: Array
    motion: mobility.Motion | None = None


class Deployment(NamedTuple):
    """Clients in the cell, the sizes of their messages, and the seed of fading.

    Attributes:
      hardware: speed and radio link of every client.
      bits: expected bits that each client sends in an exchange, for each of the pruner's width
        configs, `[F, C]`; used to allocate bandwidth only.
      seed: of the fading, uint32 scalar; None for that of the run.
    """

    hardware: RadioHardware
    bits: Array
    seed: Array | None = None

    def key(self, run_key: Array) -> Array:
        """The key that fading is drawn from.

        Args:
          run_key: of the run, for a network without a seed of its own.
        """
        return run_key if self.seed is None else jax.random.key(self.seed)


class FlopCounts(NamedTuple):
    """FLOPs of an exchange, for one client's batch.

    Attributes:
      forward: forward pass of each client-side layer and of the auxiliary ones after them, for
        each of the pruner's forwards, `[F, layers]`.
      backward: their backward passes, `[F, layers]`.
      server: both passes of all server-side layers; of each participant, `[K]`, where cuts differ.
      server_backward: of these, the backward pass.
      tail: both passes of the layers that the client holds behind the server's.
      fit: all steps of a fit of the auxiliary layers to a gradient at the cut; 0 without fits.
    """

    forward: Array
    backward: Array
    server: float | Array
    server_backward: float = 0.0
    tail: float = 0.0
    fit: float = 0.0


class Radio(NamedTuple):
    """The simulated network of a run.

    Attributes:
      network: bands, powers, fading and speeds.
      deployment: clients in the cell.
      flop_counts: FLOPs of an exchange.
      allocation: one of `allocation.ALLOCATIONS`.
      sparse: whether pruning single weights saves a client arithmetic.
      outage_snr: SNR (a ratio) below which a client is in outage for a round; None for no outage.
      timeout: seconds that the server waits for clients in outage; None to wait only until the
        slowest other client has finished.
      deadline: seconds after which the server ignores activations of an exchange; None for none.
      cells: of several base stations; None for one.
    """

    network: Network
    deployment: Deployment
    flop_counts: FlopCounts
    allocation: str
    sparse: bool
    outage_snr: float | None
    timeout: float | None
    deadline: float | None
    cells: Cells | None = None

    @property
    def can_fail(self) -> bool:
        """Whether a participant can miss an exchange."""
        return self.outage_snr is not None or self.deadline is not None


class Conditions(struct.PyTreeNode):
    """Rates, computing times and outages of the participants in a round.

    Attributes:
      up_rate: uplink rate, float32 `[K]`, bit/s.
      down_rate: downlink rate, float32 `[K]`, bit/s.
      forward: time of a forward pass, float32 `[K]`, s.
      backward: time of a backward pass, float32 `[K]`, s.
      reachable: whether the SNR of both directions is above the outage threshold, bool `[K]`.
      lone_up_rate: uplink rate if the participant had the whole band, float32 `[K]`, bit/s.
      lone_down_rate: downlink rate if the participant had the whole band, float32 `[K]`, bit/s.
    """

    up_rate: Array
    down_rate: Array
    forward: Array
    backward: Array
    reachable: Array
    lone_up_rate: Array
    lone_down_rate: Array


def conditions(
    radio: Radio,
    key: Array,
    round_: Array,
    ids: Array,
    forward: Array,
    backward: Array,
    bits: Array,
) -> Conditions:
    """Draws the fading of a round and allocates the band.

    Both directions have the same fading. The base station spreads its power evenly over the band,
    so that the SNR of the downlink does not depend on a client's share. Outage is decided at equal
    shares; the band is then divided among the participants that are not in outage. Where there are
    several cells, each has the band to itself.

    Args:
      radio: network, clients and allocation.
      key: scalar PRNG key of the radio.
      round_: int32 scalar.
      ids: numbers of the participants, int32 `[K]`.
      forward: time of each participant's forward pass, float32 `[K]`, s.
      backward: time of each participant's backward pass, float32 `[K]`, s.
      bits: expected bits that each participant sends, float32 `[K]`.
    """
    net, hardware = radio.network, radio.deployment.hardware
    gain = mean_gains(net, hardware, round_, ids) * fadings(net, key, round_, ids)
    power, equal_shares = hardware.power[ids], _equal_shares(radio, ids)
    up = channel.snr(power, gain, net.noise, equal_shares * net.up_hz)
    down = channel.snr(channel.from_dbm(net.server_power_dbm), gain, net.noise, net.down_hz)
    reachable = jnp.ones(ids.shape, bool)
    if radio.outage_snr is not None:
        reachable = jnp.minimum(up, down) >= radio.outage_snr
    shares = equal_shares
    if radio.allocation == "minmax":
        bits = jnp.where(reachable, bits, 0.0)
        minmax_shares = _minmax_shares(radio, ids, forward, bits, power * gain / net.noise)
        # What a participant in outage tries to send is lost; its rate only times the attempt.
        shares = jnp.where(reachable, minmax_shares, equal_shares)

    def rates(shares: Array) -> tuple[Array, Array]:
        up_rate = channel.rate_of_strength(shares * net.up_hz, power * gain / net.noise)
        return up_rate, channel.rate(shares * net.down_hz, down)

    lone_rates = rates(jnp.ones_like(equal_shares))
    return Conditions(*rates(shares), forward, backward, reachable, *lone_rates)


def fadings(network: Network, key: Array, round_: Array, ids: Array) -> Array:
    """Fading powers of clients in a round: a function of key, round and client alone.

    So they depend neither on who takes part nor on the rounds that were computed before.

    Args:
      network: its fading and memory are used.
      key: scalar PRNG key of the radio; client n draws for round r from fold(key, r, n).
      round_: int32 scalar.
      ids: numbers of clients, int32 `[K]`.

    Returns:
      float32 `[K]`, ratio with mean 1.
    """
    kind, factor = network.fading, network.rician_factor
    if kind == "none" or not network.fading_memory:
        round_key = fold(key, round_)
        return jax.vmap(lambda n: channel.fading(fold(round_key, n), kind, factor))(ids)
    rounds, weights = gauss_markov.innovations(network.fading_memory, round_)
    keys = jax.vmap(lambda number: fold(key, number))(rounds)

    def of_client(n: Array) -> Array:
        draw = jax.vmap(lambda key: jax.random.normal(fold(key, n), (2,), jnp.float32))
        scattered = jnp.sum(weights[:, None] * draw(keys), axis=0)  # float32 on every platform
        return channel.fading_power(scattered, kind, factor)

    return jax.vmap(of_client)(ids)


def mean_gains(network: Network, hardware: RadioHardware, round_: Array, ids: Array) -> Array:
    """Mean channel gains of clients where they are in a round.

    Shadowing stays with a client as it moves.

    Args:
      network: its radius and speed are used.
      hardware: of all clients.
      round_: int32 scalar.
      ids: numbers of clients, int32 `[K]`.

    Returns:
      float32 `[K]`, ratio.
    """
    gains = hardware.gain[ids]
    if hardware.motion is None:
        return gains
    radius: float | np.ndarray | Array | None = network.radius
    assert radius is not None
    if isinstance(radius, np.ndarray):
        radius = jnp.asarray(radius, jnp.float32)[ids]
    start = jax.tree.map(lambda x: x[ids], hardware.motion)
    step = network.device_speed * network.mobility_step
    now = mobility.distances_after(start, step * round_.astype(jnp.float32), radius)
    return gains * channel.path_gain(now) / channel.path_gain(start.distance)


def _equal_shares(radio: Radio, ids: Array) -> Array:
    """Equal shares of the band of each participant's cell, float32 `[K]`."""
    if radio.cells is None:
        return equal(ids.size)
    of_client = radio.cells.of_client
    return equal_in_cells(jnp.asarray(of_client)[ids], int(of_client.max()) + 1)


def _minmax_shares(radio: Radio, ids: Array, seconds: Array, bits: Array, strength: Array) -> Array:
    """Shares of the band of each participant's cell by `minmax`, float32 `[K]`."""
    hz = radio.network.up_hz
    if radio.cells is None:
        return minmax(seconds, bits, strength, hz)
    of_client = radio.cells.of_client
    cell, cells = jnp.asarray(of_client)[ids], int(of_client.max()) + 1
    return minmax_in_cells(cell, cells, seconds, bits, strength, hz)


def mean_rates(network: Network, hardware: RadioHardware, participants: int) -> tuple[Array, Array]:
    """Rates up and down without fading, at equal shares of the band, float32 `[C]`, bit/s.

    Clients that move are where they start.

    Args:
      network: bands, powers and noise.
      hardware: of all clients.
      participants: that share the band.
    """
    share = 1.0 / participants
    up = channel.rate_of_strength(
        share * network.up_hz, hardware.power * hardware.gain / network.noise
    )
    power = channel.from_dbm(network.server_power_dbm)
    down = channel.snr(power, hardware.gain, network.noise, network.down_hz)
    return up, channel.rate(share * network.down_hz, down)


def deploy(key: Array, network: Network, flops: np.ndarray, power_dbm: np.ndarray) -> RadioHardware:
    """Draws positions and shadowing of all clients, and directions where they move.

    Args:
      key: scalar PRNG key of the deployment.
      network: its radius, shadowing and speed, or its range of mean gains, are used.
      flops: speed of each client, `[C]`, FLOP/s.
      power_dbm: transmit power of each client, `[C]`, dBm.
    """
    # Beside the two keys of the split.
    heading_key = fold(key, 2)
    position_key, shadowing_key = jax.random.split(key)
    clients, motion = len(flops), None
    if network.gain is not None:
        low, high = network.gain
        gain = jax.random.uniform(position_key, (clients,), minval=low, maxval=high)
    else:
        assert network.radius is not None
        distance = channel.distances(position_key, clients, network.radius)
        gain = channel.path_gain(distance)
        if network.device_speed:
            motion = mobility.Motion(distance, mobility.headings(heading_key, clients))
        gain *= channel.shadowing(shadowing_key, clients, network.shadowing_db)
    power = channel.from_dbm(np.asarray(power_dbm))
    speeds, powers = (jnp.asarray(x, jnp.float32) for x in (flops, power))
    return RadioHardware(speeds, powers, gain, motion)
