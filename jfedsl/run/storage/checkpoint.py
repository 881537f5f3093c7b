"""Checkpoints that survive a kill at any moment: Orbax, checksums, and a fallback.

Several processes share one folder; each writes the arrays of its devices. All resume from the same
checkpoint: the newest one that every process can read.
"""

import gc
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jfedsl.config import Config
from jfedsl.config.canonical import recorded
from jfedsl.data import fingerprint
from jfedsl.data.fingerprint import Fingerprint
from jfedsl.errors import TrainingError, UserError, one_line
from jfedsl.files.checksums import checksums_of, verify
from jfedsl.files.signed import CRC, signed, verified
from jfedsl.run.processes import distributed
from jfedsl.run.processes.stopping import uninterrupted
from jfedsl.run.storage.damage import means_damage
from jfedsl.run.storage.kept import VERSION, steps
from jfedsl.run.storage.names import flatten, merged
from jfedsl.run.storage.quiet import without_tracebacks
from jfedsl.run.storage.workdir import differences

KEEP = 3
RESERVED = ("round", "config", "data", "checksums", "version")  # plain values of every checkpoint
_MOST_REASON = 200  # characters
_ROWS = ("clients.", "memory.", "server.")  # arrays whose rows may depend on the devices


class Checkpoints:
    """The checkpoints of one run, the newest few of them kept.

    The state is saved as a flat dictionary of arrays, named by their path in the state; rows of
    clients are in the order of participants. Plain values and a checksum of every array are JSON
    beside it. The state is restored as arrays on the host, for any number of devices.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        data: Fingerprint | None = None,
        read_only: bool = False,
    ) -> None:
        """Opens a folder, which is made if it is missing; removes folders of unfinished saves.

        Args:
          directory: folder of the checkpoints.
          config: settings of the run. A checkpoint has a copy, and one of another run is refused.
          data: fingerprint of the run's data, also copied and compared; None if it is unknown.
          read_only: change nothing, because the run may still be training.
        """
        self._directory, self._read_only = directory.absolute(), read_only
        self._config, self._data = config, data
        if read_only:
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            if distributed.first():
                for step in _steps(self._directory, whole=False) - _steps(self._directory):
                    (self._directory / str(step)).rmdir()
            options = ocp.CheckpointManagerOptions(
                max_to_keep=KEEP, cleanup_tmp_directories=True, enable_async_checkpointing=False
            )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def save(
        self, round_: int, state: Any, counters: dict[str, Any], more: dict[str, Any] | None = None
    ) -> None:
        """Saves the state after `round_` rounds; returns once it is on disk.

        Args:
          round_: completed rounds.
          state: tree of arrays on devices.
          counters: plain values by name.
          more: arrays on the host by name, none of them empty.

        Raises:
          ValueError: a name in `counters` or `more` is taken by the state or by what is always
            saved.
          KeyboardInterrupt: a signal came; it was held back until the checkpoint was written.
          TrainingError: the checkpoint cannot be written; earlier ones are unchanged.
        """
        arrays, more = flatten(state), more or {}
        plain = checksums_of(arrays, more)
        owner = {"round": round_, "config": self._config.to_json(), "data": self._data}
        counters = merged([counters, owner, {"checksums": plain, "version": VERSION}])
        arrays, counters = merged([arrays, more]), signed(counters)
        with uninterrupted():
            saved = self._write(round_, arrays, counters)
        if not saved:  # Orbax says nothing else when the round is there already
            raise RuntimeError(f"checkpoint {self._directory / str(round_)} was there already")

    def _write(self, round_: int, arrays: dict[str, Any], counters: dict[str, Any]) -> bool:
        state, plain = ocp.args.PyTreeSave(arrays), ocp.args.JsonSave(counters)
        with without_tracebacks():
            try:
                saved: bool = self._manager.save(
                    round_, args=ocp.args.Composite(state=state, counters=plain)
                )
                self._manager.wait_until_finished()
                return saved
            except (OSError, ValueError, RuntimeError) as error:  # such as a full disk
                if distributed.lost(error):
                    raise
                reason = one_line(str(error), _MOST_REASON)
            gc.collect()  # here, where asyncio's report of the failure is muted
        what = f"checkpoint {self._directory / str(round_)} cannot be written ({reason})"
        raise TrainingError(f"{what}; those before it are whole")

    def restore(self, template: Any) -> tuple[int, Any, dict[str, Any], dict[str, Any]] | None:
        """The newest whole checkpoint; None if there are no checkpoints.

        A damaged checkpoint is skipped with a warning and moved aside, so that the resumed run can
        save its round again.

        Args:
          template: a state with the expected structure: arrays or their shapes.

        Returns:
          Completed rounds; the state as arrays on the host, whose numbers of rows may differ from
          the template's; the other arrays; the plain values.

        Raises:
          UserError: all checkpoints are damaged, and the error names the newest; the newest whole
            one is of another run or version; the machine cannot read it now, as with too many open
            files; or processes see different checkpoints.
        """
        damaged: list[tuple[int, str]] = []
        for round_ in self._seen_by_all():
            content, problem = self._try(round_, template)
            problems = map(json.loads, distributed.texts(json.dumps(problem)))
            stops, reason = max(filter(None, problems), default=(False, ""))
            if stops:
                raise UserError(f"checkpoint {self._directory / str(round_)} {reason}")
            if reason:
                damaged.append((round_, reason))
                continue
            for bad, reason in damaged:
                self._set_aside(bad, f"going back to round {round_} ({reason})")
            if damaged:
                distributed.texts("")  # wait, else others would still see the damaged ones
                self._manager.reload()
            assert content is not None
            return round_, *content
        if damaged:
            round_, reason = damaged[0]
            path = self._directory / str(round_)
            raise UserError(f"no whole checkpoint is left; {path} is damaged ({reason})")
        return None

    def _try(self, round_: int, template: Any) -> tuple[Any, tuple[bool, str] | None]:
        """The content of a checkpoint, or whether the run must stop, and the reason."""
        try:
            return self._read(round_, template), None
        except UserError as error:
            return None, (True, str(error))
        except Exception as error:  # a damaged file can make the reader raise any
            reason = one_line(f"{type(error).__name__}: {error}", _MOST_REASON)
            if means_damage(error):
                return None, (False, reason)
            return None, (True, f"cannot be read now ({reason}); nothing was changed, try again")

    def _seen_by_all(self) -> list[int]:
        """Rounds that have a checkpoint, the newest first.

        Raises:
          UserError: processes see different checkpoints.
        """
        here = sorted(_steps(self._directory), reverse=True)
        seen = [json.loads(text) for text in distributed.texts(json.dumps(here))]
        common = set(here).intersection(*seen)
        # A run that is still training may have added or removed one meanwhile.
        if any(set(rounds) != common for rounds in seen) and not (self._read_only and common):
            raise UserError(
                f"{self._directory}: all processes have to see the same checkpoints, not {seen}"
            )
        return sorted(common, reverse=True)

    def _set_aside(self, round_: int, reason: str) -> None:
        path = self._directory / str(round_)
        if self._read_only:
            warnings.warn(f"checkpoint {path} is damaged; {reason}", stacklevel=3)
            return
        if not distributed.first():
            return
        target = self._directory.with_name(f"{self._directory.name}-damaged") / str(round_)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        warnings.warn(f"checkpoint {path} is damaged, moved to {target}; {reason}", stacklevel=3)

    def _read(self, round_: int, template: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        with _reader(self._directory) as manager:

            def item(**arguments: Any) -> Any:
                return manager.restore(round_, args=ocp.args.Composite(**arguments))

            saved = item(counters=ocp.args.JsonRestore()).counters
            counters = verified(saved)
            self._check_owner(round_, counters, CRC in saved)
            checksums = counters.pop("checksums")
            plain = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in checksums}
            arrays = item(state=ocp.args.PyTreeRestore(restore_args=plain)).state
        verify(arrays, checksums)
        leaves = [_like(name, arrays.pop(name), x) for name, x in flatten(template).items()]
        return jax.tree.unflatten(jax.tree.structure(template), leaves), arrays, counters

    def _check_owner(self, round_: int, counters: dict[str, Any], signed_: bool) -> None:
        """Checks that a checkpoint is of this run and version.

        Args:
          round_: the round that names the folder of the checkpoint.
          counters: its plain values; those that are checked are removed.
          signed_: whether they have a checksum.

        Raises:
          UserError: the checkpoint is of another version or run.
          ValueError: it is damaged.
        """
        version = counters.pop("version")
        if version != VERSION:
            age = "an earlier" if version < VERSION else "a later"
            raise UserError(f"is of {age} version (layout {version}; this one reads {VERSION})")
        if not signed_ or counters.pop("round") != round_:
            raise ValueError("it has lost its checksum, or is of another round")
        config = recorded(counters.pop("config"))  # without running the plugins that it names
        differing = differences(config, self._config)
        data = counters.pop("data")
        if data is not None and self._data is not None:
            differing += fingerprint.differences(data, self._data)
        if differing:
            raise UserError(f"is of another run; differing: {', '.join(differing)}")

    def latest(self) -> int | None:
        """Completed rounds at the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def close(self) -> None:
        """Waits for unfinished saves, and closes the folder."""
        self._manager.close()


def _reader(directory: Path) -> ocp.CheckpointManager:
    """A reader for this process alone: if it fails, the other processes do not wait for it."""
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"reader{process}",
    )
    options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=alone)
    return ocp.CheckpointManager(directory, options=options)


def any_in(directory: Path) -> bool:
    """Whether a folder holds a checkpoint, whole or damaged."""
    return bool(_steps(directory))


def _steps(directory: Path, whole: bool = True) -> set[int]:
    """Rounds that have a folder; with `whole` not those with an empty one, as a kill may leave."""
    return {
        step for step in steps(directory) if not whole or any((directory / str(step)).iterdir())
    }


def _like(name: str, array: np.ndarray, wanted: Any) -> np.ndarray:
    """The array, if it has the dtype and shape of `wanted`, perhaps with another number of rows.

    Raises:
      ValueError: it has another dtype or shape.
    """
    shape, needed = array.shape, wanted.shape
    if shape and name.startswith(_ROWS):
        shape, needed = shape[1:], needed[1:]
    if array.dtype != wanted.dtype or array.ndim != len(wanted.shape) or shape != needed:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
    return array
