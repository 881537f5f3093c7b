"""What settings have to satisfy together."""

import dataclasses
from typing import Any

import numpy as np

from jfedsl import per_client
from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.compression.expression import Call
from jfedsl.compression.message import FLOAT_BITS
from jfedsl.compression.properties import has_memory
from jfedsl.compression.registry import LEAST_BITS
from jfedsl.config import adapters, compressors, cuts
from jfedsl.config.allowed import CAPACITY, COUNT, FROM_DATA, MOST
from jfedsl.config.cut_checks import check_cuts
from jfedsl.config.idle import of_algorithm
from jfedsl.config.personal_checks import check_personal
from jfedsl.config.scale_fields import BY_CLUSTER
from jfedsl.config.stream_checks import check_streams
from jfedsl.config.values import shown
from jfedsl.config.wireless_fields import WirelessFields
from jfedsl.data.partition import PARTITIONS
from jfedsl.errors import UserError, conflict, flag_error, no_effect
from jfedsl.per_client import PerClient
from jfedsl.pruning.ladder import nearest_rung
from jfedsl.wireless.network import hardware_counts


def together(config: Any) -> None:
    """Checks settings against each other, each of them allowed by itself.

    Where the data says how many clients there are, what depends on it is checked once it is known.

    Args:
      config: a `Config`, which is defined by means of this.

    Raises:
      UserError: names the flag, its value and what is allowed.
    """
    _counts(config)
    _algorithm(config)
    _pruning(config)
    _compressors(config)
    check_personal(config)
    _finetuning(config)
    check_cuts(config)
    _network(config)
    _scale(config)


# Settings that an algorithm must not ignore: without them it would be another experiment.
MUST_APPLY = (
    "cut", "deadline_s", "outage_snr_db", "prune_kind", "measure_constants_every",
    "device_classes", "device_flops", "device_power_dbm", "device_memory", "personal", "proximal",
)  # fmt: skip
_LEFT_OUT = (None, "", "none")


def _counts(config: Any) -> None:
    if config.rounds * config.local_steps > MOST:
        allowed = f"at most {MOST // config.local_steps} with --local_steps={config.local_steps}"
        raise flag_error("rounds", config.rounds, allowed)
    if config.clients == FROM_DATA:
        if config.partition not in PARTITIONS or not PARTITIONS[config.partition].owned:
            raise UserError(
                f"--partition={config.partition} needs --clients, {COUNT.text}: their number was "
                "left to the data, as only --partition=natural allows"
            )
        return
    if config.participants is not None and config.participants > config.clients:
        raise flag_error("participants", config.participants, f"at most --clients={config.clients}")
    some = config.participants not in (None, config.clients)
    if some and ALGORITHMS[config.algorithm].all_take_part:
        because = f"--clients={config.clients} with --algorithm={config.algorithm}"
        raise flag_error("participants", config.participants, because)
    per_device = ("device_flops", "device_power_dbm", "device_memory")
    for name in ("client_capacity", *per_device, *compressors.shorthands()):
        numbers = per_client.parse(getattr(config, name) or "")
        if numbers and not numbers.suits(config.clients):
            allowed = f"one value, --clients={config.clients} values or a range"
            raise flag_error(name, getattr(config, name), allowed)


def _algorithm(config: Any) -> None:
    """Refuses what the algorithm cannot do, where leaving it out would change what is compared."""
    reasons, expressions = of_algorithm(config), config.expressions
    names = [name for name in MUST_APPLY if name in reasons]
    left_out = {name: (*_LEFT_OUT, getattr(type(config), name, None)) for name in names}
    names = [name for name in names if getattr(config, name) not in left_out[name]]
    for flag, expression in expressions.items():
        if flag in reasons and expression != "none":
            flags = (flag, *compressors.SHORTHANDS.get(flag, {}))
            names += [name for name in flags if getattr(config, name)]
    if names:
        value = shown(getattr(config, names[0]))
        raise no_effect(names[0], value, f"with --algorithm={config.algorithm}")
    check_streams(config)
    for stream in ALGORITHMS[config.algorithm].streams:
        if stream.broadcast:
            _broadcast(config, stream.compressor)


def _broadcast(config: Any, flag: str) -> None:
    """Refuses what one message to all clients cannot have."""
    calls = config.compressors.get(flag, ())  # none, where a plugin's stream has no flag
    cause = f"with --algorithm={config.algorithm}, which sends one message to all clients"
    if _differs(calls):
        raise flag_error(flag, config.expressions[flag], f"the same for all clients {cause}")
    if calls and config.clients and has_memory(calls, config.clients):
        allowed = f"a chain without feedback(...) or other memory {cause}"
        raise flag_error(flag, config.expressions[flag], allowed)


def one_device(config: Any, processes: int) -> None:
    """Refuses more devices or processes for an algorithm in which one client computes at a time.

    Args:
      config: all settings of the run.
      processes: how many the run has.

    Raises:
      UserError: names the flag and the algorithm.
    """
    alone = ALGORITHMS[config.algorithm].one_at_a_time(config)
    cause = " and ".join(f"--{flag}={getattr(config, flag)}" for flag in alone)
    if alone and processes > 1:
        reason = "one client computes at a time"
        raise conflict("coordinator", config.coordinator, cause, reason)
    if alone and config.devices not in (None, 1):
        raise flag_error("devices", config.devices, f"1 with {cause}")


def _differs(calls: tuple[Call, ...]) -> bool:
    """Whether compressors have arguments that differ between clients."""
    numbers = [a for call in calls for a in call.arguments.values() if isinstance(a, PerClient)]
    return any(len(set(n.values)) > 1 for n in numbers) or any(_differs(c.inner) for c in calls)


def _pruning(config: Any) -> None:
    rates, capacity = config.prune_rate, config.client_capacity
    if config.clients and len(rates) not in (1, config.clients):
        allowed = f"one rate or --clients={config.clients} rates"
        text = ",".join(f"{rate:g}" for rate in rates)
        raise flag_error("prune_rate", text, allowed, reason=f"these are {len(rates)}")
    by_resource, needed = "--prune_policy=by_resource", config.prune_policy == "by_resource"
    if adapters.by_resource(config):
        by_resource, needed = "spread=by_resource", True
    if needed and not capacity and config.network == "none":
        because = f"with {by_resource} and --network=none"
        raise flag_error("client_capacity", "", f"{CAPACITY.text} {because}")
    if not needed and capacity:
        raise no_effect("client_capacity", capacity, "with --prune_policy=uniform")
    if config.prune_policy == "by_resource" and config.pruning == "none":
        raise flag_error("prune_policy", config.prune_policy, "uniform with --prune_kind=none")
    if config.pruning == "channel" and config.prune_policy == "uniform":
        rungs = nearest_rung(np.array(rates), sorted(config.prune_ladder, reverse=True))
        if len(set(rungs.tolist())) > 1 and ALGORITHMS[config.algorithm].equal_shapes:
            allowed = f"rates that leave all clients one width with --algorithm={config.algorithm}"
            raise flag_error("prune_rate", shown(rates), allowed)


def _compressors(config: Any) -> None:
    least = LEAST_BITS[config.quantizer]
    for name in compressors.shorthands():
        numbers = per_client.parse(getattr(config, name) or "")
        if numbers and name.endswith("_bits") and min(numbers.values) < least:
            allowed = f"{least} or more with --quantizer={config.quantizer}"
            raise flag_error(name, getattr(config, name), allowed)
    for flag, expression in config.expressions.items():
        compressors.read(flag, expression, config.clients)


def _finetuning(config: Any) -> None:
    flag = "adapter" if config.client_adapter is None else "client_adapter"
    text = getattr(config, flag)
    of_client, of_server = adapters.parse(text), adapters.parse(config.adapter)
    assert of_client is not None and of_server is not None  # each has been checked alone
    names = cuts.parse(config.cut or "").names
    if config.pretrained and any(name.lstrip("-").isdecimal() for name in names):
        # How many layers there are only the files of the model say, which are not read here.
        raise flag_error(
            "cut", config.cut, "the name of a layer, such as block2, with --pretrained"
        )
    if config.clients and not of_client.ranks.suits(config.clients):
        allowed = f"one rank, --clients={config.clients} ranks or a range"
        raise flag_error(flag, text, allowed)
    if flag == "client_adapter" and len(of_server.ranks.values) > 1:
        raise flag_error("adapter", config.adapter, "one rank for the server with --client_adapter")
    if not adapters.has_adapters(config):
        return
    if config.prune_kind not in (None, "none"):
        reason = f"adapters have no kernels to prune; smaller ranks, as in {_SMALLER}, prune them"
        raise flag_error("prune_kind", config.prune_kind, "none with --adapter", reason=reason)
    averages = "aggregation" not in of_algorithm(config)
    one_rank = not averages or ALGORITHMS[config.algorithm].equal_shapes
    if one_rank and len(set(of_client.ranks.values)) > 1:
        raise flag_error(flag, text, f"one rank with --algorithm={config.algorithm}")
    if averages and of_client.kind == "lora":
        _averaging(config)


def _averaging(config: Any) -> None:
    """Refuses what averages of products of adapters cannot go with."""
    if config.coordinator and config.collective_bits != FLOAT_BITS:
        allowed = f"{FLOAT_BITS} with low-rank adapters on clients"
        raise flag_error("collective_bits", config.collective_bits, allowed)
    if config.adapter_averaging in ("stack", "svd") and config.client_optimizer_state != "reset":
        # The factors that clients go on with are new ones: moments of the old ones mean nothing.
        allowed = f"reset with --adapter_averaging={config.adapter_averaging}"
        raise flag_error("client_optimizer_state", config.client_optimizer_state, allowed)
    if config.adapter_averaging != "stack":
        return
    some = config.participants not in (None, config.clients)
    for name, wrong, allowed in (
        # A client that was away would need the products of every period since.
        ("participants", some, "all clients"),
        ("outage_snr_db", config.outage_snr_db is not None, "left out"),
        ("base", config.base != "float32", "float32: products are added to kernels,"),
        ("model_down", config.expressions["model_down"] != "none", "none"),
        ("measure_constants_every", config.measure_constants_every is not None, "left out"),
    ):
        if wrong:
            raise flag_error(
                name, getattr(config, name), f"{allowed} with --adapter_averaging=stack"
            )


_SMALLER = "--client_adapter=lora(rank=2)"


def _network(config: Any) -> None:
    names = [field.name for field in dataclasses.fields(WirelessFields)]
    if config.network == "none":
        for name in names[1:]:
            value = getattr(config, name)
            if value not in (None, WirelessFields.__dataclass_fields__[name].default):
                raise no_effect(name, value, "with --network=none")
    if config.device_classes:
        _classes(config)
        for name in ("device_flops", "device_power_dbm", "device_memory"):
            if getattr(config, name) is not None:
                raise no_effect(name, getattr(config, name), "with --device_classes")
    if config.outage_timeout_s is not None and config.outage_snr_db is None:
        because = "without --outage_snr_db"
        raise no_effect("outage_timeout_s", config.outage_timeout_s, because)
    for name in ("outage_snr_db", "deadline_s"):
        if getattr(config, name) is not None and config.norm == "batch":
            # The server's statistics would have to leave out participants that are missing.
            raise conflict(name, getattr(config, name), "--norm=batch")


def _classes(config: Any) -> None:
    try:
        total = sum(count for count, _ in hardware_counts(config.device_classes))
    except ValueError as error:
        raise UserError(f"--device_classes must be {error}") from None
    if config.clients and total != config.clients:
        allowed = f"one device for each of --clients={config.clients}"
        reason = f"these are {total} devices"
        raise flag_error("device_classes", config.device_classes, allowed, reason=reason)


def _scale(config: Any) -> None:
    if config.client_state == "stateless":
        # All of these mean that a client keeps something from one period to another.
        if config.norm == "batch" and config.batch_norm_statistics == "local":
            allowed = "aggregate with --client_state=stateless"
            raise flag_error("batch_norm_statistics", "local", allowed)
        if config.expressions["model_down"] != "none":
            raise conflict("model_down", config.model_down, "--client_state=stateless")
        up = config.compressors["model_up"]
        if config.clients and has_memory(up, config.clients):
            allowed = "a chain without feedback(...) or other memory with --client_state=stateless"
            raise flag_error("model_up", config.model_up, allowed)
    several = config.coordinator not in ("", BY_CLUSTER)
    for name in ("processes", "process"):
        value = getattr(config, name)
        if several and value is None:
            raise flag_error(name, "", "a number with --coordinator=HOST:PORT")
        if not several and value is not None:
            raise no_effect(name, value, "without --coordinator=HOST:PORT")
    if several and config.process >= config.processes:
        allowed = f"a number below --processes={config.processes}"
        raise flag_error("process", config.process, allowed)
    if config.coordinator and not config.workdir:
        raise flag_error("workdir", "", "a folder that all processes see with --coordinator")
