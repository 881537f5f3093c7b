"""Settings that a command line takes from files: `--preset`, `--config`, `--resume`, `--plugin`."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from jfedsl.config import Config
from jfedsl.config.canonical import idle
from jfedsl.errors import no_effect
from jfedsl.files.paths import local, path_error
from jfedsl.run.presets import presets
from jfedsl.run.storage.workdir import CONFIG, read_config, read_settings

_HELP = {
    "preset": "Name of a file of flags that the package brings along; other flags override it.",
    "config": "The config.json of a run, whose settings are the defaults of the other flags. A new "
    "run still gets a folder of its own.",
    "resume": "Folder of a run to go on with. Its settings hold; other flags may change those that "
    "may change when a run is resumed.",
}


def define_sources(one_run: bool, flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Defines `--preset` and `--config`, and `--resume` where one run is trained.

    Returns:
      The names of the flags.
    """
    names = ["preset", "config", "resume"] if one_run else ["preset", "config"]
    for name in names:
        text = _HELP[name]
        if name == "preset":
            text += f" One of {', '.join(presets(one_run))}."
        flags.DEFINE_string(name, "", text, flag_values)
    return names


def defaults(arguments: list[str], one_run: bool = True) -> Config:
    """The defaults of all flags, from the files that a command line names.

    Plugins are loaded, so that flags allow their entries. The folder, the processes and the folder
    of compiled programs are never taken from a file, which may come from another machine or user.

    Args:
      arguments: the command line, the name of the program included.
      one_run: whether the script has `--resume`.

    Raises:
      UserError: a file or folder is missing, or holds no config.
    """
    named = _sources(arguments, one_run)
    config, resume, plugin = named.config, named.resume, named.plugin
    if resume and config:
        raise no_effect("config", config, "with --resume")
    if resume and named.workdir:
        raise no_effect("workdir", named.workdir, "with --resume, which names the folder")
    if config and not Path(config).is_file():
        raise path_error("config", Path(config), f"the {CONFIG} of a run", "no such file")
    if not (resume or config):
        return Config(plugin=plugin)
    read = read_config(Path(resume), plugin) if resume else read_settings(Path(config), plugin)
    if read is None:
        raise path_error("resume", Path(resume), "the folder of a run", f"it has no {CONFIG}")
    alone: dict[str, Any] = {"coordinator": "", "processes": None, "process": None}
    cache = Config.compilation_cache
    return dataclasses.replace(read, workdir=resume, compilation_cache=cache, **alone)


def without_idle(config: Config, flag_values: flags.FlagValues = flags.FLAGS) -> Config:
    """The config without settings of the file of `--config` that have no effect beside other flags.

    A setting that was itself given as a flag stays, and is refused later.
    """
    if not flag_values["config"].value:
        return config
    names = [name for name in idle(config) if not flag_values[name].present]
    unset: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Config)}
    return dataclasses.replace(config, **{name: unset[name] for name in names})


def free_flags(flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """The given flags that may change on a resume, as `--name=value`, to repeat beside `--resume`.

    The folder alone does not restore all of them; the folder of compiled programs, for example, is
    never taken from it.
    """
    fields = dataclasses.fields(Config)
    names = [field.name for field in fields if field.metadata["may_change_on_resume"]]
    given = [name for name in names if flag_values[name].present and name != "workdir"]
    return [f"--{name}={flag_values[name].value}" for name in given]


class _Sources(NamedTuple):
    """The flags that are read before all others; empty if not given."""

    config: str = ""
    plugin: str = ""
    resume: str = ""
    workdir: str = ""


def _sources(arguments: list[str], one_run: bool) -> _Sources:
    """The sources that a command line, or a flag file on it, names."""
    early = flags.FlagValues()
    names = ("config", "plugin", *(("resume", "workdir") if one_run else ()))
    for name in names:
        flags.DEFINE_string(name, _Sources._field_defaults[name], "", early)
    early.set_gnu_getopt(True)  # else parsing would end at the first value of an unknown flag
    early(arguments, known_only=True)
    given = {name: str(early[name].value) for name in names}
    folders = {n: str(local(n, v)) if v else "" for n, v in given.items() if n != "plugin"}
    return _Sources(**{**given, **folders})
