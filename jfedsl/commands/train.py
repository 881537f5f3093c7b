"""Trains one federated split learning run; the same command with its --workdir resumes it.

jfedsl train --workdir=runs/first
"""

from jfedsl.config import Config
from jfedsl.run.script import run
from jfedsl.run.summary import contents
from jfedsl.run.table import show
from jfedsl.run.training import train


def main(config: Config) -> None:
    """Trains and prints the summary."""
    summary = train(config)
    if summary:  # empty in all processes but the first
        print()
        show(contents(summary), plainly=config.progress == "lines")
        pictures = ", ".join(f"*.{kind}" for kind in config.figure_format)
        print(f"\npictures: {pictures} in {summary['workdir']}")


def start() -> None:
    """Runs it on the command line."""
    run(main, about=__doc__)
