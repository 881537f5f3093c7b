"""Settings that a command line takes from files: `--config`, `--resume` and `--plugin`."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from jfedsl.config import Config
from jfedsl.config.canonical import idle
from jfedsl.errors import no_effect
from jfedsl.files.paths import local, path_error
from jfedsl.run.storage.workdir import CONFIG, read_config, read_settings

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

    Plugins are loaded, so that their entries are among what flags allow. Where a run is, on which
    processes and where it keeps compiled programs is never taken from a file, which may be another
    machine's or another user's.

    Args:
      arguments: the command line, with the name of the program.
      one_run: whether there is a `--resume`.

    Raises:
      UserError: there is no such file or folder, or it holds no config.
    """
    named = _named(arguments, one_run)
    config, resume, plugin = named.config, named.resume, named.plugin
    if resume and config:
        raise no_effect("config", config, "with --resume")
    if resume and named.workdir:
        raise no_effect("workdir", named.workdir, "with --resume, which names the folder")
    if config and not Path(config).is_file():
        raise path_error("config", Path(config), f"the {CONFIG} of a run", "no such file")
    if not (resume or config):
        return Config(plugin=plugin)
    found = read_config(Path(resume), plugin) if resume else read_settings(Path(config), plugin)
    if found is None:
        raise path_error("resume", Path(resume), "the folder of a run", f"it has no {CONFIG}")
    here: dict[str, Any] = {"coordinator": "", "processes": None, "process": None}
    cache = Config.compilation_cache
    return dataclasses.replace(found, workdir=resume, compilation_cache=cache, **here)


def without_idle(config: Config, flag_values: flags.FlagValues = flags.FLAGS) -> Config:
    """The config without settings of the file of `--config` that flags have left without effect.

    Those that a flag gave stay, to be refused.
    """
    if not flag_values["config"].value:
        return config
    names = [name for name in idle(config) if not flag_values[name].present]
    unset: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Config)}
    return dataclasses.replace(config, **{name: unset[name] for name in names})


def free_flags(flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """The free flags that were given, as `--name=value`, to be repeated beside `--resume`.

    The folder alone does not bring all of them back: it never says, for example, where compiled
    programs are kept.
    """
    fields = dataclasses.fields(Config)
    names = [field.name for field in fields if field.metadata["may_change_on_resume"]]
    given = [name for name in names if flag_values[name].present and name != "workdir"]
    return [f"--{name}={flag_values[name].value}" for name in given]


class _Named(NamedTuple):
    """The flags that are needed before all others."""

    config: str = ""
    plugin: str = ""
    resume: str = ""
    workdir: str = ""


def _named(arguments: list[str], one_run: bool) -> _Named:
    """Those of a command line, its flag files included."""
    early, names = (
        flags.FlagValues(),
        ("config", "plugin", *(("resume", "workdir") if one_run else ())),
    )
    for name in names:
        flags.DEFINE_string(name, _Named._field_defaults[name], "", early)
    early.set_gnu_getopt(True)  # goes on after the values of flags that are unknown here
    early(arguments, known_only=True)
    given = {name: str(early[name].value) for name in names}
    folders = {n: str(local(n, v)) if v else "" for n, v in given.items() if n != "plugin"}
    return _Named(**{**given, **folders})
