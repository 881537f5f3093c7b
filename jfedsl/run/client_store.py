"""Memories of clients at rest on the host, staged in and out while the devices compute."""

from functools import partial
from typing import Any

import jax
import numpy as np

from jfedsl.engine.client_memory import exchange_memories, memory_of
from jfedsl.engine.participants import draw_participants
from jfedsl.engine.state import State
from jfedsl.run.assemble import Experiment
from jfedsl.run.storage.checkpoint import flatten
from jfedsl.sharding.slots import SHARDED, put

_ROOM = 64  # rows at first
_PREFIX, _IDS = "stored.", "stored_clients"  # names in a checkpoint


class Store:
    """A row for each client that ever took part; the others are as new."""

    def __init__(self, fresh: Any, clients: int) -> None:
        """Starts without any.

        Args:
          fresh: the row of a client that never took part, a tree of arrays.
          clients: C.
        """
        self._fresh, self._structure = jax.tree.flatten(fresh)
        self._row = np.full(clients, -1, np.int64)
        self.ids = np.empty(0, np.int64)
        self._arrays = [np.empty((0, *x.shape), x.dtype) for x in self._fresh]

    def read(self, ids: np.ndarray) -> Any:
        """Rows of clients `ids[K]`, arrays `[K, ...]`."""
        rows = self._row[ids]
        known = rows >= 0

        def one(array: np.ndarray, fresh: np.ndarray) -> np.ndarray:
            out = np.broadcast_to(fresh, (len(ids), *fresh.shape)).copy()
            out[known] = array[rows[known]]
            return out

        leaves = map(one, self._arrays, self._fresh)
        return jax.tree.unflatten(self._structure, list(leaves))

    def write(self, ids: np.ndarray, rows: Any) -> None:
        """Keeps rows `[K, ...]` of clients `ids[K]`."""
        new = ids[self._row[ids] < 0]
        self._row[new] = len(self.ids) + np.arange(len(new))
        self.ids = np.concatenate([self.ids, new])
        for n, (array, row) in enumerate(zip(self._arrays, jax.tree.leaves(rows), strict=True)):
            if len(array) < len(self.ids):
                grown = np.empty((max(_ROOM, 2 * len(self.ids)), *array.shape[1:]), array.dtype)
                grown[: len(array)] = array
                self._arrays[n] = array = grown
            array[self._row[ids]] = row


def _opened(experiment: Experiment, stored: dict[str, Any]) -> Store:
    """The store of a checkpoint, or an empty one of nothing."""
    spec = experiment.spec
    fresh = jax.device_get(jax.jit(lambda: memory_of(spec, experiment.fresh()))())
    store = Store(fresh, spec.clients)
    if stored:
        rows = [stored[f"{_PREFIX}{name}"] for name in flatten(fresh)]
        store.write(stored[_IDS], jax.tree.unflatten(jax.tree.structure(fresh), rows))
    return store


def with_memories(experiment: Experiment, state: State, stored: dict[str, Any]) -> State:
    """A state with memories of all clients, for what looks at their statistics.

    Args:
      experiment: of the run.
      state: of a checkpoint.
      stored: the checkpoint's other arrays.
    """
    spec = experiment.spec
    if not spec.memory_on_host or spec.statistics != "local":
        return state
    rows = _opened(experiment, stored).read(np.arange(spec.clients))
    return state.replace(memory=put(spec.slots.mesh, rows))


class Staging:
    """Brings participants' memories in before a period and takes them out after it.

    While a period computes, memories of the next one's participants go to the devices, and those of
    the last one's come back; who takes part in both keeps its own there. Of several processes each
    has all memories.
    """

    def __init__(self, experiment: Experiment, state: State, stored: dict[str, Any]) -> None:
        """Starts at a state with the memories of its clients at rest.

        Args:
          experiment: of the run.
          state: of the run.
          stored: what `stored` said of it; nothing at first.
        """
        spec = experiment.spec
        self._every, self._slots = spec.aggregate_every, spec.slots
        self._store = _opened(experiment, stored)
        self._draw = jax.jit(partial(draw_participants, spec))
        self._key = experiment.key
        self._exchange = jax.jit(partial(exchange_memories, spec), donate_argnums=0)
        self._participants = np.asarray(state.participants)
        self._drawn: tuple[int, Any] | None = None
        self._next: tuple[int, np.ndarray, Any] | None = None
        self._leaving: tuple[np.ndarray, Any] | None = None

    def stored(self) -> dict[str, np.ndarray]:
        """Arrays of the clients at rest, by their names in a checkpoint."""
        self._settle()
        ids = self._store.ids
        if not ids.size:
            return {}
        rows = flatten(self._store.read(ids))
        return {_IDS: ids.astype(np.int32), **{f"{_PREFIX}{n}": x for n, x in rows.items()}}

    def prepare(self, round_: int) -> None:
        """Sends what the period from a round on needs on its way, if one starts with the round."""
        self._settle()
        if round_ % self._every:
            return
        if self._drawn is None or self._drawn[0] != round_:
            self._drawn = round_, self._draw(self._key, np.int32(round_))
        ids = np.asarray(self._drawn[1])
        rows = self._store.read(ids[self._slots.participant])
        self._next = round_, ids, put(self._slots.mesh, rows, SHARDED)

    def before(self, state: State, round_: int) -> State:
        """The state as the round needs it: with new participants, if a period starts with it."""
        if round_ % self._every:
            return state
        if self._next is None or self._next[0] != round_:
            self.prepare(round_)
        assert self._next is not None
        _, ids, coming = self._next
        now = dict(zip(self._participants.tolist(), self._slots.slot.tolist(), strict=True))
        there = ids[self._slots.participant].tolist()
        source = np.array([now.get(n, -1) for n in there], np.int32)
        small = put(self._slots.mesh, (ids, source))
        state, leaving = self._exchange(state, *small, coming)
        self._leaving, self._participants = (self._participants, leaving), ids
        # Asked for now, as devices do one thing after the other and a period comes next.
        following = round_ + self._every
        self._drawn = following, self._draw(self._key, np.int32(following))
        return state

    def _settle(self) -> None:
        """Takes the memories of those who left; waits until the devices have them."""
        if self._leaving is not None:
            ids, rows = self._leaving
            place = self._slots.slot
            self._store.write(ids, jax.tree.map(lambda x: x[place], jax.device_get(rows)))
            self._leaving = None
