"""What made the results of a study: command, commit, versions of packages and machine."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from jfedsl.files.program import this_program
from jfedsl.run.plots.page import escaped
from jfedsl.run.summary import versions

MADE_BY = "made_by.md"  # beside the table of a sweep


def made_by(summaries: Iterable[Mapping[str, Any] | None]) -> str:
    """A Markdown list: the command, and what made the tables and the runs.

    Runs may be older than the tables, and of several builds.

    Args:
      summaries: contents of summary.json of the runs; None where there is none.
    """
    known = [summary["environment"] for summary in summaries if summary and _has(summary)]
    lines = [
        f"- Command: {escaped(shlex.join([*this_program(), *sys.argv[1:]]))}",
        f"- Tables: {_text(versions())}",
    ]
    for text, count in Counter(map(_text, known)).items():
        lines.append(f"- {count} run{'' if count == 1 else 's'}: {text}")
    return "\n".join(lines)


def _has(summary: Mapping[str, Any]) -> bool:
    return isinstance(summary.get("environment"), Mapping)


def _text(environment: Mapping[str, Any]) -> str:
    """The commit, and versions and machine in the order of summary.json."""
    commit = environment.get("commit") or "not known"
    others = (f"{name} {value}" for name, value in environment.items() if name != "commit")
    return escaped(", ".join([f"commit {commit}", *others]))
