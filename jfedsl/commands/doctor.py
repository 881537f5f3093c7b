"""Checks the installation: versions, devices, numbers, data sets, compiled programs.

jfedsl doctor

Prints one line for each; the exit status is 1 if something is wrong.
"""

import sys

from absl import flags

from jfedsl.commands.checks import everything
from jfedsl.config import Config
from jfedsl.run.script import start as start_program


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags."""
    flags.DEFINE_string("data_dir", Config.data_dir, "Folder of prepared data sets.", values)
    flags.DEFINE_string(
        "compilation_cache", Config.compilation_cache, "Folder of compiled programs.", values
    )


def main(given: flags.FlagValues) -> None:
    """Prints what is found; ends the process with status 1 if something is wrong."""
    wrong = 0
    for finding in everything(given.data_dir, given.compilation_cache):
        print(f"{'ok   ' if finding.fine else 'WRONG'} {finding.about:<18} {finding.text}")
        wrong += not finding.fine
    if wrong:
        sys.exit(1)


def start() -> None:
    """Runs it on the command line."""
    start_program(lambda _: main(flags.FLAGS), define=define, about=__doc__)
