"""Settings to choose from: a grid of configs, and settings as text, tables and flag files."""

import csv
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jfedsl import per_client
from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config, compressors, shown
from jfedsl.config.canonical import cut_name, idle, refuse_idle
from jfedsl.config.cuts import parse
from jfedsl.config.personal_fields import NONE
from jfedsl.engine.clocks import side_by_side
from jfedsl.errors import UserError, flag_error, no_effect
from jfedsl.planner import quorums

COLUMNS = ("cut", "aggregate_every", "prune_rate", "bits", "smashed_bits", "dropout_rate")
QUORUM = "quorum"  # a further column, where a setting has a server that does not wait for all
# What a grid may vary, by the flag that lists its values.
AXES = ("cuts", "prune_rates", "periods", "bits", "dropout_rates", "allocations", "quorums")

Changes = dict[str, Any]  # fields of a config and their new values


def axes(base: Config, texts: Mapping[str, Sequence[str] | None]) -> list[list[Changes]]:
    """The axes of a grid of settings, in the order that `estimates.estimate` needs.

    Args:
      base: the config that all settings change.
      texts: the entries of each flag: cuts, prune_rates, periods, bits, dropout_rates,
        allocations and quorums; None where a flag is not set.

    Returns:
      Seven lists, one for each flag, of what its entries change; `[{}]` for a flag that is not set.

    Raises:
      UserError: an empty list, a repeated entry, or an entry that is not the number it has to be.
    """

    def pruning(text: str) -> Changes:
        rate = float(text)
        if rate and base.pruning == "none":
            raise flag_error("prune_rates", text, "0 with --prune_kind=none")
        if base.prune_policy != "uniform":
            raise no_effect("prune_rates", text, f"with --prune_policy={base.prune_policy}")
        kind = base.pruning if rate else "none"
        return {"prune_kind": kind, "prune_rate": (rate,)}

    def bits(text: str) -> Changes:
        gradient, *activation = text.split("/")
        names = ["cut_gradient"] if base.client_gradient else ["cut_gradient", "client_gradient"]
        changes = {f"{name}_bits": str(int(gradient)) for name in names}
        if len(activation) > 1:
            raise ValueError
        return {**changes, "smashed_bits": str(int(activation[0]))} if activation else changes

    readers: dict[str, Callable[[str], Changes]] = {
        "cuts": lambda text: {"cut": text},
        "prune_rates": pruning,
        "periods": lambda text: {"aggregate_every": int(text)},
        "bits": bits,
        "dropout_rates": lambda text: {"dropout_rate": str(float(text))},
        "allocations": lambda text: {"allocation": text},
        "quorums": lambda text: quorums.changes(base, text),
    }
    return [_axis(name, texts.get(name), reader) for name, reader in readers.items()]


def _axis(
    name: str, entries: Sequence[str] | None, reader: Callable[[str], Changes]
) -> list[Changes]:
    if entries is None:
        return [{}]
    if not entries:
        raise UserError(f"--{name} is empty; give values separated by commas")
    try:
        axis = [reader(entry) for entry in entries]
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise flag_error(name, ",".join(entries), "numbers separated by commas") from None
    if any(changes in axis[:i] for i, changes in enumerate(axis)):
        raise flag_error(name, ",".join(entries), "a list without repetitions")
    return axis


def config_grid(base: Config, lists: list[list[Changes]]) -> np.ndarray:
    """The configs of all combinations, an array of objects with one axis for each list.

    Raises:
      UserError: an impossible setting, an unknown cut, a base without a network, or an algorithm
        that the bound does not cover.
    """
    if ALGORITHMS[base.algorithm].clock is not side_by_side:
        raise flag_error("algorithm", base.algorithm, "one that the planner has a clock for")
    if "measure_constants_every" in idle(base):
        raise flag_error("algorithm", base.algorithm, "one that the convergence bound covers")
    if base.personal != NONE or base.proximal:
        name = "personal" if base.personal != NONE else "proximal"
        allowed = f"{shown(getattr(Config, name))}, as the bound covers"
        raise flag_error(name, shown(getattr(base, name)), allowed)
    if base.network == "none":
        raise flag_error("network", "none", "a network", reason="without one nothing takes time")
    configs = np.empty([len(entries) for entries in lists], object)
    for at in np.ndindex(configs.shape):
        changes: dict[str, Any] = {}
        for entries, i in zip(lists, at, strict=True):
            changes |= entries[i]
        configs[at] = dataclasses.replace(base, **changes)
    for config in filter(quorums.waits_for_some, configs[0, 0, 0, 0, 0, 0]):
        quorums.refuse(config)
    refuse_idle(configs.flat)
    for config in configs[:, 0, 0, 0, 0, 0, 0]:
        if parse(config.cut or "").differs:
            raise flag_error("cut", config.cut, "one cut for all clients, as the bound covers")
        cut_name(config)
    return configs


def column_values(config: Config) -> dict[str, Any]:
    """The values of `COLUMNS` in a setting; None where clients differ or an expression is set."""
    settings = compressors.settings_of(config)
    shorthands = compressors.shorthand_values(settings, config.compress_by_default)

    def number(name: str) -> float | None:
        of_clients = per_client.parse(shorthands[name] or "")
        return of_clients.values[0] if of_clients and len(of_clients.values) == 1 else None

    equal = config.prune_policy == "uniform" and len(set(config.prune_rate)) == 1
    rate = config.prune_rate[0] if equal else None
    values = (
        cut_name(config), config.aggregate_every, 0.0 if config.pruning == "none" else rate,
        number("cut_gradient_bits"), number("smashed_bits"), number("dropout_rate"),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def describe(config: Config) -> str:
    """A setting on one line."""
    values = {**column_values(config), "allocation": config.allocation}
    if quorums.waits_for_some(config):
        values[QUORUM] = config.quorum
    return " ".join(f"{name}={_cell(value)}" for name, value in values.items())


def _cell(value: Any) -> str:
    if value is None:
        return "by client"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check_budgets(
    configs: Sequence[Config], needs: Mapping[str, tuple[float | None, np.ndarray]], aim: str
) -> np.ndarray:
    """Which settings are within all budgets, bool `[n]`.

    Args:
      configs: of the settings.
      needs: by the budget's flag, the budget or None, and what each setting needs of it, `[n]`; inf
        for an impossible setting.
      aim: what is paid for, such as "the goal", for errors.

    Raises:
      UserError: no setting is; names the first budget that excludes all, and the least that would
        be enough.
    """
    within = np.logical_and.reduce([np.isfinite(needed) for _, needed in needs.values()])
    for name, (budget, needed) in needs.items():
        remaining = np.where(within, needed, np.inf)
        cheapest = int(np.argmin(remaining))
        within = within & (needed <= (np.inf if budget is None else budget))
        if budget is not None and not within.any():
            reason = f"the cheapest setting for {aim} is {describe(configs[cheapest])}"
            raise flag_error(name, budget, f"at least {remaining[cheapest]:.4g}", reason=reason)
    return within


def table(
    configs: Sequence[Config], numbers: Mapping[str, np.ndarray], chosen: int, quorum: bool = False
) -> str:
    """A Markdown table of settings with numbers; the chosen setting is marked.

    Args:
      configs: of the settings.
      numbers: columns by their titles, `[n]` each.
      chosen: index of the chosen setting.
      quorum: whether there is a column of quorums.
    """
    titles = ["", *COLUMNS, "allocation", *([QUORUM] if quorum else []), *numbers]
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for i, config in enumerate(configs):
        values = [*column_values(config).values(), config.allocation]
        if quorum:
            values.append(config.quorum if quorums.waits_for_some(config) else quorums.ALL)
        values += [float(column[i]) for column in numbers.values()]
        cells = ["chosen" if i == chosen else "", *map(_cell, values)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def flag_file(config: Config, names: Collection[str], comments: Sequence[str]) -> str:
    """A config as a file for --flagfile: one line for each flag that is not at its default.

    Flags without effect are left out, because training refuses them.

    Args:
      config: of a run.
      names: flags to write even at their defaults.
      comments: one line each, at the top.
    """
    lines, usual = [f"# {' '.join(comment.split())}" for comment in comments], Config()
    for field in dataclasses.fields(config):
        value = None if field.name in idle(config) else getattr(config, field.name)
        if value is not None and (value != getattr(usual, field.name) or field.name in names):
            lines.append(f"--{field.name}={shown(value)}")
    return "\n".join(lines) + "\n"


def measured_rounds(table: Path, configs: Sequence[Config]) -> np.ndarray:
    """Rounds to the target that a table gives for every setting, float64 `[n]`.

    Where several rows match a setting, their mean; inf where none does.

    Args:
      table: a CSV file with the column `rounds`, empty where the target was missed, and some of
        `COLUMNS` and `quorum`, a number of messages.
      configs: of the settings.

    Raises:
      UserError: the file cannot be read, has other columns, or matches none of the settings.
    """

    def refuse(why: str) -> UserError:
        columns = f"a CSV file with rounds and some of {', '.join((*COLUMNS, QUORUM))}"
        return flag_error("rounds_table", table, columns, reason=why)

    try:
        with open(table, newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(str(error)) from None
    names = set(rows[0]) if rows else set()
    if "rounds" not in names or names - {"rounds", *COLUMNS, QUORUM}:
        raise refuse(f"this one has {', '.join(map(str, names)) or 'no rows'}")

    def matches(row: dict[str, str], values: dict[str, Any], config: Config) -> bool:
        wanted: dict[str, Any] = {n: float(row[n]) for n in names - {"rounds", "cut"}}
        if "cut" in names:
            wanted["cut"] = cut_name(dataclasses.replace(config, cut=row["cut"]))
        return all(values[name] == value for name, value in wanted.items())

    def rounds_of(config: Config) -> float:
        values = {**column_values(config), QUORUM: quorums.answered(config)}
        counts = [float(r["rounds"]) for r in rows if r["rounds"] and matches(r, values, config)]
        return float(np.mean(counts)) if counts and min(counts) > 0 else np.inf

    try:
        rounds = np.array([rounds_of(config) for config in configs])
    except (ValueError, TypeError) as error:
        raise refuse(str(error)) from None
    if np.isinf(rounds).all():
        raise refuse("this one has none of the settings")
    return rounds
