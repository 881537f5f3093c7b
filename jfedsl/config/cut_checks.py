"""What cuts that differ between clients cannot go with."""

from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.compression.message import FLOAT_BITS
from jfedsl.config import adapters, cuts
from jfedsl.errors import conflict, flag_error, no_effect


def check_cuts(config: Any) -> None:
    """Refuses what cuts that differ between clients cannot go with.

    Args:
      config: a `Config`.

    Raises:
      UserError: names the flag, its value and what is allowed.
    """
    cut = cuts.parse(config.cut or "")
    if config.replan_every is not None:
        _replanning(config, cut)
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
    if config.batch_norm_statistics == "local":
        reason = "a client has no statistics of layers that it does not hold"
        raise conflict("batch_norm_statistics", "local", flag, reason)
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


def _replanning(config: Any, cut: cuts.CutText) -> None:
    """Refuses what cuts that change during a run cannot go with."""
    every, period = config.replan_every, config.aggregate_every
    if not cut.by_resource:
        raise no_effect("replan_every", every, f"without --cut={cuts.BY_RESOURCE}")
    if every % period:
        raise flag_error("replan_every", every, f"a multiple of --aggregate_every={period}")
    if config.expressions.get("model_down", "none") != "none":
        reason = "a client has not received the layers that it did not hold"
        raise conflict("replan_every", every, "a compressor of --model_down", reason)
    if config.client_state == "host" and config.participants not in (None, config.clients):
        reason = "optimizer states of absent clients have to be at hand"
        raise conflict("replan_every", every, "--client_state=host", reason)
    if config.coordinator:
        raise conflict("replan_every", every, "--coordinator", "cuts change in one process only")
