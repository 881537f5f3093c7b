"""Writes a report on runs, as an HTML page and as Markdown.

jfedsl report runs/sweep runs/one_more --output=runs/report

Takes folders of runs, or folders that contain runs at any depth. Writes report.html, which contains
its pictures, and report.md, which shows those in pictures/.
"""

import shlex

from absl import flags

from jfedsl.errors import UserError, flag_error
from jfedsl.files.program import this_program
from jfedsl.run.script import start as start_program
from jfedsl.studies.report import write


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags."""
    flags.DEFINE_string("output", "", "Folder for the report.", values)
    flags.DEFINE_string("title", "Runs", "Title of the report.", values)
    flags.DEFINE_float(
        "target",
        None,
        "Accuracy, or other metric, to compare costs at; default that of the runs.",
        flag_values=values,
    )


def main(folders: list[str], given: flags.FlagValues) -> None:
    """Writes the report and prints its files."""
    if not folders:
        example = f"{shlex.join(this_program())} WORKDIR... --output=FOLDER"
        raise UserError(f"no folders of runs; use {example.removeprefix('python ')}")
    if not given.output:
        raise flag_error("output", "", "a folder for the report")
    for path in write(folders, given.output, given.title, given.target):
        print(path)


def start() -> None:
    """Runs it on the command line."""
    start_program(lambda folders: main(folders, flags.FLAGS), True, define, __doc__)
