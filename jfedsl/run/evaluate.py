"""Test of a trained run, also client by client, and export of its model to files."""

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfedsl.config.figure_fields import formats_of
from jfedsl.engine import client_accuracies
from jfedsl.engine.evaluation_set import TestSet
from jfedsl.errors import flag_error
from jfedsl.files.paths import Name, local
from jfedsl.run import confusion, scores
from jfedsl.run.exporting import export_model
from jfedsl.run.restore import Run, restore_run
from jfedsl.run.storage.task_record import TaskRecord, file_of, read_record, record_of
from jfedsl.run.storage.workdir import write_atomically

Result = dict[str, Any]
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@jax.enable_x64(False)  # as `train`
def evaluate_run(
    workdir: Name, export_dir: Name, data_dir: Name | None = None, plugin: Name = "",
    figure_format: Sequence[str] = (), split: str = "test",
) -> Result:  # fmt: skip
    """Assesses the newest checkpoint of a run, into its evaluation.json, and exports its model.

    On the validation set, the results are in evaluation_validation.json, and nothing is exported:
    the manifest of an export has results of the test set. If the folder of the run cannot be
    written, the results go to `export_dir`.

    Args:
      workdir: folder of the run; the run may still be training.
      export_dir: folder for the model's files, with `split="test"`.
      data_dir: folder of the run's data set, if that has moved.
      plugin: plugins of the run that have moved.
      figure_format: formats of the picture `confusion`; empty for those of the run.
      split: examples to assess it on, test or validation.

    Returns:
      The result of `assess`.

    Raises:
      UserError: there is no run, it has no such split, or a folder cannot be written.
    """
    workdir, export_dir = local("workdir", workdir), local("export_dir", export_dir)
    given = formats_of(figure_format) if figure_format else ()
    run = restore_run(workdir, data_dir, plugin)
    formats = given or run.config.figure_format
    result = assess(run, split)
    if split == "test":
        export_model(run, result, export_dir)
    try:
        _write(run, result, workdir, split, formats)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise flag_error("workdir", workdir, "a writable folder", reason=str(error)) from error
        export_dir.mkdir(parents=True, exist_ok=True)
        _write(run, result, export_dir, split, formats)
    return result


def _write(run: Run, result: Result, folder: Path, split: str, formats: Sequence[str]) -> None:
    """Writes a result and, where targets are classes, a picture of which are taken for which."""
    name = file_of("evaluation", split)
    write_atomically(folder / f"{name}.json", json.dumps(result, indent=2) + "\n")
    if run.experiment.spec.task.of_classes and "joined" in result:
        counts = np.array(result["joined"]["confusion"])
        confusion.draw(run, counts, folder, formats, split)


def _examples(run: Run, split: str) -> TestSet:
    """The examples of a split; raises a UserError where the run has none."""
    splits = {"test": run.experiment.test, "validation": run.experiment.validation}
    examples = splits.get(split)
    if examples is None:
        raise flag_error("split", split, "test, or validation in a run with --validation_fraction")
    return examples


def assess(run: Run, split: str = "test") -> Result:
    """Loss and metric of a run on a split, and for every client on its mix of labels.

    A client's accuracy, or other metric, is measured for each class of the split, and averaged with
    the client's shares of the classes: it is to be expected on new data with the label distribution
    of the client's training data. The client's model has its masks and its statistics, but no
    compressor at the cut.

    Args:
      run: the run at a checkpoint.
      split: test or validation.

    Returns:
      Plain values: round, task, and columns as in metrics.csv, such as test_loss and
      test_accuracy; joined, unless layers are personal: the scores of the model without masks,
      see `scores.of_classes`, `scores.of_numbers` and `scores.of_tokens`; class_names and
      client_names, if there are such; and, where targets are classes, clients: mean, standard
      deviation, least, greatest and the metric in client order. A client has None if the split has
      no example of its classes.

    Raises:
      UserError: the run has no such split.
    """
    experiment, state, test = run.experiment, run.state, _examples(run, split)
    spec, data = experiment.spec, experiment.data
    metrics = jax.device_get(experiment.evaluate()(data, state, test))
    task, counts = record_of(spec.task, split), experiment.label_counts
    result = {"round": int(state.round), "task": task.stored, **task.row_of(metrics)}
    names = {kind: list(getattr(experiment, kind)) for kind in ("class_names", "client_names")}
    if spec.personal is None:  # else there is no model of all
        result["joined"] = scores.scores_of(run, test)
    result |= {k: v for k, v in names.items() if v}
    if counts is None or not spec.task.of_classes:
        return result
    first, model = client_accuracies.distinct_models(spec, state)
    measure = experiment.jit(
        lambda data, state, test: client_accuracies.class_accuracies(
            spec, data, experiment.key, state, test, first
        )
    )
    accuracies = np.asarray(measure(data, state, test), np.float64)[model]
    by_client = [float(a) if np.isfinite(a) else None for a in _expected(accuracies, counts)]
    known = [a for a in by_client if a is not None]
    return {**result, "clients": {**_spread(known), task.metric: by_client}}


def _spread(accuracies: list[float]) -> dict[str, float | None]:
    """Mean, standard deviation, least and greatest; each None for an empty list."""
    names = ("mean", "standard_deviation", "least", "greatest")
    if not accuracies:
        return dict.fromkeys(names)
    array = np.array(accuracies)
    values = (array.mean(), array.std(), array.min(), array.max())
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _expected(accuracies: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Accuracy of each client: the mean over tested classes, weighted by its examples of each.

    Args:
      accuracies: by client and class, `[C, classes]`; not finite for a class without test examples.
      counts: training examples by client and class, int `[C, classes]`.

    Returns:
      float64 `[C]`; NaN for a client if none of its classes were tested.
    """
    known = np.isfinite(accuracies)
    weights = np.where(known, counts, 0)
    correct = np.sum(weights * np.where(known, accuracies, 0.0), axis=1)
    total = weights.sum(axis=1)
    return np.where(total > 0, correct / np.maximum(total, 1), np.nan)


def table(result: Result) -> str:
    """A short table of the result of `assess`."""
    task = read_record(result)
    titles, values = (task.title, "without masks", "deployed"), [result[c] for c in task.columns]
    rows = [*zip(titles, values, strict=True), (f"{task.split} loss", result[task.loss])]
    lines = [f"after round {result['round']}", *(f"{f'{t} ':<28}{v:.4f}" for t, v in rows)]
    if "joined" in result:
        lines += scores.lines_of(result["joined"], result.get("class_names", ()), task.split)
    if task.of_classes:
        lines += _of_clients(result["clients"], task, result.get("client_names", ()))
    return "\n".join(lines)


def _of_clients(clients: dict[str, Any], task: TaskRecord, names: Sequence[str]) -> list[str]:
    """Lines on what clients have on their own mixes of labels."""
    values = clients[task.metric]
    measured = [n for n, value in enumerate(values) if value is not None]
    lines = [f"over {len(measured)} of {len(values)} clients, each on its own mix of labels"]
    if measured:
        ends = [pick(measured, key=values.__getitem__) for pick in (min, max)]
        least, greatest = (f"{n}, {names[n]}" if names else n for n in ends)
        lines += [
            f"{'  mean':<28}{clients['mean']:.4f}",
            f"{'  standard deviation':<28}{clients['standard_deviation']:.4f}",
            f"{'  least':<28}{clients['least']:.4f} (client {least})",
            f"{'  greatest':<28}{clients['greatest']:.4f} (client {greatest})",
        ]
    return lines
