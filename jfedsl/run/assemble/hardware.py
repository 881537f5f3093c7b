"""Which devices the clients of a run have, and the network they are in."""

from typing import Any, NamedTuple

import numpy as np

from jfedsl import per_client
from jfedsl.config import Config
from jfedsl.wireless.network import HARDWARE_CLASSES, NETWORKS, Network, hardware_counts


class Hardware(NamedTuple):
    """Of every client, float64 `[C]`: FLOP/s, transmit power in dBm, bytes of memory (or inf)."""

    flops: np.ndarray
    power_dbm: np.ndarray
    memory: np.ndarray


def network_of(config: Config) -> Network | None:
    """The preset of a config with what its flags change; None without a network."""
    network = NETWORKS[config.network]
    if network is None:
        return None
    changes: dict[str, Any] = {
        "up_hz": config.bandwidth_hz,
        "down_hz": config.bandwidth_hz,
        "radius": config.cell_radius_m,
        "shadowing_db": config.shadowing_db,
        "fading": config.fading,
        "fading_memory": config.fading_memory,
        "device_speed": config.device_speed,
        "mobility_step": config.mobility_step_s,
        "server_power_dbm": config.server_power_dbm,
        "server_flops": config.server_flops,
    }
    return network._replace(**{k: v for k, v in changes.items() if v is not None})


def hardware_of(config: Config) -> Hardware:
    """The devices of all clients: by class, or from the network's ranges and the flags'."""
    if config.device_classes:
        return _by_class(config)
    network = NETWORKS[config.network]
    assert network is not None  # the config has checked it
    return Hardware(
        _spread(config, config.device_flops, network.device_flops),
        _spread(config, config.device_power_dbm, network.device_power_dbm),
        _spread(config, config.device_memory, (np.inf, np.inf)),
    )


def _spread(config: Config, text: str | None, preset: tuple[float, float]) -> np.ndarray:
    alike = preset[0] == preset[1]
    numbers = per_client.PerClient(preset[:1] if alike else preset, not alike)
    if text is not None:
        parsed = per_client.parse(text)
        assert parsed is not None  # the config has checked it
        numbers = parsed
    return numbers.spread(config.clients, config.device_seed)


def _by_class(config: Config) -> Hardware:
    """Devices of the classes asked for, dealt to the clients at random."""
    counts = hardware_counts(config.device_classes)
    rows = [HARDWARE_CLASSES[name] for count, name in counts for _ in range(count)]
    order = np.random.default_rng((config.device_seed, config.clients)).permutation(len(rows))
    numbers = np.array(rows, np.float64)[order]
    return Hardware(*numbers.T)


def capacities_of(config: Config) -> np.ndarray:
    """Relative compute of every client: as given, or that of its device over the fastest's."""
    if not config.client_capacity:
        flops = hardware_of(config).flops
        return flops / flops.max()
    numbers = per_client.parse(config.client_capacity)
    assert numbers is not None  # the config has checked it
    return numbers.spread(config.clients, config.device_seed)
