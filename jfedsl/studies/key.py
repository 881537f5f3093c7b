"""Short names of settings, and the table that says what they stand for."""

import string
from collections.abc import Sequence

from jfedsl.run.plots.lines import line
from jfedsl.run.plots.page import escaped
from jfedsl.studies.collect import Setting, flag_text

_SHORT = 16  # characters of a name that tables and legends show as it is


def short_names(names: Sequence[str]) -> list[str]:
    """Names for tables and legends: the names themselves if all are short, else A, B, C or S1, S2.

    >>> short_names(["light", "plain"])
    ['light', 'plain']
    >>> short_names(["cut=conv1, prune_rate=0.25", "cut=pool1, prune_rate=0.25"])
    ['A', 'B']
    """
    if all(0 < len(name) <= _SHORT for name in names):
        return list(names)
    if len(names) <= len(string.ascii_uppercase):
        return list(string.ascii_uppercase[: len(names)])
    return [f"S{number}" for number in range(1, len(names) + 1)]


def key_table(settings: Sequence[Setting], names: Sequence[str], cells: Sequence[str]) -> str:
    """A Markdown table of what tells the settings from each other, a row for each.

    Args:
      settings: the settings.
      names: their short names.
      cells: what stands for each of them in tables.
    """
    flags = list(dict.fromkeys(flag for setting in settings for flag in setting.flags))
    # A name that says the flags, as the columns do, is left out.
    told = all(
        s.name in (short, flag_text(s.flags)) for s, short in zip(settings, names, strict=True)
    )
    titles = ["setting", "seeds", *([] if told else ["name"]), *(f"`{flag}`" for flag in flags)]
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for setting, cell in zip(settings, cells, strict=True):
        seeds = ", ".join(str(run.config.seed) for run in setting.runs)
        name = [] if told else [escaped(setting.name)]
        values = [escaped(setting.flags.get(flag, "-")) for flag in flags]
        lines.append(f"| {' | '.join([cell, seeds, *name, *values])} |")
    return "\n".join(lines)


def samples(count: int, folder: str) -> dict[str, bytes]:
    """Pictures of the lines of settings, by their addresses in this folder."""
    return {f"{folder}/line_{n + 1}.svg": line(n).sample for n in range(count)}


def cell(number: int, name: str, folder: str) -> str:
    """What stands for the n-th setting in tables, from 0: its line and its short name."""
    return f"![{line(number).words}]({folder}/line_{number + 1}.svg) {escaped(name)}"
