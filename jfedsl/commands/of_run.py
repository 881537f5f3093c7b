"""Flags of commands that read a run that was trained before."""

from absl import flags


def define_run(values: flags.FlagValues) -> None:
    """Defines the folder of the run, and where its data and its plugins are now."""
    flags.DEFINE_string("workdir", "", "Folder of the run.", values)
    flags.DEFINE_string(
        "data_dir", None, "Folder of prepared data sets; default that of the run.", values
    )
    flags.DEFINE_string(
        "plugin", "", "Plugins of the run that have moved since, separated by commas.", values
    )
