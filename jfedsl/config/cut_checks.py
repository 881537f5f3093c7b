"""What cuts that differ between clients cannot go with."""

from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.compression.message import FLOAT_BITS
from jfedsl.config import adapters, cuts
from jfedsl.errors import conflict, flag_error


def check_cuts(config: Any) -> None:
    """Refuses what cuts that differ between clients cannot go with.

    Args:
      config: a `Config`.

    Raises:
      UserError: names the flag, its value and what is allowed.
    """
    cut = cuts.parse(config.cut or "")
    if not cut.differs:
        return
    if not ALGORITHMS[config.algorithm].cuts_by_client:
        allowed = f"one cut for all clients with --algorithm={config.algorithm}"
        raise flag_error("cut", config.cut, allowed)
    each = not (cut.is_range or cut.by_resource)
    if each and config.clients and len(cut.names) != config.clients:
        allowed = f"one cut, --clients={config.clients} cuts or a range"
        raise flag_error("cut", config.cut, allowed)
    if cut.by_resource and config.network == "none":
        raise conflict("cut", config.cut, "--network=none", "there are no devices and links")
    flag = f"--cut={config.cut}"
    if config.measure_constants_every:
        reason = "the convergence bound is of one cut"
        raise conflict("measure_constants_every", config.measure_constants_every, flag, reason)
    if config.coordinator and config.collective_bits != FLOAT_BITS:
        raise flag_error("collective_bits", config.collective_bits, f"{FLOAT_BITS} with {flag}")
    if not config.pretrained:
        return
    if config.client_adapter is not None:
        reason = "layers between the first and the last cut are on both sides"
        raise conflict("client_adapter", config.client_adapter, flag, reason)
    if len(adapters.of_clients(config).ranks.values) > 1:
        raise flag_error("adapter", config.adapter, f"of one rank with {flag}")
    if adapters.has_adapters(config) and config.adapter_averaging != "avg":
        raise flag_error("adapter_averaging", config.adapter_averaging, f"avg with {flag}")
