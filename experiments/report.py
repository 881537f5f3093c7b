"""Writes a report on runs, as an HTML page and as Markdown.

python experiments/report.py runs/sweep runs/one_more --output=runs/report

Takes folders of runs, or folders that contain runs at any depth. Writes report.html, which contains
its pictures, and report.md, which shows those in pictures/.
"""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from absl import flags

from jfedsl.errors import UserError, flag_error
from jfedsl.run.script import start
from jfedsl.studies.report import write

_OUTPUT = flags.DEFINE_string("output", "", "Folder for the report.")
_TITLE = flags.DEFINE_string("title", "Runs", "Title of the report.")
_TARGET = flags.DEFINE_float(
    "target", None, "Accuracy, or other metric, to compare costs at; default that of the runs."
)


def main(folders: list[str]) -> None:
    """Writes the report and prints its files."""
    if not folders:
        raise UserError("no folders of runs; use experiments/report.py WORKDIR... --output=FOLDER")
    if not _OUTPUT.value:
        raise flag_error("output", "", "a folder for the report")
    for path in write(folders, _OUTPUT.value, _TITLE.value, _TARGET.value):
        print(path)


if __name__ == "__main__":
    start(main, operands=True)
