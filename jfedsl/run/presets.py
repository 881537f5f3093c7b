"""Presets: files of flags that the package brings along, found by name."""

from pathlib import Path

from absl import flags

import jfedsl
from jfedsl.errors import flag_error

_FOLDER = Path(jfedsl.__file__).parent / "presets"


def presets(one_run: bool) -> dict[str, Path]:
    """The files of flags by name: those of single runs, and else those of studies as well."""
    folders = [_FOLDER] if one_run else [_FOLDER, _FOLDER / "studies"]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.flags"))}


def with_preset(arguments: list[str], one_run: bool) -> list[str]:
    """A command line with the flags of its `--preset`, which all other flags override.

    Args:
      arguments: the command line, the name of the program included.
      one_run: whether the program trains one run.

    Raises:
      UserError: there is no preset of that name.
    """
    early = flags.FlagValues()
    flags.DEFINE_string("preset", "", "", early)
    early.set_gnu_getopt(True)  # else parsing would end at the first value of an unknown flag
    early(arguments, known_only=True)
    name, known = early["preset"].value, presets(one_run)
    if not name:
        return arguments
    if name not in known:
        raise flag_error("preset", name, f"one of {', '.join(known)}", known)
    return [arguments[0], f"--flagfile={known[name]}", *arguments[1:]]
