"""Earlier runs, restored from their workdir, and the weights that a new run takes from one."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfedsl.config import Config
from jfedsl.data.partition import Partition
from jfedsl.engine.adapter_averaging import with_kernels
from jfedsl.engine.averaging import joined, merge_participants
from jfedsl.engine.checkpoint_layout import from_checkpoint_layout
from jfedsl.engine.state import State
from jfedsl.errors import UserError, flag_error
from jfedsl.files.paths import Name, local, path_error
from jfedsl.models.layers import Model, Variables
from jfedsl.run.assemble import Experiment, build
from jfedsl.run.client_store import with_memories
from jfedsl.run.processes import distributed
from jfedsl.run.storage import export, fingerprints
from jfedsl.run.storage.checkpoint import Checkpoints, any_in
from jfedsl.run.storage.kept import CHECKPOINTS, CUTS, newest
from jfedsl.run.storage.workdir import CONFIG, read_config
from jfedsl.sharding.slots import put


class Run(NamedTuple):
    """A run at a checkpoint."""

    config: Config
    experiment: Experiment
    state: State


def restore_run(
    workdir: Name, data_dir: Name | None = None, plugin: Name = "", flag: str = "workdir"
) -> Run:
    """A run at its newest checkpoint; a warning names data and plugins that have changed.

    Args:
      workdir: folder of the run.
      data_dir: folder of its data set, if that has moved.
      plugin: its plugins that have moved.
      flag: name, for errors, of the flag that gave the folder; each but `workdir` takes an export
        too.

    Raises:
      UserError: there is no run, or it has no checkpoint that can be read.
    """
    workdir = local(flag, workdir)
    config = read_config(workdir, plugin)
    if config is None or not any_in(workdir / CHECKPOINTS):
        export_too = "" if flag == "workdir" else " or an export"
        raise path_error(flag, workdir, f"the workdir of a run with a checkpoint{export_too}")
    if data_dir is not None:
        config = dataclasses.replace(config, data_dir=str(data_dir))
    experiment = build(config, cuts=chosen_cuts(workdir))
    checkpoints = Checkpoints(workdir / CHECKPOINTS, config, read_only=True)
    for change in fingerprints.changes(workdir, experiment.fingerprint):
        warnings.warn(f"{workdir}: {change}", stacklevel=2)
    restored = checkpoints.restore(jax.eval_shape(experiment.init))
    assert restored is not None
    state = from_checkpoint_layout(experiment.spec, restored[1])
    return Run(config, experiment, with_memories(experiment, state, restored[2]))


def chosen_cuts(workdir: Name) -> np.ndarray | None:
    """The cuts by resource of each client at the newest checkpoint, int `[C]`; None without any.

    Cuts are not computed again: another build or machine might choose otherwise.
    """
    saved = newest(Path(workdir)) if workdir else None
    return None if saved is None or CUTS not in saved else np.asarray(saved[CUTS])


def weights_of(
    folder: Name, data_dir: Name, model: Model, fresh: Variables, plugin: Name = ""
) -> Variables:
    """The dense model of an earlier run, at any cut.

    Args:
      folder: workdir of the earlier run, or an export.
      data_dir: folder of the earlier run's data set; an export needs none.
      model: the model that the weights are for.
      fresh: variables of that model, for their structure and shapes. Its frozen ones are kept: no
        checkpoint has them, so the earlier run must have had the same.
      plugin: plugins of the earlier run that have moved.

    Raises:
      UserError: the folder holds no run or export, or one of another model.
    """
    folder = local("init_from", folder)
    if is_export(folder):
        arrays = _exported(folder)
    else:
        run = restore_run(folder, data_dir, plugin, "init_from")
        arrays = export.named(run.experiment.spec.model, whole_of(run))
    try:
        return _trained(arrays, model, fresh)
    except ValueError as error:
        allowed = "a run or export of the same model"
        raise flag_error("init_from", folder, allowed, reason=str(error)) from None


def is_export(folder: Path) -> bool:
    """Whether a folder is an export, and not of a run, even one that has lost its config."""
    run = (folder / CONFIG).exists() or any_in(folder / CHECKPOINTS)
    return (folder / export.MANIFEST).exists() and not run


def whole_of(run: Run) -> Variables:
    """The joined dense model of a run: all layers."""
    spec, data = run.experiment.spec, run.experiment.data

    @jax.jit
    def trained(partition: Partition, state: State) -> tuple[Variables, Any]:
        merged = merge_participants(spec, partition, state)[2]
        return joined(spec, partition, state), merged.kernels

    whole, kernels = trained(data.partition, run.state)
    return whole._replace(frozen=with_kernels(data.frozen, kernels))


def _trained(arrays: export.Arrays, model: Model, fresh: Variables) -> Variables:
    """As `fitted`, with the frozen variables of `fresh`.

    Raises:
      ValueError: as `fitted`, or the arrays have other frozen variables.
    """
    wanted = export.named(model, fresh)
    for name in sorted(k for k in arrays if k.startswith("frozen.")):
        here, there = np.asarray(wanted.get(name, ())), np.asarray(arrays[name])
        if here.shape != there.shape or not np.array_equal(here, there.astype(here.dtype)):
            equal = "frozen variables must be equal, and --adapter_averaging=stack changes kernels"
            raise ValueError(f"{name} has other values in that run; {equal}")
    variables = {k: v for k, v in arrays.items() if not k.startswith("frozen.")}
    return fitted(variables, model, fresh._replace(frozen=()))._replace(frozen=fresh.frozen)


def fitted(arrays: export.Arrays, model: Model, fresh: Variables) -> Variables:
    """Arrays by name as variables of a model.

    Args:
      arrays: by the names of `export.named`.
      model: the model that they are for.
      fresh: variables of the model, for their structure and shapes.

    Raises:
      ValueError: an array is missing, has another shape, or belongs to no layer; its name.
    """
    wanted = export.named(model, fresh)
    shapes, needed = ({k: np.shape(v) for k, v in tree.items()} for tree in (arrays, wanted))
    if shapes != needed:
        name = min({k for k in shapes | needed if shapes.get(k) != needed.get(k)})
        here, there = (str(list(s[name])) if name in s else "missing" for s in (needed, shapes))
        raise ValueError(f"{name} is {there} there, {here} here")
    leaves = [jnp.asarray(arrays[name], like.dtype) for name, like in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _exported(folder: Path) -> dict[str, np.ndarray]:
    try:
        return export.read(folder)
    except UserError as error:
        raise flag_error("init_from", folder, "an intact export", reason=str(error)) from error


def prepared(config: Config, cuts: np.ndarray | None = None) -> Experiment:
    """The experiment of a config, with the weights of `--init_from`.

    Args:
      config: all settings of the run.
      cuts: by resource, of each client, int `[C]`; None: those of the newest checkpoint, if there
        is one.

    Raises:
      UserError: a setting is not allowed.
    """
    mesh = distributed.mesh_of(config)
    experiment = build(config, mesh, chosen_cuts(config.workdir) if cuts is None else cuts)
    if not config.init_from:
        return experiment
    started = bool(config.workdir) and any_in(Path(config.workdir) / CHECKPOINTS)
    if json.loads(distributed.texts(json.dumps(started))[0]):
        return experiment
    initial = weights_of(
        Path(config.init_from),
        config.data_dir,
        experiment.spec.model,
        experiment.initial,
        config.plugin,
    )
    return experiment._replace(initial=put(mesh, initial))
