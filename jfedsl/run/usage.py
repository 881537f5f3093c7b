"""What `--help` prints: how to start a program, and its flags by topic."""

import re
import shlex
import sys
from collections.abc import Callable, Iterable
from typing import Any

from absl import flags

from jfedsl.config import shown
from jfedsl.config.topics import MAIN_FLAGS, flags_by_topic
from jfedsl.files.program import COMMAND, this_program

_WIDTH = 88
_INDENT = " " * 8
_FLAGFILE = f"  --flagfile\n{_INDENT}File of flags, one a line; flags after it override it."
_EXAMPLE = re.compile(rf"^{COMMAND}( study)? [\w-]+", re.MULTILINE)


class _Parser(flags.ArgumentParser):
    def parse(self, argument: Any) -> str:
        if argument not in ("true", "false", "all"):
            raise ValueError("must be all, or have no value")
        return str(argument)


class HelpFlag(flags.Flag):
    """A flag that prints the help and ends the program."""

    def __init__(self, name: str, text: Callable[[bool], str]) -> None:
        """A flag in the place of absl's own.

        Args:
          name: `help`, or `helpfull` for all flags.
          text: the help, with all flags or those that matter first.
        """
        short = "?" if name == "help" else None
        super().__init__(
            _Parser(), None, name, None, "Show this help.", short, boolean=True, allow_override=True
        )
        self._text = text

    def parse(self, argument: Any) -> None:
        """Prints the help unless the argument is `false`."""
        wanted = self._parse(argument)
        if wanted != "false":
            print(self._text(self.name == "helpfull" or wanted == "all"))
            sys.exit(0)


def define_help(about: str, program: Iterable[str], sources: Iterable[str]) -> None:
    """Defines `--help` and `--helpfull`.

    Args:
      about: what the program does, with an example.
      program: names of its own flags.
      sources: names of flags that stand for other flags of a run; empty if it takes none.
    """

    def text(everything: bool) -> str:
        return help_text(about, list(program), list(sources), everything)

    for name in ("help", "helpshort", "helpfull"):
        flags.DEFINE_flag(HelpFlag(name, text))


def help_text(
    about: str,
    program: list[str],
    sources: list[str],
    everything: bool,
    values: flags.FlagValues = flags.FLAGS,
) -> str:
    """The help of a program.

    Args:
      about: what the program does; a line that starts with a subcommand of `jfedsl` is shown as
        the program was started.
      program: names of its own flags.
      sources: names of flags that stand for other flags of a run; empty if it takes none.
      everything: whether to list all flags of a run, or those that matter first.
      values: where the flags are defined.
    """
    example = shlex.join(this_program())
    parts = [_EXAMPLE.sub(lambda _: example, about.strip())]
    if program:
        parts.append(_section("flags of this program", program, values))
    if sources:
        topics = flags_by_topic() if everything else MAIN_FLAGS
        parts += [_section(topic, names, values) for topic, names in topics.items()]
        parts.append(f"{_section('flags from files', sources, values)}\n{_FLAGFILE}")
        if not everything:
            count = sum(map(len, flags_by_topic().values()))
            parts.append(f"--help=all shows all {count} flags of a run.")
    return "\n\n".join(parts)


def _section(title: str, names: Iterable[str], values: flags.FlagValues) -> str:
    return "\n".join([f"{title}:", *(_entry(values[name]) for name in names)])


def _entry(flag: Any) -> str:
    default = "" if flag.default in (None, "", [], ()) else f"={_shown(flag.default)}"
    head = f"  --[no]{flag.name}" if flag.boolean else f"  --{flag.name}{default}"
    return f"{head}\n{flags.text_wrap(flag.help, _WIDTH, _INDENT)}"


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else shown(value)
