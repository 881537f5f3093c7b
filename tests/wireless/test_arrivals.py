"""Which messages a server takes that does not wait for all, against a simulation of events."""

import heapq
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from jax import lax

from jfedsl.wireless.arrivals import (
    ServerStep,
    Trip,
    Underway,
    after_step,
    at_start,
    next_taken,
    set_out,
)


class Event(NamedTuple):
    """A step of the server: when it ends, in seconds of the run, and whom it answers."""

    end: float
    taken: list[int]
    missed: list[int]


def simulate(trips: np.ndarray, serving: float, quorum: int, most_missed: int) -> list[Event]:
    """Steps of the server by absolute times in float64, arrivals in order on a heap.

    Args:
      trips: seconds of each client's trip after each step, `[S, K]`.
      serving: seconds that the server computes in a step.
      quorum: messages of a step.
      most_missed: steps that a client may miss in a row; 0 for any number.
    """
    clients, now, events = trips.shape[1], 0.0, []
    missed = [0] * clients
    heap = [(float(trips[0, n]), n) for n in range(clients)]
    heapq.heapify(heap)
    for step in range(len(trips)):
        waiting = [heapq.heappop(heap) for _ in range(clients)]
        late = [each for each in waiting if most_missed and missed[each[1]] >= most_missed]
        others = [each for each in waiting if each not in late]
        taken = [*late, *others][:quorum]
        now = max(now, *(arrival for arrival, _ in taken)) + serving
        answered = sorted(n for _, n in taken)
        events.append(Event(now, answered, [missed[n] for n in answered]))
        for arrival, n in waiting:
            if n in answered and step + 1 < len(trips):
                arrival = now + float(trips[step + 1, n])
            missed[n] = 0 if n in answered else missed[n] + 1
            heapq.heappush(heap, (arrival, n))
    return events


def schedule(trips: Any, serving: float, quorum: int, most_missed: int) -> ServerStep:
    """The same steps with the functions that a run uses, `[S, ...]`."""

    def step(carry: tuple[Underway, Any], trip: Any) -> Any:
        underway, answered = carry
        underway = set_out(underway, answered, trip)
        positions, waited = next_taken(underway, quorum, most_missed)
        taken = jnp.zeros(answered.shape, bool).at[positions].set(True)
        made = ServerStep(waited, jnp.float32(serving), taken, underway, jnp.zeros_like(taken))
        return (after_step(made), taken), made

    thirds = Trip(*(trips * share for share in (0.2, 0.3, 0.5)))
    start = at_start(trips.shape[1]), jnp.ones(trips.shape[1], bool)
    return jax.jit(lambda rows: lax.scan(step, start, rows)[1])(thirds)


@pytest.mark.parametrize(("quorum", "most_missed"), [(1, 0), (3, 0), (3, 4), (7, 1), (2, 5)])
def test_the_steps_are_those_of_a_simulation_of_events(quorum: int, most_missed: int) -> None:
    draw = np.random.default_rng(quorum + most_missed)
    speed = draw.uniform(0.1, 8, 7)
    trips = (speed * draw.exponential(1, (300, 7)) + 0.05).astype(np.float32)
    steps = jax.tree.map(np.asarray, schedule(trips, 0.03, quorum, most_missed))
    events = simulate(trips, 0.03, quorum, most_missed)
    assert [np.flatnonzero(row).tolist() for row in steps.taken] == [e.taken for e in events]
    assert_close(np.cumsum(steps.waited + steps.serving, dtype=np.float64), [e.end for e in events])
    missed = [
        row[taken].tolist() for row, taken in zip(steps.underway.missed, steps.taken, strict=True)
    ]
    assert missed == [e.missed for e in events]
    if quorum == 7:
        assert not steps.underway.missed.any()
    elif most_missed:  # all begin at once: some are served after those that were late before them
        assert max(map(max, missed)) <= most_missed + -(-7 // quorum)
        assert max(map(max, missed[50:])) == most_missed
    else:
        assert max(map(max, missed)) > 7 // quorum  # fast clients pass slow ones


def test_equal_clients_take_turns_in_order() -> None:
    trips = np.ones((6, 4), np.float32)
    taken = np.asarray(schedule(trips, 0.5, 2, 0).taken)
    assert [np.flatnonzero(row).tolist() for row in taken] == [[0, 1], [2, 3]] * 3
