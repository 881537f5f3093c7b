"""The subcommands of `jfedsl`. Importing this imports nothing heavy."""

from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand.

    Attributes:
      module: of `jfedsl.commands`, with a function `start`.
      summary: what it does, for the list of commands.
      first: name of the flag that a first argument without dashes is the value of; empty if none.
    """

    module: str
    summary: str
    first: str = ""


COMMANDS = {
    "train": Command("train", "Train a run."),
    "resume": Command("resume", "Go on with a run: jfedsl resume FOLDER.", "resume"),
    "evaluate": Command(
        "evaluate", "Test and export the model of a run: jfedsl evaluate FOLDER.", "workdir"
    ),
    "report": Command("report", "Write a page about runs: jfedsl report FOLDER..."),
    "sweep": Command("sweep", "Train a grid of settings and seeds."),
    "plan": Command("plan", "Predict settings without training them, and choose one."),
    "prepare-data": Command(
        "prepare_data", "Prepare a data set: jfedsl prepare-data NAME.", "dataset"
    ),
    "measure-constants": Command(
        "measure_constants",
        "Measure the convergence bound's constants: jfedsl measure-constants FOLDER.",
        "workdir",
    ),
    "evidence": Command("evidence", "Make all tables and figures of this repository again."),
    "study": Command("", "Compare settings over seeds: jfedsl study NAME."),
    "doctor": Command("doctor", "Check the installation, and say what is where."),
}
STUDIES = {
    "bound": Command("bound_study", "The convergence bound beside measured gradient norms."),
    "cases": Command("cases_study", "Named settings, such as algorithms, over seeds."),
}
