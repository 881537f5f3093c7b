"""Settings to choose from: what lists of values make of a config, in words, tables and flags."""

import csv
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jfedsl import per_client
from jfedsl.config import Config, shown
from jfedsl.config.canonical import cut_name, idle, refuse_idle
from jfedsl.errors import UserError, flag_error, no_effect

COLUMNS = ("cut", "aggregate_every", "prune_rate", "bits", "smashed_bits", "dropout_rate")

Changes = dict[str, Any]  # of a config


def axes(base: Config, texts: Mapping[str, Sequence[str] | None]) -> list[list[Changes]]:
    """What to vary: for each list, in `planning.survey`'s order, what its entries change.

    Args:
      base: of all settings.
      texts: entries by name of the list: cuts, prune_rates, periods, bits, dropout_rates and
        allocations; None where not given.

    Raises:
      UserError: an empty list, an entry twice, or one that is no number where that is wanted.
    """

    def pruned(text: str) -> Changes:
        rate = float(text)
        if rate and base.pruning == "none":
            raise flag_error("prune_rates", text, "0 with --prune_kind=none")
        if base.prune_policy != "uniform":
            raise no_effect("prune_rates", text, f"with --prune_policy={base.prune_policy}")
        kind = base.pruning if rate else "none"
        return {"prune_kind": kind, "prune_rate": (rate,)}

    def bits(text: str) -> Changes:
        down, *up = text.split("/")
        places = ["cut_gradient"] if base.client_gradient else ["cut_gradient", "client_gradient"]
        found = {f"{place}_bits": str(int(down)) for place in places}
        if len(up) > 1:
            raise ValueError
        return {**found, "smashed_bits": str(int(up[0]))} if up else found

    readers: dict[str, Callable[[str], Changes]] = {
        "cuts": lambda text: {"cut": text},
        "prune_rates": pruned,
        "periods": lambda text: {"aggregate_every": int(text)},
        "bits": bits,
        "dropout_rates": lambda text: {"dropout_rate": str(float(text))},
        "allocations": lambda text: {"allocation": text},
    }
    found = []
    for name, reader in readers.items():
        entries, read = texts.get(name), list[Changes]([{}])
        if entries is not None:
            if not entries:
                raise UserError(f"--{name} is empty; give values separated by commas")
            try:
                read = [reader(entry) for entry in entries]
            except ValueError as error:
                if isinstance(error, UserError):
                    raise
                raise flag_error(name, ",".join(entries), "numbers separated by commas") from None
            if any(entry in read[:i] for i, entry in enumerate(read)):
                raise flag_error(name, ",".join(entries), "a list without repetitions")
        found.append(read)
    return found


def configs_of(base: Config, lists: list[list[Changes]]) -> np.ndarray:
    """The configs of all settings, objects of one axis a list.

    Raises:
      UserError: a setting that cannot be, an unknown cut, or a base without a network or of another
        algorithm than FedSL, which the bound is of.
    """
    if base.algorithm != "fedsl":
        raise flag_error("algorithm", base.algorithm, "fedsl for the planner")
    if base.network == "none":
        raise flag_error("network", "none", "a network", reason="without one nothing takes time")
    found = np.empty([len(entries) for entries in lists], object)
    for place in np.ndindex(found.shape):
        changes: dict[str, Any] = {}
        for entries, i in zip(lists, place, strict=True):
            changes |= entries[i]
        found[place] = dataclasses.replace(base, **changes)
    refuse_idle(found.flat)
    for config in found[:, 0, 0, 0, 0, 0]:
        cut_name(config)
    return found


def values(config: Config) -> dict[str, Any]:
    """A setting by `COLUMNS`; None where a column's number does not say it."""

    def one(name: str, default: str, place: str) -> float | None:
        if getattr(config, place):
            return None
        found = per_client.parse(getattr(config, name) or default)
        return found.values[0] if found and len(found.values) == 1 else None

    rate = config.prune_rate[0] if len(set(config.prune_rate)) == 1 else None
    rate = None if config.prune_policy != "uniform" else rate
    layer = cut_name(config)
    numbers = (
        layer, config.aggregate_every, 0.0 if config.pruning == "none" else rate,
        one("cut_gradient_bits", "8", "cut_gradient"), one("smashed_bits", "32", "smashed"),
        one("dropout_rate", "0.2", "smashed"),
    )  # fmt: skip
    return dict(zip(COLUMNS, numbers, strict=True))


def setting(config: Config) -> str:
    """A setting in a line."""
    own = {**values(config), "allocation": config.allocation}
    return " ".join(f"{name}={_cell(value)}" for name, value in own.items())


def _cell(value: Any) -> str:
    if value is None:
        return "by client"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check_budgets(
    configs: Sequence[Config], needs: Mapping[str, tuple[float | None, np.ndarray]], what: str
) -> np.ndarray:
    """Which settings `[n]` are within budgets.

    Args:
      configs: of the settings.
      needs: by flag, the budget or None, and what each setting takes of it, inf if it cannot be.
      what: takes that, for errors.

    Raises:
      UserError: none is; names the first budget that binds and what would do.
    """
    within = np.logical_and.reduce([np.isfinite(needed) for _, needed in needs.values()])
    for name, (budget, needed) in needs.items():
        left = np.where(within, needed, np.inf)
        least = int(np.argmin(left))
        within = within & (needed <= (np.inf if budget is None else budget))
        if budget is not None and not within.any():
            who = setting(configs[least])
            reason = f"the cheapest setting for {what} is {who}"
            raise flag_error(name, budget, f"at least {left[least]:.4g}", reason=reason)
    return within


def table(configs: Sequence[Config], numbers: Mapping[str, np.ndarray], chosen: int) -> str:
    """Settings with their numbers as Markdown, the one chosen marked.

    Args:
      configs: of the settings `[n]`.
      numbers: by name, `[n]`.
      chosen: index of the setting that is marked.
    """
    names = ["", *COLUMNS, "allocation", *numbers]
    lines = [f"| {' | '.join(names)} |", "| --- " * len(names) + "|"]
    for i, config in enumerate(configs):
        own = [
            *values(config).values(),
            config.allocation,
            *(float(x[i]) for x in numbers.values()),
        ]
        cells = ["chosen" if i == chosen else "", *map(_cell, own)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def flag_file(config: Config, names: Collection[str], comments: Sequence[str]) -> str:
    """A config as a file for --flagfile: a flag a line where it differs from its default.

    What has no effect is left out, as `train` refuses it.

    Args:
      config: of a run.
      names: of flags that are written even so.
      comments: put before them, a line each.
    """
    lines = [f"# {' '.join(comment.split())}" for comment in comments]
    for field in dataclasses.fields(config):
        value = None if field.name in idle(config) else getattr(config, field.name)
        if value is not None and (value != field.default or field.name in names):
            lines.append(f"--{field.name}={shown(value)}")
    return "\n".join(lines) + "\n"


def rounds_in(table: Path, configs: Sequence[Config]) -> np.ndarray:
    """Measured rounds of every setting, float64 `[n]`; inf for one that is not in the table.

    Rows that a setting fits several of count with their mean.

    Args:
      table: a CSV file of some of `COLUMNS`, and `rounds`, empty where the accuracy was missed.
      configs: of the settings.

    Raises:
      UserError: no such table, or one that has none of the settings.
    """

    def refuse(why: str) -> UserError:
        columns = f"a CSV file with rounds and some of {', '.join(COLUMNS)}"
        return flag_error("rounds_table", table, columns, reason=why)

    try:
        with open(table, newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(str(error)) from None
    names = set(rows[0]) if rows else set()
    if "rounds" not in names or names - {"rounds", *COLUMNS}:
        raise refuse(f"this one has {', '.join(map(str, names)) or 'no rows'}")

    def fits(row: dict[str, str], own: dict[str, Any], config: Config) -> bool:
        wanted = {name: float(row[name]) for name in names - {"rounds", "cut"}}
        if "cut" in names:
            wanted["cut"] = values(dataclasses.replace(config, cut=row["cut"]))["cut"]
        return all(own[name] == value for name, value in wanted.items())

    found: list[float] = []
    try:
        for config in configs:
            own = values(config)
            each = [float(r["rounds"]) for r in rows if r["rounds"] and fits(r, own, config)]
            found.append(float(np.mean(each)) if each and min(each) > 0 else np.inf)
    except (ValueError, TypeError) as error:
        raise refuse(str(error)) from None
    if np.isinf(found).all():
        raise refuse("this one has none of the settings")
    return np.array(found)
