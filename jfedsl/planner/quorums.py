"""Quorums as values of a grid: how many messages a step of the server takes."""

import dataclasses
from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config, shown
from jfedsl.config.canonical import idle
from jfedsl.errors import UserError, flag_error

ALL = "all"
_LEFT_OUT = f"left out with --quorums below {ALL}"


def changes(base: Config, text: str) -> dict[str, Any]:
    """What a value of --quorums changes.

    Args:
      base: the config that all settings change.
      text: `all`, or a number of messages.

    Raises:
      UserError: no whole number up to that of clients, clients that do not all take part, or a flag
        that needs a server that waits for all.
    """
    entry = ALGORITHMS[base.algorithm]
    if not entry.with_quorum:
        able = ", ".join(name for name, other in ALGORITHMS.items() if other.with_quorum)
        raise flag_error("algorithm", base.algorithm, f"{able} with --quorums")
    most = base.clients
    if text != ALL and not (text.isdecimal() and 1 <= int(text) <= most):
        allowed = f"{ALL} or whole numbers from 1 to {most}, the number of clients"
        raise flag_error("quorums", text, allowed)
    if text == ALL or int(text) == most:
        return {"quorum": 0}
    if base.participants not in (None, most):
        raise flag_error("participants", base.participants, f"--clients={most} with --quorums")
    for name in sorted(entry.uses - ALGORITHMS[entry.with_quorum].uses):  # such as outage_snr_db
        if (value := getattr(base, name)) != getattr(Config, name):
            raise flag_error(name, value, _LEFT_OUT)
    return {"algorithm": entry.with_quorum, "quorum": int(text)}


def waits_for_some(config: Config) -> bool:
    """Whether a step of the server takes the messages of some clients only."""
    takes_some = bool(ALGORITHMS[config.algorithm].with_all)
    return takes_some and config.quorum not in (0, config.clients)


def answered(config: Config) -> int:
    """How many messages a step of the server takes."""
    return config.quorum if waits_for_some(config) else config.participants or config.clients


def waiting_for_all(config: Config) -> Config:
    """The setting with a server that waits for all."""
    if not waits_for_some(config):
        return config
    of_all: dict[str, Any] = {"algorithm": ALGORITHMS[config.algorithm].with_all, "quorum": 0}
    return dataclasses.replace(config, **of_all)


def refuse(config: Config) -> None:
    """Refuses flags that a server looks at only where it waits for all.

    Args:
      config: of a setting in which it does not.

    Raises:
      UserError: names the flag and its value.
    """
    together = idle(waiting_for_all(config))
    for name in idle(config):
        value, usual = getattr(config, name), getattr(Config, name)
        if name in together or value in (usual, ""):
            continue
        raise flag_error(name, shown(value), _LEFT_OUT)


def error(spec: Any, config: Config) -> UserError | None:
    """Why a run cannot have the quorum of a setting, if it cannot.

    Args:
      spec: of the run with a server that waits for all.
      config: of the setting.
    """
    entry = ALGORITHMS[config.algorithm]
    options = {option.name: getattr(config, option.name) for option in entry.options}
    try:
        entry.check(spec._replace(options=options))
    except UserError as error:
        return error
    return None
