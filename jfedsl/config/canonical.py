"""What a config comes to: two that come to the same are one setting."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from jfedsl.config import Config, compressors, shown
from jfedsl.config.algorithm_fields import STREAMS
from jfedsl.config.allowed import NamesOf, OneOf
from jfedsl.config.cuts import parse
from jfedsl.config.data_fields import CLIENTS
from jfedsl.config.earlier_builds import DEFAULTS, NOW
from jfedsl.config.idle import idle
from jfedsl.errors import UserError, no_effect
from jfedsl.files.paths import Name
from jfedsl.models.cut import cut_index
from jfedsl.models.registry import MODELS
from jfedsl.models.transformers.model import DEFAULT_CUT


def cut_name(config: Config) -> str:
    """The last client-side layer, or layers, as a flag says them.

    Raises:
      UserError: the model has no such cut.
    """
    if config.pretrained:
        return config.cut or DEFAULT_CUT
    entry = MODELS[config.model]
    cut = parse(entry.default_cut if config.cut is None else config.cut)
    model = entry.build(2, config.norm)
    try:
        names = tuple(model[cut_index(model, name) - 1].name for name in cut.names)
        return str(cut._replace(names=names))
    except ValueError as error:
        raise UserError(f"--cut must be {error}") from None


def period_of(config: Config) -> int:
    """Rounds in an aggregation period: 1 where an algorithm hands a whole model on every round."""
    return 1 if "aggregate_every" in idle(config) else config.aggregate_every


def canonical(config: Config) -> dict[str, str]:
    """The flags that have an effect in a run, with their values as written in a flag.

    Runs whose canonical forms are equal have the same setting. Compressors of each stream are given
    in full, and their shorthands left out, as is everything that is `idle`. Names of a `recorded`
    config may be unknown; all flags that they might use are then kept.

    Raises:
      UserError: the model has no such cut.
    """
    values: dict[str, Any] = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    values |= {"prune_kind": config.pruning, **config.expressions}
    left_out = {*compressors.shorthands(), "quantizer", "bucket_size", *idle(config)}
    if "cut" not in left_out and (config.model in MODELS or config.pretrained):
        values["cut"] = cut_name(config)
    for name in left_out:
        values.pop(name, None)  # options of a plugin's algorithm are no fields
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
    if {"smashed", "algorithm"} & foreign.keys():
        known.setdefault(DEFAULTS, NOW)  # what they left to defaults is not known here
    config = Config.from_json(json.dumps(known))
    for name, value in foreign.items():
        object.__setattr__(config, name, tuple(value) if isinstance(value, list) else value)
    return config


def _foreign(values: dict[str, Any]) -> list[str]:
    """Settings that name something that no table has."""
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    clients = values.get("clients", CLIENTS)
    checks = {field.name: field.metadata["allowed"] for field in dataclasses.fields(Config)}
    foreign = [
        name
        for name, value in texts.items()
        if isinstance(checks.get(name), OneOf) and not checks[name].test(value)
    ]
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    foreign += [
        name
        for name, value in lists.items()
        if isinstance(checks.get(name), NamesOf) and not checks[name].test(value)
    ]
    for flag in STREAMS:
        try:
            compressors.read(flag, texts.get(flag) or "none", clients)
        except UserError:
            foreign.append(flag)
    return foreign


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


def effective(config: Config) -> Config:
    """The config with the default of every setting that has no effect in it."""
    reasons = idle(config)
    changes: dict[str, Any] = {
        field.name: field.default for field in dataclasses.fields(config) if field.name in reasons
    }
    return dataclasses.replace(config, **{**changes, "aggregate_every": period_of(config)})
