"""Checkpoints that survive a kill at any moment: Orbax, checksums, and a fallback.

Of several processes, which have to see the same folder, each writes what its devices have. All go
on from the same checkpoint: the newest one that every process can read.
"""

import contextlib
import json
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jfedsl.errors import UserError
from jfedsl.runtime import distributed

KEEP = 3
_MOST_REASON = 200  # characters
VERSION = 2  # of how a state is laid out
_ROWS = ("clients.", "memory.", "server.")  # whose rows depend on devices, or can


class Checkpoints:
    """The checkpoints of one run, the newest few of them kept.

    The state is saved as a flat dict of arrays named by their place in the state, those of clients
    in the order of participants; counters and texts, with a checksum of every array, as JSON beside
    it. It is read as arrays of the host, as many devices as there may be now.
    """

    def __init__(self, directory: Path, read_only: bool = False) -> None:
        """Opens a folder, made if need be; folders of unfinished saves are removed.

        Args:
          directory: of the checkpoints.
          read_only: change nothing, for the folder of a run that may be going on.
        """
        self._directory, self._read_only = directory.absolute(), read_only
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
          more: arrays of the host by names that the state does not have, none of them empty.

        Raises:
          KeyboardInterrupt: interrupted meanwhile; writing that had begun has been finished.
        """
        arrays, more = flatten(state), more or {}
        checksums = jax.device_get(_checksums(arrays))
        checksums |= {name: _checksum(np, array) for name, array in more.items()}
        plain = {name: int(checksum) for name, checksum in checksums.items()}
        arrays, counters = arrays | more, {**counters, "checksums": plain, "version": VERSION}
        with _uninterrupted():
            saved = self._manager.save(
                round_,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(arrays), counters=ocp.args.JsonSave(counters)
                ),
            )
            self._manager.wait_until_finished()
        if not saved:  # Orbax says nothing else when the round is there already
            raise RuntimeError(f"checkpoint {self._directory / str(round_)} was there already")

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
          UserError: there are checkpoints, all of them damaged; names the newest. Or processes see
            different ones.
        """
        damaged: list[tuple[int, str]] = []
        for round_ in self._seen_by_all():
            found, reason = None, ""
            try:
                found = self._read(round_, template)
            except Exception as error:  # whatever a damaged file makes the reader raise
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_MOST_REASON]
            reason = next(filter(None, distributed.texts(reason)), "")
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
            reason = f"damaged, or of another version ({reason})"
            raise UserError(f"no whole checkpoint is left; {path} is {reason}")
        return None

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

            counters = item(counters=ocp.args.JsonRestore()).counters
            if counters.pop("version", None) != VERSION:
                raise ValueError(f"its layout is not {VERSION}, which this program reads")
            checksums = counters.pop("checksums")
            plain = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in checksums}
            arrays = item(state=ocp.args.PyTreeRestore(restore_args=plain)).state
        for name, checksum in checksums.items():
            if _checksum(np, arrays[name]) != checksum:
                raise ValueError(f"checksum of {name} differs")
        leaves = [_like(name, arrays.pop(name), x) for name, x in flatten(template).items()]
        return jax.tree.unflatten(jax.tree.structure(template), leaves), arrays, counters

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


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds an interruption back until the end; Orbax's threads fail noisily in the middle."""
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before in (None, signal.SIG_IGN):
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)


def any_in(directory: Path) -> bool:
    """Whether a folder holds a checkpoint, whole or damaged."""
    return bool(_steps(directory))


def _steps(directory: Path, whole: bool = True) -> set[int]:
    """Rounds that have a folder; `whole` leaves out the empty ones that a kill can leave."""
    folders = [f for f in directory.iterdir() if f.name.isdigit()] if directory.is_dir() else []
    return {int(f.name) for f in folders if not whole or any(f.iterdir())}


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


@jax.jit
def _checksums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: _checksum(jnp, array) for name, array in arrays.items()}


def _checksum(xp: Any, array: Any) -> Any:
    """Changes with every bit: the words, each times an odd number of its own, summed up.

    The same where devices have parts of the array, which are not brought together for it.
    """
    array = array.reshape(array.shape or (1,))
    if array.dtype.itemsize == 4:
        bits = array.view(xp.uint32)
    elif array.dtype.itemsize == 2:
        bits = array.view(xp.uint16).astype(xp.uint32)
    else:
        bits = array.astype(xp.uint32)
    position = xp.arange(array.size, dtype=xp.uint32).reshape(array.shape)
    mixed = (bits ^ (bits >> 15)) * (position * xp.uint32(2) + xp.uint32(0x9E3779B1))
    return xp.sum(mixed, dtype=xp.uint32)
