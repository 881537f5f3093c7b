"""Evaluates the newest checkpoint of a run on each client's data, and exports the model."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from absl import flags

from jfedsl.errors import flag_error
from jfedsl.files.paths import local
from jfedsl.run.evaluate import evaluate_run, table
from jfedsl.run.script import start

_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of prepared data sets; default that of the run."
)
_PLUGIN = flags.DEFINE_string(
    "plugin", "", "Plugins of the run that have moved since, separated by commas."
)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Folder for the exported files; default export/ in the workdir."
)


def main(_: list[str]) -> None:
    """Prints the accuracies; writes evaluation.json and the exported files."""
    if not _WORKDIR.value:
        raise flag_error("workdir", "", "the workdir of a run with a checkpoint")
    workdir = local("workdir", _WORKDIR.value)
    folder = local("export_dir", _EXPORT_DIR.value or workdir / "export")
    result = evaluate_run(workdir, folder, _DATA_DIR.value, _PLUGIN.value)
    print(f"{table(result)}\n\nmodel: {folder}/manifest.json and the files it lists")


if __name__ == "__main__":
    start(main)
