"""Earlier runs, opened again by their workdir."""

import dataclasses
from pathlib import Path

import jax

from jfedsl.build import Experiment, build
from jfedsl.errors import flag_error
from jfedsl.models.layers import Variables
from jfedsl.protocol.aggregation import joined
from jfedsl.protocol.state import State
from jfedsl.runtime.checkpoint import Checkpoints, any_in, flatten
from jfedsl.runtime.workdir import read_config

CHECKPOINTS = "checkpoints"


def restore_run(workdir: Path, flag: str, data_dir: str | None = None) -> tuple[Experiment, State]:
    """The newest state of a run.

    Args:
      workdir: of the run.
      flag: that named the folder, for errors.
      data_dir: where its data set lies now; default where it lay then.

    Raises:
      UserError: there is no run, or it has no checkpoint that can be read.
    """
    config = read_config(workdir)
    if config is None or not any_in(workdir / CHECKPOINTS):
        raise flag_error(flag, workdir, "the workdir of a run with a checkpoint")
    if data_dir is not None:
        config = dataclasses.replace(config, data_dir=data_dir)
    experiment = build(config)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, read_only=True)
    restored = checkpoints.restore(jax.eval_shape(experiment.init))
    assert restored is not None
    return experiment, restored[1]


def weights_of(workdir: Path, data_dir: str, fresh: Variables) -> Variables:
    """The whole dense model of an earlier run, wherever that was cut.

    Args:
      workdir: of the earlier run.
      data_dir: where its data set lies.
      fresh: gives the shapes it must have.

    Raises:
      UserError: no such run, or another model.
    """
    experiment, state = restore_run(workdir, "init_from", data_dir)
    found = jax.jit(lambda p, s: joined(experiment.scheme, p, s))(experiment.data.partition, state)
    there, here = ({k: v.shape for k, v in flatten(v).items()} for v in (found, fresh))
    if there != here:
        names = sorted(there.keys() ^ here.keys() or {k for k in here if there[k] != here[k]})
        raise flag_error("init_from", workdir, f"a run of the same model; {names[0]} differs")
    return found
