"""Writes a report on runs, as an HTML page and as Markdown.

jfedsl report runs/sweep
jfedsl report runs/sweep runs/one_more --output=runs/report

Takes folders of runs, or folders that contain runs at any depth. Writes report.html, which contains
its pictures, and report.md, which shows those in pictures/.
"""

import shlex
from pathlib import Path

from absl import flags

from jfedsl.config.figure_fields import formats_of
from jfedsl.errors import UserError, flag_error
from jfedsl.files.paths import local
from jfedsl.files.program import this_program
from jfedsl.run.script import start as start_program
from jfedsl.studies.report import write


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags."""
    flags.DEFINE_string(
        "output", "", "Folder for the report; default report/ in the one folder given.", values
    )
    flags.DEFINE_string("title", "Runs", "Title of the report.", values)
    flags.DEFINE_float(
        "target",
        None,
        "Accuracy, or other metric, to compare costs at; default that of the runs.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "reference", "", "Setting that the others are compared with. Default: the first.", values
    )
    flags.DEFINE_list(
        "figure_format", ["png"], "Formats of the curves in pictures/, beside svg.", values
    )


def main(folders: list[str], given: flags.FlagValues) -> None:
    """Writes the report and prints its files."""
    if not folders:
        example = f"{shlex.join(this_program())} WORKDIR..."
        raise UserError(f"no folders of runs; use {example.removeprefix('python ')}")
    formats, output = formats_of(given.figure_format), _output(folders, given.output)
    paths = write(folders, output, given.title, given.target, formats, given.reference)
    for path in paths:
        print(path)


def _output(folders: list[str], given: str) -> Path:
    """The folder for the report.

    Raises:
      UserError: none is given, and there are several folders that it could lie in.
    """
    if given:
        return local("output", given)
    if len(folders) > 1:
        reason = "its default is report/ in the one folder given"
        raise flag_error("output", "", "a folder for the report of several folders", reason=reason)
    return local("folder", folders[0]) / "report"


def start() -> None:
    """Runs it on the command line."""
    start_program(lambda folders: main(folders, flags.FLAGS), True, define, __doc__)
