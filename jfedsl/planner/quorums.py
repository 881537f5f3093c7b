"""Quorums as values of a grid: how many messages a step of the server takes."""

import dataclasses
from typing import Any

from jfedsl.algorithms import semi_async
from jfedsl.config import Config, shown
from jfedsl.config.canonical import idle
from jfedsl.errors import UserError, flag_error

ALL = "all"
FOR_ALL = {"algorithm": semi_async.WITH_ALL, "quorum": 0}


def changes(base: Config, text: str) -> dict[str, Any]:
    """What a value of --quorums changes.

    Args:
      base: the config that all settings change.
      text: `all`, or a number of messages.

    Raises:
      UserError: no whole number up to that of clients, or clients that do not all take part.
    """
    if base.algorithm != semi_async.WITH_ALL:
        raise flag_error("algorithm", base.algorithm, f"{semi_async.WITH_ALL} with --quorums")
    most = base.clients
    if text != ALL and not (text.isdecimal() and 1 <= int(text) <= most):
        allowed = f"{ALL} or whole numbers from 1 to {most}, the number of clients"
        raise flag_error("quorums", text, allowed)
    if text == ALL or int(text) == most:
        return FOR_ALL
    if base.participants not in (None, most):
        raise flag_error("participants", base.participants, f"--clients={most} with --quorums")
    return {"algorithm": semi_async.NAME, "quorum": int(text)}


def waits_for_some(config: Config) -> bool:
    """Whether a step of the server takes the messages of some clients only."""
    return config.algorithm == semi_async.NAME and config.quorum not in (0, config.clients)


def answered(config: Config) -> int:
    """How many messages a step of the server takes."""
    return config.quorum if waits_for_some(config) else config.participants or config.clients


def waiting_for_all(config: Config) -> Config:
    """The setting with a server that waits for all."""
    return dataclasses.replace(config, **FOR_ALL) if waits_for_some(config) else config


def refuse(config: Config) -> None:
    """Refuses a setting that other quorums look at, but this one does not.

    Raises:
      UserError: names the flag and its value.
    """
    together = idle(waiting_for_all(config))
    for name in idle(config):
        value, usual = getattr(config, name), getattr(Config, name)
        if name in together or value in (usual, "") or name == "measure_constants_every":
            continue
        raise flag_error(name, shown(value), f"left out with --quorums below {ALL}")


def error(spec: Any, config: Config) -> UserError | None:
    """Why a run cannot have the quorum of a setting, if it cannot.

    Args:
      spec: of the run with a server that waits for all.
      config: of the setting.
    """
    names = [option.name for option in semi_async.ALGORITHM.options]
    options = {name: getattr(config, name) for name in names}
    try:
        semi_async.ALGORITHM.check(spec._replace(options=options))
    except UserError as error:
        return error
    return None
