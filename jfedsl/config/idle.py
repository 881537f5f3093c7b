"""Settings that have no effect in a run, and why: the one place that knows."""

import dataclasses
from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import compressors
from jfedsl.config.adapters import by_resource, has_adapters, of_clients
from jfedsl.config.algorithm_fields import STREAMS
from jfedsl.config.finetune_fields import FinetuneFields
from jfedsl.config.personal_checks import idle_beside
from jfedsl.config.pruning_fields import PruningFields
from jfedsl.config.wireless_fields import WirelessFields
from jfedsl.data.partition import PARTITIONS
from jfedsl.engine.algorithm import Algorithm
from jfedsl.models.registry import MODELS
from jfedsl.wireless.network import NETWORKS


def idle(config: Any) -> dict[str, str]:
    """Settings without effect, by name, with the reason, such as "with --momentum=0".

    Args:
      config: a `Config`; an unknown name, as of a plugin that is not loaded, uses all flags.
    """
    reasons = of_algorithm(config) | _of_streams(config)
    if config.partition in PARTITIONS:
        options = {kind.option for kind in PARTITIONS.values()}
        options -= {None, PARTITIONS[config.partition].option}
        reasons |= {str(name): f"with --partition={config.partition}" for name in options}
    reasons |= _of_pruning(config)
    if by_resource(config):
        reasons.pop("client_capacity", None)
    if config.optimizer != "sgd":
        reasons["momentum"] = f"with --optimizer={config.optimizer}"
    elif config.momentum == 0:  # SGD then keeps nothing
        reasons.setdefault("client_optimizer_state", "with --momentum=0")
    # A user's own model may have batch norm whatever --norm is.
    if config.norm != "batch" and config.model in MODELS and MODELS[config.model].checked:
        reasons["batch_norm_statistics"] = f"with --norm={config.norm}"
    reasons |= _of_finetuning(config)
    reasons |= {name: why for name, why in idle_beside(config).items() if name not in reasons}
    if config.participants in (None, config.clients) and config.client_state != "stateless":
        reasons["client_state"] = "where all clients take part"  # no client is at rest
    if not config.coordinator:
        reasons["collective_bits"] = "without --coordinator"
    reasons |= _of_network(config)
    if not _quantizes(config):
        reasons |= {name: "where no bits choose it" for name in ("quantizer", "bucket_size")}
    return reasons


def of_algorithm(config: Any) -> dict[str, str]:
    """What the algorithm does not use: flags and options of others, and their streams."""
    if config.algorithm not in ALGORITHMS:
        return {}
    algorithm, reason = ALGORITHMS[config.algorithm], f"with --algorithm={config.algorithm}"
    used = _flags(algorithm)
    unused = set().union(*map(_flags, ALGORITHMS.values())) - used
    reasons = dict.fromkeys(sorted(unused), reason)
    streams = {stream.compressor for stream in algorithm.streams}
    reasons |= {flag: reason for flag in STREAMS if flag not in streams}
    options = {option.name: option.idle(config) for option in algorithm.options}
    return reasons | {name: because for name, because in options.items() if because is not None}


def _of_streams(config: Any) -> dict[str, str]:
    """The flags that compress streams of the algorithm of which nothing is ever sent."""
    if config.algorithm not in ALGORITHMS:
        return {}
    reasons: dict[str, list[str | None]] = {}
    for stream in ALGORITHMS[config.algorithm].streams:
        reasons.setdefault(stream.compressor, []).append(stream.idle(config))
    return {
        name: because[0]
        for flag, because in reasons.items()
        for name in (flag, *compressors.SHORTHANDS.get(flag, ()))
        if because[0] is not None and None not in because
    }


def _flags(algorithm: Algorithm) -> set[str]:
    """The flags that an algorithm uses, its own ones included."""
    return {*algorithm.uses, *(option.name for option in algorithm.options)}


def _quantizes(config: Any) -> bool:
    """Whether `--quantizer` is that of any stream."""
    settings = compressors.settings_of(config)
    expressions = (
        compressors.expression(flag, settings, "?", 1, config.compress_by_default)
        for flag in STREAMS
    )
    return any("?(" in expression for expression in expressions)


def _of_network(config: Any) -> dict[str, str]:
    if config.network == "none":
        names = [field.name for field in dataclasses.fields(WirelessFields)]
        return {name: "with --network=none" for name in names if name != "network"}
    network, reasons = NETWORKS.get(config.network), dict[str, str]()
    if network is None:  # of a plugin that is not loaded
        return reasons
    named = f"with --network={config.network}"
    if (config.fading or network.fading) == "none":
        reasons["fading_memory"] = (
            "with --fading=none" if config.fading else f"{named}, which has no fading"
        )
    if not (config.device_speed or network.device_speed):
        reasons["mobility_step_s"] = "where devices stand still"
    if network.radius is None:
        names = ["cell_radius_m", "shadowing_db", "device_speed", "mobility_step_s"]
        reasons |= {name: f"{named}, which has no path loss" for name in names}
    return reasons


def _of_finetuning(config: Any) -> dict[str, str]:
    if not config.pretrained:
        names = (field.name for field in dataclasses.fields(FinetuneFields))
        return {name: "without --pretrained" for name in names if name != "pretrained"}
    # The products of a transformer's layers are not those of Flax's modules, which int8 replaces.
    unused = ("model", "norm", "batch_norm_statistics", "client_backward")
    reasons = dict.fromkeys(unused, "with --pretrained")
    if of_clients(config).kind != "lora":
        reasons["adapter_averaging"] = "where clients have no lora(...)"
    elif "aggregation" in of_algorithm(config):
        reasons["adapter_averaging"] = f"with --algorithm={config.algorithm}"
    if config.client_adapter is not None and "server_learning_rate" in of_algorithm(config):
        reasons["adapter"] = f"with --client_adapter and --algorithm={config.algorithm}"
    if config.adapter == "full" and not has_adapters(config):
        reasons["base"] = "with --adapter=full"
    return reasons


def _of_pruning(config: Any) -> dict[str, str]:
    kind = f"with --prune_kind={config.pruning}"
    if config.prune_kind is None and not config.compress_by_default:
        kind = f"with --algorithm={config.algorithm}, which prunes nothing"
    reasons = {}
    if config.prune_policy == "uniform":
        reasons["client_capacity"] = "with --prune_policy=uniform"
    else:
        reasons["prune_rate"] = f"with --prune_policy={config.prune_policy}"
    names: list[str] = []
    if config.pruning == "none":
        names = [field.name for field in dataclasses.fields(PruningFields)]
    if config.pruning != "mask":
        names += ["mask_compute", "prune_scope"]  # channels are ranked within layers
    if config.pruning != "channel":
        names.append("prune_ladder")
    return reasons | {name: kind for name in names if name != "prune_kind"}
