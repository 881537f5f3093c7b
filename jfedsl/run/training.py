"""Training a run in its folder, from its beginning or from its newest checkpoint."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jfedsl.config import Config
from jfedsl.config.canonical import refuse_idle
from jfedsl.engine.checkpoint_layout import from_checkpoint_layout
from jfedsl.errors import Stopped, flag_error
from jfedsl.run import replanning
from jfedsl.run.assemble import Experiment
from jfedsl.run.assemble.description import cuts_of_clients
from jfedsl.run.finished import already_done
from jfedsl.run.hooks import Hook, RunStart, Saved
from jfedsl.run.loop import Compiled, Loop
from jfedsl.run.processes import distributed
from jfedsl.run.processes.compilation import keep_programs
from jfedsl.run.processes.stopping import Stop
from jfedsl.run.restore import prepared
from jfedsl.run.standard_hooks import loggers_of, standard_hooks
from jfedsl.run.storage import ledger, workdir
from jfedsl.run.storage.checkpoint import Checkpoints
from jfedsl.run.storage.fingerprints import agree, hold
from jfedsl.run.storage.kept import CHECKPOINTS
from jfedsl.run.storage.metrics import METRICS, Row, rows_in
from jfedsl.run.summary import ended_text


def train(config: Config, hooks: Sequence[Hook] = ()) -> dict[str, Any]:
    """Trains or resumes a run, and leaves its metrics, checkpoints, summary and pictures.

    Examples:
      >>> from jfedsl import Config, EarlyStopping, train
      >>> summary = train(Config(rounds=100), [EarlyStopping(patience=3)])  # doctest: +SKIP

    Args:
      config: settings; without `workdir` a new folder under runs/ is made, named by date and time.
      hooks: what else acts between the compiled calls, such as
        `jfedsl.run.early_stopping.EarlyStopping` or a user's own `jfedsl.run.hooks.Hook`; each
        serves one call of `train`. A run whose rounds are all done is not opened again, and no hook
        is called.

    Returns:
      The contents of summary.json, with the folder as `workdir`. In a run of several processes, the
      first process returns them, and the others return an empty dictionary.

    Raises:
      UserError: a setting is not allowed, or has no effect in a new run; no folder has been made or
        changed. Only errors that come later leave a folder: a file of the run that is damaged, and
        what `begin` of a hook or logger raises, such as of a service that can no longer be reached.
      DivergedError: a loss or a weight is not finite.
      TrainingError: a checkpoint cannot be written.
      Stopped: a `KeyboardInterrupt`, after SIGINT, SIGTERM or SIGHUP. A checkpoint has been saved
        if any round was completed.
    """
    old = (Path(config.workdir, name) for name in (workdir.CONFIG, CHECKPOINTS))
    if not (config.workdir and any(map(os.path.exists, old))):
        refuse_idle([config])
    return train_setting(config, hooks)


@jax.enable_x64(False)  # a run has the same numbers whatever JAX_ENABLE_X64 is
def train_setting(config: Config, hooks: Sequence[Hook] = ()) -> dict[str, Any]:
    """As `train`, but a setting without effect is allowed.

    For studies: their settings share most flags, and some of these may have no effect in one.
    """
    done = already_done(config)
    if done is not None:
        if config.progress != "none":
            what = f"all {config.rounds} rounds are done"
            if done["rounds"] < config.rounds:
                what = f"ended {ended_text(done)}"
            print(f"workdir: {done['workdir']}\n{what}", flush=True)
        return done
    with Stop() as stop:
        distributed.join(config)
        distributed.start_devices()
        with distributed.ending_together():
            return _train(config, stop, hooks)


def _train(config: Config, stop: Stop, hooks: Sequence[Hook]) -> dict[str, Any]:
    """As `train_setting`, once the processes have joined."""
    distributed.agree(config)
    workdir.check(config)
    keep_programs(config.compilation_cache)
    hooks = [*loggers_of(config), *hooks]
    experiment = prepared(config)
    config = dataclasses.replace(config, clients=experiment.clients)
    agree(experiment.fingerprint)
    with distributed.only_first(lambda: hold(config, experiment.fingerprint)) as folder:
        if config.progress != "none" and distributed.first():
            print("\n".join([f"workdir: {folder}", *experiment.notes]), flush=True)
        try:
            return _train_in(Path(folder), config, experiment, stop, hooks)
        except (Stopped, OSError) as error:
            setattr(error, "folder", folder)  # noqa: B010 (an OSError has no such attribute)
            raise


def _train_in(
    folder: Path, config: Config, experiment: Experiment, stop: Stop, hooks: Sequence[Hook]
) -> dict[str, Any]:
    """As `train_setting`, in a folder that this run holds."""
    stretch = _stretch(folder, config, experiment, stop, hooks)
    while not stretch.is_complete:
        stretch = _stretch(folder, config, stretch.experiment, stop, hooks, stretch.functions)
    if not distributed.first():
        return {}
    entries = stretch.entries
    for hook in reversed(stretch.hooks):
        entries = hook.finish(entries)
    return entries


class _Stretch(NamedTuple):
    """What is left of a run, or of its part between two choices of cuts.

    Attributes:
      experiment: with the cuts that it had.
      functions: of the experiment; None where nothing was left to train.
      hooks: all that took part.
      entries: of the loop, for the summary.
      is_complete: whether the run has ended, and not only the part.
    """

    experiment: Experiment
    functions: Compiled | None
    hooks: list[Hook]
    entries: dict[str, Any]
    is_complete: bool


def _stretch(
    folder: Path, config: Config, experiment: Experiment, stop: Stop, hooks: Sequence[Hook],
    functions: Compiled | None = None,
) -> _Stretch:  # fmt: skip
    """Trains until the end of a run, or until its cuts are to be chosen anew.

    Args:
      folder: of the run.
      config: all settings of the run.
      experiment: the run; with the cuts of the newest checkpoint, where there is one.
      stop: takes the signals.
      hooks: beside the standard ones.
      functions: of the experiment, after the stretch before; None: this is the first one.
    """
    with contextlib.ExitStack() as closing:
        checkpoints = Checkpoints(folder / CHECKPOINTS, config, experiment.fingerprint)
        closing.callback(checkpoints.close)
        start = _start(config, experiment, folder, checkpoints, functions is not None)
        if start.experiment is not experiment:  # other cuts
            experiment, functions = start.experiment, None
        all_hooks = [*standard_hooks(start, stop), *hooks]
        start = start._replace(rows=_rows_before(start))
        for hook in all_hooks:
            closing.push(partial(_close, hook))
            hook.begin(start)
        loop = Loop(start, checkpoints, all_hooks, _next_choice(config, start.round), functions)
        del start  # else its arrays would stay for the whole run
        loop.run(stop)
        entries = loop.entries()
        if loop.is_complete:
            entries |= loop.final_test()
    return _Stretch(experiment, loop.functions, all_hooks, entries, loop.is_complete)


def _next_choice(config: Config, round_: int) -> int:
    """The round after which cuts are chosen anew, or the last one."""
    if config.replan_every is None:
        return config.rounds
    return min((round_ // config.replan_every + 1) * config.replan_every, config.rounds)


def _start(
    config: Config, experiment: Experiment, folder: Path, checkpoints: Checkpoints, goes_on: bool
) -> RunStart:
    """The beginning of a new run, or its newest checkpoint; `goes_on` after a choice of cuts.

    Raises:
      UserError: more rounds than `--rounds` are done, or no checkpoint can be read.
    """
    restored = checkpoints.restore(jax.eval_shape(experiment.init))
    if restored is None:
        return RunStart(config, experiment, folder, 0, experiment.init(), Saved())
    round_, arrays, more, counters = restored
    if round_ > config.rounds:
        raise flag_error("rounds", config.rounds, f"at least the {round_} already done")
    saved = Saved(counters, counters.pop("files"), more)
    experiment, arrays = replanning.resumed(config, experiment, round_, arrays, saved)
    if config.progress != "none" and distributed.first():
        if not goes_on:
            print(f"resuming after round {round_} of {config.rounds}", flush=True)
        if config.replan_every is not None:
            print("\n".join(cuts_of_clients(config, experiment.spec)), flush=True)
    state = from_checkpoint_layout(experiment.spec, arrays)
    return RunStart(config, experiment, folder, round_, state, saved)


def _rows_before(start: RunStart) -> list[Row]:
    """Rows of metrics.csv of the completed rounds, in every process.

    The first process reads them once the run logger has put the file in order; any other one might
    look at it in between.

    Raises:
      UserError: the file is of another build.
    """
    if not start.round:
        return []
    path = start.folder / METRICS
    text = ledger.read(path) if distributed.first() else ""
    return rows_in(distributed.texts(text)[0], path, start.experiment.record)


def _close(hook: Hook, kind: object, error: BaseException | None, trace: object) -> None:
    """Closes a hook at the end of a run, or at the error that ends it."""
    if error is not None:
        hook.on_error(error)
    hook.close()
