"""What a run has reached, client by client, and its model as files for other programs."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfedsl.data.partition import label_counts
from jfedsl.errors import flag_error
from jfedsl.models import layers
from jfedsl.models.layers import Variables
from jfedsl.protocol import evaluation
from jfedsl.protocol.aggregation import joined, masks_of
from jfedsl.runs import Run, restore_run
from jfedsl.runtime import export
from jfedsl.runtime.workdir import write_atomically

Result = dict[str, Any]


def evaluate_run(workdir: Path, export_dir: Path, data_dir: str | None = None) -> Result:
    """Assesses the newest checkpoint of a run, into its evaluation.json, and exports its model.

    Args:
      workdir: of the run, which may be going on.
      export_dir: for the model's files.
      data_dir: where the run's data set lies now; default where it lay then.

    Returns:
      What `assess` found.

    Raises:
      UserError: no run, or a folder that cannot be written.
    """
    run = restore_run(workdir, data_dir)
    result = assess(run)
    export_model(run, result, export_dir)
    try:
        write_atomically(workdir / "evaluation.json", json.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise flag_error("workdir", workdir, f"a folder to write to ({error})") from error
    return result


def assess(run: Run) -> Result:
    """Accuracy of a run on the test set and for every client on a mix of labels like its own.

    A client's accuracy is that of the model it would use, with its own masks and statistics, on
    each class of the test set, averaged with the client's shares of the classes: the accuracy to
    expect on test data that is distributed as its training data.

    Returns:
      Plain values: round, test_loss, test_accuracy, test_accuracy_dense as in metrics.csv, and
      clients: mean, standard deviation, least, greatest and the accuracies in client order.
    """
    experiment, state = run.experiment, run.state
    scheme, data, test = experiment.scheme, experiment.data, experiment.test
    result = jax.device_get(experiment.evaluate()(data, state, test))
    first, model = evaluation.distinct_models(scheme, state)
    measure = jax.jit(
        lambda data, state, test, clients: evaluation.class_accuracies(
            scheme, data, experiment.key, state, test, clients
        )
    )
    accuracies = np.asarray(measure(data, state, test, first.astype(np.int32)), np.float64)[model]
    counts = label_counts(data.partition, data.labels, scheme.classes)
    own = _expected(accuracies, counts)
    measured = own[np.isfinite(own)]
    return {
        "round": int(state.round),
        **{name: float(value) for name, value in vars(result).items()},
        "clients": {
            "mean": float(measured.mean()),
            "standard_deviation": float(measured.std()),
            "least": float(measured.min()),
            "greatest": float(measured.max()),
            "accuracy": [float(value) if np.isfinite(value) else None for value in own],
        },
    }


def _expected(accuracies: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means over classes, weighted by each client's examples of those that were tested.

    Args:
      accuracies: `[C, classes]`, NaN for a class without test examples.
      counts: examples, `[C, classes]`.

    Returns:
      float64 `[C]`, NaN for a client none of whose classes were tested.
    """
    known = np.isfinite(accuracies)
    weights = np.where(known, counts, 0)
    correct = np.sum(weights * np.where(known, accuracies, 0.0), axis=1)
    total = weights.sum(axis=1)
    return np.where(total > 0, correct / np.maximum(total, 1), np.nan)


def export_model(run: Run, result: Result, folder: Path) -> list[Path]:
    """Writes the joined dense model, its halves, clients' masks and a manifest as files.

    `joined.npz`, `client.npz` and `server.npz` hold arrays by `params.LAYER...` and
    `stats.LAYER...`. `client_masks.npz`, where there is pruning, holds a bool array `[V, ...]` for
    each prunable weight; client n's are at `model_of_client[n]` of the manifest.

    Args:
      run: a run.
      result: of `assess`; its accuracies go into the manifest.
      folder: made if need be.

    Returns:
      The files written.

    Raises:
      UserError: the folder cannot be written.
    """
    scheme, data = run.experiment.scheme, run.experiment.data
    whole = jax.jit(lambda data, state: joined(scheme, data.partition, state))(data, run.state)
    arrays = {name: np.asarray(a) for name, a in export.named(scheme.model, whole).items()}
    own = {layer.name for layer in scheme.model[: scheme.cut]}
    client = {name: a for name, a in arrays.items() if name.split(".")[1] in own}
    server = {name: a for name, a in arrays.items() if name not in client}
    files: dict[str, export.Arrays] = {
        export.JOINED: arrays, "client.npz": client, "server.npz": server
    }  # fmt: skip
    facts = _facts(run, result)
    if scheme.pruner is not None:
        first, model = evaluation.distinct_models(scheme, run.state)
        files["client_masks.npz"] = _masks(run, first.astype(np.int32))
        facts["model_of_client"] = model.tolist()
    try:
        export.write(folder, files, facts)
    except OSError as error:
        raise flag_error("export_dir", folder, f"a folder to write to ({error})") from error
    return [folder / name for name in (*files, export.MANIFEST)]


def _masks(run: Run, clients: np.ndarray) -> dict[str, np.ndarray]:
    """Masks of prunable weights, bool `[V, ...]`, by the names of the weights."""
    _, experiment, state = run
    scheme, own = experiment.scheme, state.aggregator.params
    masks = jax.jit(jax.vmap(lambda n: masks_of(scheme, experiment.key, state, n)))(clients)
    flags = layers.prunable(own, len(scheme.model))
    masks, flags = (
        export.named(scheme.model, Variables(tree, ({},) * scheme.cut)) for tree in (masks, flags)
    )
    return {name: np.asarray(mask) for name, mask in masks.items() if flags[name]}


def _facts(run: Run, result: Result) -> dict[str, Any]:
    """What a program needs to know to use the arrays."""
    config, experiment, _ = run
    scheme, pixels = experiment.scheme, experiment.data.pixels
    return {
        "model": config.model,
        "norm": config.norm,
        "cut": scheme.model[scheme.cut - 1].name,
        "client_layers": [layer.name for layer in scheme.model[: scheme.cut]],
        "server_layers": [layer.name for layer in scheme.model[scheme.cut :]],
        "classes": scheme.classes,
        "dataset": config.dataset,
        "input": {
            "shape": list(experiment.image.shape),
            "mean": np.asarray(pixels.mean).tolist(),
            "standard_deviation": np.asarray(pixels.std).tolist(),
        },
        **{name: value for name, value in result.items() if name != "clients"},
    }


def table(result: Result) -> str:
    """A short table of what `assess` found."""
    clients = result["clients"]
    own = [np.nan if value is None else value for value in clients["accuracy"]]
    worst, best = int(np.nanargmin(own)), int(np.nanargmax(own))
    return "\n".join(
        (
            f"after round {result['round']}",
            f"{'test accuracy':<28}{result['test_accuracy']:.4f}",
            f"{'without masks':<28}{result['test_accuracy_dense']:.4f}",
            f"{'test loss':<28}{result['test_loss']:.4f}",
            f"over {len(own)} clients, each on its own mix of labels",
            f"{'  mean':<28}{clients['mean']:.4f}",
            f"{'  standard deviation':<28}{clients['standard_deviation']:.4f}",
            f"{'  least':<28}{clients['least']:.4f} (client {worst})",
            f"{'  greatest':<28}{clients['greatest']:.4f} (client {best})",
        )
    )
