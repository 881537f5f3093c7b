"""Checkpoints that survive a kill at any moment: Orbax, checksums, and a fallback.

Of several processes, which have to see the same folder, each writes what its devices have. All go
on from the same checkpoint: the newest one that every process can read.
"""

import gc
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
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
from jfedsl.run.storage.quiet import without_tracebacks
from jfedsl.run.storage.workdir import differences

KEEP = 3
_MOST_REASON = 200  # characters
_ROWS = ("clients.", "memory.", "server.")  # whose rows depend on devices, or can


class Checkpoints:
    """The checkpoints of one run, the newest few of them kept.

    The state is saved as a flat dict of arrays named by their place in the state, those of clients
    in the order of participants; counters and texts, with a checksum of every array, as JSON beside
    it. It is read as arrays of the host, as many devices as there may be now.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        data: Fingerprint | None = None,
        read_only: bool = False,
    ) -> None:
        """Opens a folder, made if need be; folders of unfinished saves are removed.

        Args:
          directory: of the checkpoints.
          config: of the run. Checkpoints hold it, and those of another run are refused.
          data: what tells the run's data from others, likewise; None where that is not known.
          read_only: change nothing, for the folder of a run that may be going on.
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
          round_: rounds completed.
          state: tree of arrays on devices.
          counters: plain values.
          more: arrays on the host by name, none of them empty.

        Raises:
          ValueError: a name in `counters` or `more` is taken by the state or by what is always
            saved.
          KeyboardInterrupt: interrupted meanwhile; writing that had begun has been finished.
          TrainingError: it cannot be written; those before it are as they were.
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
            gc.collect()  # asyncio speaks of what failed as it is collected
        what = f"checkpoint {self._directory / str(round_)} cannot be written ({reason})"
        raise TrainingError(f"{what}; those before it are whole")

    def restore(self, template: Any) -> tuple[int, Any, dict[str, Any], dict[str, Any]] | None:
        """The newest whole checkpoint; None if there is none at all.

        A damaged one is passed over with a warning and moved aside, so that the resumed run can
        save that round again.

        Args:
          template: a state of the right structure, arrays or their shapes.

        Returns:
          Rounds completed, the state as arrays of the host, which may have other numbers of rows
          than the template, the other arrays, and counters.

        Raises:
          UserError: there are checkpoints, all of them damaged; names the newest. Or the newest
            whole one is of another run or version. Or reading fails for a reason that says nothing
            of the checkpoint, such as too many open files. Or processes see different ones.
        """
        damaged: list[tuple[int, str]] = []
        for round_ in self._seen_by_all():
            found, problem = self._try(round_, template)
            every = map(json.loads, distributed.texts(json.dumps(problem)))
            stops, reason = max(filter(None, every), default=(False, ""))
            if stops:
                raise UserError(f"checkpoint {self._directory / str(round_)} {reason}")
            if reason:
                damaged.append((round_, reason))
                continue
            for bad, reason in damaged:
                self._set_aside(bad, f"going back to round {round_} ({reason})")
            if damaged:
                distributed.texts("")  # else others would see the damaged ones still
                self._manager.reload()
            assert found is not None
            return round_, *found
        if damaged:
            round_, reason = damaged[0]
            path = self._directory / str(round_)
            raise UserError(f"no whole checkpoint is left; {path} is damaged ({reason})")
        return None

    def _try(self, round_: int, template: Any) -> tuple[Any, tuple[bool, str] | None]:
        """A checkpoint, or whether the run has to stop and why the checkpoint cannot be used."""
        try:
            return self._read(round_, template), None
        except UserError as error:
            return None, (True, str(error))
        except Exception as error:  # whatever a damaged file makes the reader raise
            reason = one_line(f"{type(error).__name__}: {error}", _MOST_REASON)
            if means_damage(error):
                return None, (False, reason)
            return None, (True, f"cannot be read now ({reason}); nothing was changed, try again")

    def _seen_by_all(self) -> list[int]:
        """Rounds that have a checkpoint, the newest first.

        Raises:
          UserError: not all processes see the same.
        """
        own = sorted(_steps(self._directory), reverse=True)
        every = [json.loads(text) for text in distributed.texts(json.dumps(own))]
        common = set(own).intersection(*every)
        # Of a run that goes on, checkpoints may come and go in between.
        if any(set(found) != common for found in every) and not (self._read_only and common):
            raise UserError(
                f"{self._directory}: all processes have to see the same checkpoints, not {every}"
            )
        return sorted(common, reverse=True)

    def _set_aside(self, round_: int, reason: str) -> None:
        place = self._directory / str(round_)
        if self._read_only:
            warnings.warn(f"checkpoint {place} is damaged; {reason}", stacklevel=3)
            return
        if not distributed.first():
            return
        target = self._directory.with_name(f"{self._directory.name}-damaged") / str(round_)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        place.rename(target)
        warnings.warn(f"checkpoint {place} is damaged, moved to {target}; {reason}", stacklevel=3)

    def _read(self, round_: int, template: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        with _reader(self._directory) as manager:

            def item(**arguments: Any) -> Any:
                return manager.restore(round_, args=ocp.args.Composite(**arguments))

            found = item(counters=ocp.args.JsonRestore()).counters
            counters = verified(found)
            self._check_owner(round_, counters, CRC in found)
            checksums = counters.pop("checksums")
            plain = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in checksums}
            arrays = item(state=ocp.args.PyTreeRestore(restore_args=plain)).state
        verify(arrays, checksums)
        leaves = [_like(name, arrays.pop(name), x) for name, x in flatten(template).items()]
        return jax.tree.unflatten(jax.tree.structure(template), leaves), arrays, counters

    def _check_owner(self, round_: int, counters: dict[str, Any], signed_: bool) -> None:
        """Takes out of a checkpoint's plain values what tells whose they are, and checks it.

        Raises:
          UserError: they are of another layout or run.
          ValueError: they are damaged.
        """
        version = counters.pop("version")
        if version != VERSION:
            age = "an earlier" if version < VERSION else "a later"
            raise UserError(f"is of {age} version (layout {version}; this one reads {VERSION})")
        if not signed_ or counters.pop("round") != round_:
            raise ValueError("it has lost its checksum, or is of another round")
        own = recorded(counters.pop("config"))  # which runs no plugin that it names
        differing = differences(own, self._config)
        data = counters.pop("data")
        if data is not None and self._data is not None:
            differing += fingerprint.differences(data, self._data)
        if differing:
            raise UserError(f"is of another run; differing: {', '.join(differing)}")

    def latest(self) -> int | None:
        """Rounds completed at the newest checkpoint."""
        return self._manager.latest_step()

    def close(self) -> None:
        """Waits for what is being saved and releases the folder."""
        self._manager.close()


def _reader(directory: Path) -> ocp.CheckpointManager:
    """Reads for this process alone: if it cannot, the others are not left waiting."""
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"reader{own}"
    )
    options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=alone)
    return ocp.CheckpointManager(directory, options=options)


def any_in(directory: Path) -> bool:
    """Whether a folder holds a checkpoint, whole or damaged."""
    return bool(_steps(directory))


def _steps(directory: Path, whole: bool = True) -> set[int]:
    """Rounds that have a folder; `whole` leaves out the empty ones that a kill can leave."""
    return {
        step for step in steps(directory) if not whole or any((directory / str(step)).iterdir())
    }


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All entries of several mappings.

    Raises:
      ValueError: two of them have the same name.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        if clash := merged.keys() & part.keys():
            raise ValueError(f"two parts of a run save {min(clash)!r} in a checkpoint; rename one")
        merged |= part
    return merged


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by their place in the tree, in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _like(name: str, array: np.ndarray, wanted: Any) -> np.ndarray:
    """The array, if it is what is wanted but for the number of its rows.

    Raises:
      ValueError: it is not.
    """
    found, needed = array.shape, wanted.shape
    if found and name.startswith(_ROWS):
        found, needed = found[1:], needed[1:]
    if array.dtype != wanted.dtype or array.ndim != len(wanted.shape) or found != needed:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
    return array
