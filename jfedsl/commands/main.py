"""The command `jfedsl`: finds the subcommand, and starts it as its script in experiments/ does."""

import importlib
import sys
from typing import NamedTuple

from jfedsl import __version__
from jfedsl.commands.registry import COMMANDS, STUDIES, Command
from jfedsl.errors import UserError, as_text, close_to
from jfedsl.files.program import COMMAND

_HELP = ("--help", "-h", "help")


class Call(NamedTuple):
    """A subcommand as it was called.

    Attributes:
      module: of `jfedsl.commands`.
      arguments: as `sys.argv` of the subcommand's own program, its name first.
    """

    module: str
    arguments: list[str]


def main() -> None:
    """Runs the subcommand that the command line names.

    The exit status is that of the subcommand; 2 if there is none of that name.
    """
    from jfedsl.run import startup  # noqa: F401 (changes the process)

    words = sys.argv[1:]
    if words and words[0] == "--version":
        print(f"{COMMAND} {__version__}")
        return
    if not words or words[0] in _HELP:
        print(_listed("jfedsl COMMAND [--flag=value ...]", COMMANDS))
        sys.exit(0 if words else 2)
    if words[0] == "study" and (not words[1:] or words[1] in _HELP):
        print(_listed("jfedsl study NAME [--flag=value ...]", STUDIES))
        sys.exit(0 if words[1:] else 2)
    try:
        call = find(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.argv = call.arguments
    importlib.import_module(f"jfedsl.commands.{call.module}").start()


def find(words: list[str]) -> Call:
    """The subcommand that the words of a command line name.

    Args:
      words: at least one, and two if the first is `study`.

    Raises:
      UserError: there is no subcommand, or no study, of that name.
    """
    table, kind, depth = COMMANDS, "command", 1
    if words[0] == "study":
        table, kind, depth = STUDIES, "study", 2
    name, rest = words[depth - 1], words[depth:]
    if name not in table:
        close = close_to(name, table) or f"; one of {', '.join(table)}"
        raise UserError(f"there is no {kind} {as_text(name)}{close}")
    command = table[name]
    if command.first and rest and not rest[0].startswith("-"):
        rest = [f"--{command.first}={rest[0]}", *rest[1:]]
    return Call(command.module, [" ".join([COMMAND, *words[:depth]]), *rest])


def _listed(usage: str, table: dict[str, Command]) -> str:
    """The help that lists the subcommands of a table."""
    width = max(map(len, table)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in table.items()]
    example = usage.split(" [")[0]
    return "\n".join([f"usage: {usage}", "", *lines, "", f"{example} --help lists its flags."])
