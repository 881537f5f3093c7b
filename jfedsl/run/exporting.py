"""Export of a trained run's model to files, with what belongs to each client."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfedsl.config.titles import model_title
from jfedsl.engine import client_accuracies
from jfedsl.engine.client_memory import memories
from jfedsl.engine.masks import trained_masks
from jfedsl.engine.parts import client_part, cut_of_client, server_part
from jfedsl.engine.personal import models_differ
from jfedsl.engine.state import RunSpec
from jfedsl.errors import flag_error
from jfedsl.models.description import describe
from jfedsl.models.layers import Variables
from jfedsl.models.steps import MEANINGS
from jfedsl.pruning.cuts import kept_of_held
from jfedsl.run.restore import Run, whole_of
from jfedsl.run.storage import export

_MASKS = (
    "A client's model is the joined one, each parameter of client_masks.npz times its mask. A "
    "channel whose norm scale is masked is absent: statistics of its group are over the others."
)
_PERSONAL = (
    "Parameters of client_personal.npz and statistics of client_statistics.npz stand in a client's "
    "model in the place of those of joined.npz and client.npz, which are means over participants."
)
_OF_CLIENTS = ("clients", "client_names", "joined")  # not in an export, which others may get


def export_model(run: Run, result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes the joined dense model, its two parts, clients' masks and statistics, and a manifest.

    `joined.npz`, `client.npz` and `server.npz` hold arrays named `params.LAYER...`,
    `stats.LAYER...` and, for frozen variables, `frozen.LAYER...`. With pruning, `client_masks.npz`
    holds a bool array `[V, ...]` for each pruned parameter. With local statistics,
    `client_statistics.npz` holds them, `[V, ...]`, with personal layers `client_personal.npz` their
    parameters, and the other files the means over the participants. What belongs to client n is at
    index `model_of_client[n]`, which the manifest has.

    Args:
      run: the run at a checkpoint.
      result: of `assess`; its accuracies go into the manifest.
      folder: made if it is missing.

    Returns:
      The files written.

    Raises:
      UserError: the folder cannot be written, or has a manifest that is not of an export.
    """
    spec, whole = run.experiment.spec, whole_of(run)
    on_client, on_server = (partial(part, spec) for part in (client_part, server_part))
    files: dict[str, export.Arrays] = {
        export.JOINED: export.named(spec.model, whole),
        export.CLIENT: export.named(on_client(spec.model), Variables(*map(on_client, whole))),
        export.SERVER: export.named(on_server(spec.model), Variables(*map(on_server, whole))),
    }
    groups, model = client_accuracies.distinct_models(spec, run.state)
    first = np.concatenate(groups)
    by_client = {export.CLIENT_MASKS: _masks(run, first.astype(np.int32)), **_local(run, first)}
    files |= {name: arrays for name, arrays in by_client.items() if arrays}
    facts = {**_facts(run, result), "model_of_client": model.tolist()}
    try:
        export.write(folder, files, facts)
    except OSError as error:
        raise flag_error("export_dir", folder, "a writable folder", reason=str(error)) from error
    return [folder / name for name in (*files, export.MANIFEST)]


def _masks(run: Run, clients: np.ndarray) -> export.Arrays:
    """Masks of the parameters, bool `[V, ...]`, without those that mask nothing."""
    _, experiment, state = run
    spec = experiment.spec

    def kept(client: Any) -> Any:
        return kept_of_held(spec.pruner, trained_masks(spec, experiment.key, state, client))

    masks = experiment.jit(jax.vmap(kept))(clients)
    named = {} if masks is None else _named(spec, params=masks)
    return {name: mask for name, mask in named.items() if not np.all(mask)}


def _local(run: Run, clients: np.ndarray) -> dict[str, export.Arrays]:
    """What stays with clients, `[V, ...]`, by file: statistics and parameters."""
    spec = run.experiment.spec
    if not models_differ(spec):
        return {}
    memory = jax.tree.map(lambda x: x[clients], memories(spec, run.state))
    files: dict[str, export.Arrays] = {}
    if memory.stats is not None:
        files[export.CLIENT_STATISTICS] = _named(spec, stats=memory.stats)
    if memory.params is not None:
        files[export.CLIENT_PERSONAL] = _named(spec, params=memory.params)
    return files


def _named(spec: RunSpec, **kind: Any) -> dict[str, Any]:
    """Leaves of a tree like clients' `params` or `stats`, by name, without auxiliary layers."""
    held = spec.cut + spec.tail
    nothing: Any = ({},) * held
    variables = {"params": nothing, "stats": nothing} | {k: tree[:held] for k, tree in kind.items()}
    return export.named(client_part(spec, spec.model), Variables(**variables))


def _facts(run: Run, result: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of the manifest, with which a program can use the arrays."""
    config, experiment, _ = run
    spec, scale = experiment.spec, experiment.scale or experiment.data.pixels
    whole = describe(spec.model, experiment.image[None])
    meanings = {op: text for op, text in MEANINGS.items() if f'"op": "{op}"' in json.dumps(whole)}
    return {
        "model": model_title(config),
        **({"pretrained": config.pretrained} if config.pretrained else {}),
        "norm": config.norm,
        "cut": spec.model[spec.cut - 1].name if 0 < spec.cut < len(spec.model) else None,
        **({} if spec.cuts is None else {"cut_of_client": cut_of_client(spec)}),
        "client_layers": [layer.name for layer in client_part(spec, spec.model)],
        "server_layers": [layer.name for layer in server_part(spec, spec.model)],
        "classes": spec.classes,
        "dataset": config.dataset,
        "input": {
            "shape": list(experiment.image.shape),
            # None where the model takes inputs as they are.
            "mean": None if scale.mean is None else np.asarray(scale.mean).tolist(),
            "standard_deviation": None if scale.std is None else np.asarray(scale.std).tolist(),
            "normalised": "(x - mean) / standard_deviation by the last axis; null: x as it is",
            "integer_inputs": spec.model[0].integer_inputs,
        },
        "layers": whole,
        "meanings": meanings,
        "masks": _MASKS,
        **({} if spec.personal is None else {"personal": _PERSONAL}),
        **{name: value for name, value in result.items() if name not in _OF_CLIENTS},
    }
