"""Settings that a command line takes from files: `--config` and `--resume`."""

import dataclasses
from pathlib import Path

from absl import flags

from jfedsl.config import Config
from jfedsl.errors import flag_error
from jfedsl.folders import local
from jfedsl.runtime.workdir import CONFIG, read_settings

_HELP = {
    "config": "The config.json of a run, whose settings are the defaults of the other flags. A new "
    "run still gets a folder of its own.",
    "resume": "Folder of a run to go on with. Its settings hold; other flags may change those that "
    "may change when a run is resumed.",
}


def define_sources(one_run: bool, flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Defines `--config`, and `--resume` for a script that trains one run; returns the names."""
    names = ["config", "resume"] if one_run else ["config"]
    for name in names:
        flags.DEFINE_string(name, "", _HELP[name], flag_values)
    return names


def defaults(arguments: list[str], one_run: bool = True) -> Config:
    """What the files that a command line names make of the defaults of all flags.

    Where a run is and on which processes is never taken from a file: it may have moved.

    Args:
      arguments: the command line, with the name of the program.
      one_run: whether there is a `--resume`.

    Raises:
      UserError: there is no such file or folder, or it holds no config.
    """
    found = _named(arguments, one_run)
    if found["resume"] and found["config"]:
        raise flag_error("config", found["config"], "nothing with --resume")
    if found["resume"] and found["workdir"]:
        raise flag_error("workdir", found["workdir"], "nothing with --resume, which names it")
    if found["resume"]:
        path = Path(found["resume"], CONFIG)
        if not path.is_file():
            raise flag_error("resume", found["resume"], f"the folder of a run; it has no {CONFIG}")
    elif found["config"]:
        path = Path(found["config"])
        if not path.is_file():
            raise flag_error("config", path, f"a file, the {CONFIG} of a run")
    else:
        return Config()
    return dataclasses.replace(
        read_settings(path), workdir=found["resume"], coordinator="", processes=None, process=None
    )


def _named(arguments: list[str], one_run: bool) -> dict[str, str]:
    """The flags of a command line, its flag files included, that are needed before all others."""
    early, names = flags.FlagValues(), ("config", *(("resume", "workdir") if one_run else ()))
    for name in names:
        flags.DEFINE_string(name, "", "", early)
    early.set_gnu_getopt(True)  # goes on after the values of flags that are unknown here
    early(arguments, known_only=True)
    given = {name: early[name].value for name in names}
    return {"resume": "", **{name: str(local(name, v)) if v else "" for name, v in given.items()}}
