"""Memories of clients on the host, moved to and from the devices while these compute."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jfedsl.engine.client_memory import exchange_memories, memory_of
from jfedsl.engine.participants import draw_participants
from jfedsl.engine.personal import models_differ
from jfedsl.engine.state import State
from jfedsl.run.assemble import Experiment
from jfedsl.run.hooks import Hook, RunStart, Saved
from jfedsl.run.storage.names import flatten
from jfedsl.sharding.slots import SHARDED, put

_FIRST_CAPACITY = 64  # rows
_PREFIX, _IDS = "stored.", "stored_clients"  # names in a checkpoint


class ClientStore:
    """A row of arrays for each client that has ever taken part; any other client has the fresh row.

    Attributes:
      ids: numbers of the clients that have taken part, int64, in the order of their rows.
    """

    def __init__(self, fresh: Any, clients: int) -> None:
        """Starts empty.

        Args:
          fresh: the row of a client that has never taken part, a tree of arrays.
          clients: C.
        """
        self._fresh, self._structure = jax.tree.flatten(fresh)
        self._row = np.full(clients, -1, np.int64)
        self.ids = np.empty(0, np.int64)
        self._arrays = [np.empty((0, *x.shape), x.dtype) for x in self._fresh]

    def read(self, ids: np.ndarray) -> Any:
        """Rows of clients `ids[K]`: a tree of new arrays `[K, ...]`."""
        rows = self._row[ids]
        known = rows >= 0

        def read_leaf(array: np.ndarray, fresh: np.ndarray) -> np.ndarray:
            out = np.broadcast_to(fresh, (len(ids), *fresh.shape)).copy()
            out[known] = array[rows[known]]
            return out

        leaves = map(read_leaf, self._arrays, self._fresh)
        return jax.tree.unflatten(self._structure, list(leaves))

    def write(self, ids: np.ndarray, rows: Any) -> None:
        """Writes rows of clients `ids[K]`: a tree of arrays `[K, ...]`."""
        new = ids[self._row[ids] < 0]
        self._row[new] = len(self.ids) + np.arange(len(new))
        self.ids = np.concatenate([self.ids, new])
        for n, (array, leaf) in enumerate(zip(self._arrays, jax.tree.leaves(rows), strict=True)):
            if len(array) < len(self.ids):  # doubled, so that rows are rarely copied
                capacity = max(_FIRST_CAPACITY, 2 * len(self.ids))
                grown = np.empty((capacity, *array.shape[1:]), array.dtype)
                grown[: len(array)] = array
                self._arrays[n] = array = grown
            array[self._row[ids]] = leaf


def _restored(experiment: Experiment, arrays: Mapping[str, Any]) -> ClientStore:
    """The store that a checkpoint holds; an empty one if it holds none.

    Args:
      experiment: the run, put together.
      arrays: of the checkpoint, by name.
    """
    spec = experiment.spec
    fresh = jax.device_get(jax.jit(lambda: memory_of(spec, experiment.fresh()))())
    store = ClientStore(fresh, spec.clients)
    if _IDS in arrays:
        rows = [arrays[f"{_PREFIX}{name}"] for name in flatten(fresh)]
        store.write(arrays[_IDS], jax.tree.unflatten(jax.tree.structure(fresh), rows))
    return store


def with_memories(experiment: Experiment, state: State, arrays: Mapping[str, Any]) -> State:
    """The state with the memories of all clients, where models differ by what is in them.

    Args:
      experiment: the run, put together.
      state: of a checkpoint.
      arrays: the checkpoint's other arrays, by name.
    """
    spec = experiment.spec
    if not spec.memory_on_host or not models_differ(spec):
        return state
    rows = _restored(experiment, arrays).read(np.arange(spec.clients))
    return state.replace(memory=put(spec.slots.mesh, rows))


class _Drawn(NamedTuple):
    """The participants of the period that begins with a round; an array `[K]` on the devices."""

    round: int
    participants: Any


class _Incoming(NamedTuple):
    """Memories on their way to the devices, `[P, ...]`, of the period that begins with a round."""

    round: int
    ids: np.ndarray
    memories: Any


class MemorySwap(Hook):
    """Moves memories in at the start of a period, and those of the last participants out.

    While the devices compute a period, the memories of the next participants go to the devices, and
    those of the last ones come back. A client that takes part in both keeps its memory on the
    devices. Each of several processes has the memories of all clients.
    """

    def __init__(self, start: RunStart) -> None:
        """Starts with the store of the checkpoint, or with an empty one."""
        spec = start.experiment.spec
        self.every = self._period = spec.aggregate_every
        self._slots, self._rounds = spec.slots, start.config.rounds
        self._store = _restored(start.experiment, start.saved.arrays)
        self._draw = jax.jit(partial(draw_participants, spec))
        self._key = start.experiment.key
        self._exchange = jax.jit(partial(exchange_memories, spec), donate_argnums=0)
        self._participants = np.asarray(start.state.participants)
        self._drawn: _Drawn | None = None
        self._incoming: _Incoming | None = None
        self._outgoing: tuple[np.ndarray, Any] | None = None  # numbers `[K]`, memories `[P, ...]`

    def before_call(self, round_: int, state: State) -> State:
        """The state with the memories of new participants, if a period begins."""
        if round_ % self._period:
            return state
        if self._incoming is None or self._incoming.round != round_:
            self._send(round_)
        assert self._incoming is not None
        _, ids, memories = self._incoming
        slot_of = dict(zip(self._participants.tolist(), self._slots.slot.tolist(), strict=True))
        clients = ids[self._slots.participant].tolist()
        source = np.array([slot_of.get(n, -1) for n in clients], np.int32)
        small = put(self._slots.mesh, (ids, source))
        state, leaving = self._exchange(state, *small, memories)
        self._outgoing, self._participants = (self._participants, leaving), ids
        # Drawn now: devices work in order, and a draw after the call would wait for its rounds.
        following = round_ + self._period
        self._drawn = _Drawn(following, self._draw(self._key, np.int32(following)))
        return state

    def during_call(self, round_: int, state: State) -> None:
        """Fetches the memories that leave, and sends those of the next period."""
        if round_ < self._rounds:
            self._fetch()
            if round_ % self._period == 0:
                self._send(round_)

    def on_checkpoint(self) -> Saved:
        """The rows of the store, and whose they are."""
        self._fetch()
        ids = self._store.ids
        if not ids.size:
            return Saved()
        rows = {f"{_PREFIX}{name}": x for name, x in flatten(self._store.read(ids)).items()}
        return Saved(arrays={_IDS: ids.astype(np.int32), **rows})

    def _send(self, round_: int) -> None:
        """Sends the memories of the period that begins with a round to the devices."""
        self._fetch()  # a client that has just left may take part again
        if self._drawn is None or self._drawn.round != round_:
            self._drawn = _Drawn(round_, self._draw(self._key, np.int32(round_)))
        ids = np.asarray(self._drawn.participants)
        rows = self._store.read(ids[self._slots.participant])
        self._incoming = _Incoming(round_, ids, put(self._slots.mesh, rows, SHARDED))

    def _fetch(self) -> None:
        """Writes the memories of the clients that left to the store; waits for the devices."""
        if self._outgoing is not None:
            ids, memories = self._outgoing
            slots = self._slots.slot
            self._store.write(ids, jax.tree.map(lambda x: x[slots], jax.device_get(memories)))
            self._outgoing = None
