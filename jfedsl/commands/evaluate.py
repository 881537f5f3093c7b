"""Evaluates the newest checkpoint of a run on each client's data, and exports the model.

jfedsl evaluate --workdir=runs/first
"""

from absl import flags

from jfedsl.commands.of_run import define_run
from jfedsl.errors import flag_error
from jfedsl.files.paths import local
from jfedsl.run.evaluate import evaluate_run, table
from jfedsl.run.script import start as start_program


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags."""
    define_run(values)
    flags.DEFINE_string(
        "export_dir", None, "Folder for the exported files; default export/ in the workdir.", values
    )
    flags.DEFINE_list(
        "figure_format", [], "Formats of the picture confusion; default those of the run.", values
    )
    flags.DEFINE_enum(
        "split",
        "test",
        ["test", "validation"],
        "Examples that the accuracies are of; validation: those of --validation_fraction, and no "
        "model is exported.",
        flag_values=values,
    )


def main(given: flags.FlagValues) -> None:
    """Prints the accuracies; writes them to a file and, with the test set, exports the model."""
    if not given.workdir:
        raise flag_error("workdir", "", "the workdir of a run with a checkpoint")
    workdir = local("workdir", given.workdir)
    folder = local("export_dir", given.export_dir or workdir / "export")
    arguments = (given.data_dir, given.plugin, given.figure_format, given.split)
    result = evaluate_run(workdir, folder, *arguments)
    print(table(result))
    if given.split == "test":
        print(f"\nmodel: {folder}/manifest.json and the files it lists")


def start() -> None:
    """Runs it on the command line."""
    start_program(lambda _: main(flags.FLAGS), define=define, about=__doc__)
