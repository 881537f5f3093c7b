"""What a config comes to: two that come to the same are one setting."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config, compressors, shown
from jfedsl.config.allowed import OneOf
from jfedsl.config.pruning_fields import PruningFields
from jfedsl.config.wireless_fields import WirelessFields
from jfedsl.data.partition import PARTITIONS
from jfedsl.errors import UserError, no_effect
from jfedsl.files.paths import Name
from jfedsl.models import layers
from jfedsl.models.registry import MODELS

_CLIENTS = ("client_learning_rate", "client_gradient", "client_backward", "client_optimizer_state")


def cut_name(config: Config) -> str:
    """The last client-side layer.

    Raises:
      UserError: the model has no such cut.
    """
    entry = MODELS[config.model]
    cut = entry.default_cut if config.cut is None else config.cut
    model = entry.build(2, config.norm)
    try:
        return model[layers.cut_index(model, cut) - 1].name
    except ValueError as error:
        raise UserError(f"--cut must be {error}") from None


def period_of(config: Config) -> int:
    """Rounds in an aggregation period: 1 where an algorithm hands a whole model on every round."""
    return 1 if "aggregate_every" in _without_use(config) else config.aggregate_every


def canonical(config: Config) -> dict[str, str]:
    """The flags that mean something in a run, with what they come to, as written in a flag.

    Compressors are those of each place, in full; flags that stand for them are left out, and so is
    what nothing looks at: options of another partition or optimizer, of pruning where nothing is
    pruned, of the side that an algorithm does not have. What names of a `recorded` config stand for
    may be unknown; all that they might look at is then kept.

    Raises:
      UserError: the model has no such cut.
    """
    values: dict[str, Any] = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    values |= {"prune_kind": config.pruning, **config.expressions}
    if _sides(config) == "both" and config.model in MODELS:
        values["cut"] = cut_name(config)
    for name in {*compressors.shorthands(), "quantizer", "bucket_size", *idle(config)}:
        del values[name]
    return {name: shown(value) for name, value in values.items() if value is not None}


def recorded(text: str, plugin: Name = "") -> Config:
    """The config of a run as its folder has it, whatever tables know of its names.

    A model, data set, compressor or the like that its user added is kept as written. That is enough
    to tell runs from each other, not to run them, and no plugin is loaded.

    Args:
      text: as `Config.to_json` writes it.
      plugin: as `Config.from_json` takes it, which says what is wrong with the text.

    Raises:
      UserError: the text is no config of this program.
    """
    try:
        values = json.loads(text)
        foreign = {name: values[name] for name in _foreign(values)}
        foreign["plugin"] = values.get("plugin", "")
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Config.from_json(text, plugin)
    known = {name: value for name, value in values.items() if name not in foreign}
    config = Config.from_json(json.dumps(known))
    for name, value in foreign.items():
        object.__setattr__(config, name, value)
    return config


def _foreign(values: dict[str, Any]) -> list[str]:
    """Settings that name something that no table has."""
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    clients = values.get("clients", Config.clients)
    checks = {field.name: field.metadata["allowed"] for field in dataclasses.fields(Config)}
    found = [
        name
        for name, value in texts.items()
        if isinstance(checks.get(name), OneOf) and not checks[name].test(value)
    ]
    for place in compressors.PLACES:
        try:
            compressors.read(place, texts.get(place) or "none", clients)
        except UserError:
            found.append(place)
    return found


def _sides(config: Config) -> str:
    return ALGORITHMS[config.algorithm].sides if config.algorithm in ALGORITHMS else "both"


def refuse_idle(configs: Iterable[Config]) -> None:
    """Refuses settings that were changed, though nothing looks at them in any of these runs.

    Raises:
      UserError: names the flag, its value and the setting that leaves it without effect.
    """
    first, *others = configs
    reasons = idle(first)
    for field in dataclasses.fields(Config):
        name, value = field.name, getattr(first, field.name)
        if name not in reasons or value in (field.default, ""):
            continue
        if all(name in idle(c) and getattr(c, name) == value for c in others):
            raise no_effect(name, shown(value), reasons[name])


def idle(config: Config) -> dict[str, str]:
    """Settings that nothing looks at, by name, with what leaves them without effect."""
    algorithm = f"with --algorithm={config.algorithm}"
    found = {name: algorithm for name in _without_use(config)}
    if config.partition in PARTITIONS:
        options = {kind.option for kind in PARTITIONS.values()} - {
            None,
            PARTITIONS[config.partition].option,
        }
        found |= {str(name): f"with --partition={config.partition}" for name in options}
    found |= _idle_pruning(config)
    if config.local_steps == 1:
        found.setdefault("server_order", "with --local_steps=1")
    if config.optimizer != "sgd":
        found["momentum"] = f"with --optimizer={config.optimizer}"
    elif config.momentum == 0:  # SGD then keeps nothing
        found.setdefault("client_optimizer_state", "with --momentum=0")
    # A user's own model may have batch norm whatever --norm is.
    if config.norm != "batch" and config.model in MODELS and MODELS[config.model].tried:
        found["batch_norm_statistics"] = f"with --norm={config.norm}"
    if config.participants in (None, config.clients) and config.client_state != "stateless":
        found["client_state"] = "where all clients take part"  # nobody is at rest
    if not config.coordinator:
        found["collective_bits"] = "without --coordinator"
    if config.network == "none":
        names = [field.name for field in dataclasses.fields(WirelessFields)]
        found |= {name: "with --network=none" for name in names if name != "network"}
    if not _quantizes(config):
        found |= {name: "where no bits choose it" for name in ("quantizer", "bucket_size")}
    return found


def _quantizes(config: Config) -> bool:
    """Whether `--quantizer` is that of any place."""
    settings = {
        name: getattr(config, name) for name in (*compressors.PLACES, *compressors.shorthands())
    }
    found = (
        compressors.expression(p, settings, "?", 1, config.compress_by_default)
        for p in compressors.PLACES
    )
    return any("?(" in expression for expression in found)


def _without_use(config: Config) -> set[str]:
    """Settings that the algorithm has no use for."""
    sides, found = _sides(config), set[str]()
    if sides != "both":
        found |= {"cut", "smashed", "cut_gradient"}
    if sides == "clients":
        found |= {"server_learning_rate", "server_flops", "deadline_s"}
    if sides == "server":
        found |= {*_CLIENTS, "model_up", "model_down", "aggregate_every", "aggregation"}
        radio = {field.name for field in dataclasses.fields(WirelessFields)}
        found |= radio - {"network", "server_flops"}  # nothing is sent
    if config.algorithm in ALGORITHMS:
        algorithm = ALGORITHMS[config.algorithm]
        if algorithm.in_turns:
            found |= {"aggregate_every", "allocation"}  # each has the band to itself
        if not algorithm.ordered:
            found.add("server_order")
    return found


def _idle_pruning(config: Config) -> dict[str, str]:
    kind = f"with --prune_kind={config.pruning}"
    if config.prune_kind is None and not config.compress_by_default:
        kind = f"with --algorithm={config.algorithm}, which prunes nothing"
    found = {}
    if config.prune_policy == "uniform":
        found["client_capacity"] = "with --prune_policy=uniform"
    else:
        found["prune_rate"] = f"with --prune_policy={config.prune_policy}"
    names: list[str] = []
    if config.pruning == "none":
        names = [field.name for field in dataclasses.fields(PruningFields)]
    if config.pruning != "mask":
        names += ["mask_compute", "prune_scope"]  # channels are ranked within layers
    if config.pruning != "channel":
        names.append("prune_ladder")
    return found | {name: kind for name in names if name != "prune_kind"}
