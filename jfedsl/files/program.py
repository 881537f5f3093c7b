"""How this process was started, for messages that say which command to run next."""

import sys
from pathlib import Path

COMMAND = "jfedsl"


def this_program() -> list[str]:
    """The words that started this process, without its arguments."""
    return sys.argv[0].split() if _is_command() else ["python", sys.argv[0]]


def other_program(name: str) -> list[str]:
    """The words that start another program of the package.

    Args:
      name: of the script, such as `prepare_data`. Outside of the scripts it is the command's
        `prepare-data`.
    """
    if Path(sys.argv[0]).parent.name == "experiments":
        return ["python", f"experiments/{name}.py"]
    return [COMMAND, name.replace("_", "-")]


def _is_command() -> bool:
    """Whether `jfedsl.commands.main` has put the name of a subcommand there."""
    return sys.argv[0].startswith(f"{COMMAND} ")
