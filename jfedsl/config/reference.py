"""The reference of flags as Markdown, written from the fields of a config."""

import dataclasses
from typing import Any

from jfedsl.config import Config, shown
from jfedsl.config.allowed import ANY
from jfedsl.config.topics import flags_by_topic

_HEAD = "| flag | default | meaning | allowed |\n| --- | --- | --- | --- |"


def flag_tables() -> str:
    """A table of flags for each topic, under a heading of its own."""
    fields = {field.name: field for field in dataclasses.fields(Config)}
    tables = []
    for topic, names in flags_by_topic().items():
        rows = "\n".join(_row(fields[name]) for name in names)
        tables.append(f"## {topic.capitalize()}\n\n{_HEAD}\n{rows}")
    return "\n\n".join(tables)


def _row(field: dataclasses.Field[Any]) -> str:
    default = "" if field.default in (None, "") else f"`{_cell(shown(field.default))}`"
    allowed = field.metadata["allowed"]
    values = "" if allowed is ANY else _cell(allowed.text)
    text = _cell(field.metadata["help"])
    if field.metadata["may_change_on_resume"]:
        text += " May change on resume."
    return f"| `--{field.name}` | {default} | {text} | {values} |"


def _cell(text: str) -> str:
    """Text that does not end a cell of a table, nor begin an element of HTML."""
    return text.replace("|", "&#124;").replace("<", "&lt;")
