"""Who comes and goes between periods: with its own memory, or with none."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_equal, differs, plain, setup, slow
from sharding.test_slots import on

from jfedsl.engine.client_memory import Memory, memories, memory_of, swap_participants
from jfedsl.engine.initial import init
from jfedsl.engine.personal import shared_part, with_shared
from jfedsl.engine.state import RunSpec, State
from jfedsl.run.assemble import build

REMEMBERED: dict[str, Any] = {
    "clients": 7, "participants": 3, "momentum": 0.9, "local_steps": 2, "norm": "batch",
    "batch_norm_statistics": "local", "client_gradient": "feedback(topk(0.05))",
    "model_down": "topk(0.1)", "model_up": "feedback(topk(0.1))",
}  # fmt: skip
GROUPS: dict[str, Any] = {
    "prune_kind": "channel",
    "prune_rate": (0.5, 0.0, 0.0, 0.5, 0.0, 0.5, 0.5),
}
PERSONAL: dict[str, Any] = {"cut": "dense2", "personal": "dense1"}

# What goes with clients that keep nothing.
FORGETFUL: dict[str, Any] = {
    **REMEMBERED, "norm": "none", "batch_norm_statistics": "aggregate", "model_down": "",
    "model_up": "topk(0.3)", "smashed": "feedback(topk(0.3))",
    "client_state": "stateless",
}  # fmt: skip


def row(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda x: np.array(x[n]), tree)


def stack(rows: list[Any]) -> Any:
    return jax.tree.map(lambda *x: np.stack(x), *rows)


def worked(spec: RunSpec, state: State, amount: Any) -> State:
    """The state after participants left marks on all that they keep; other places hold garbage."""
    needed, clients = spec.slots.is_real, state.clients

    def mark(x: jax.Array) -> jax.Array:
        real = needed.reshape(-1, *(1,) * (x.ndim - 1))
        number = clients.number.reshape(real.shape)
        return jnp.where(real, x + (amount * (number + 1)).astype(x.dtype), -1).astype(x.dtype)

    kept = vars(jax.tree.map(mark, memory_of(spec, clients)))
    kept["params"] = with_shared(spec, kept["params"], shared_part(spec, clients.params))
    return state.replace(clients=clients.replace(**kept))


@pytest.mark.parametrize(
    ("changes", "devices"),
    [({}, 1), (GROUPS, 2), (PERSONAL, 2), slow({}, 2), slow(GROUPS, 1), slow(PERSONAL, 1)],
)
def test_who_was_absent_comes_back_with_what_it_left(changes: dict[str, Any], devices: int) -> None:
    e = build(plain(**REMEMBERED, **changes))
    layout = on(devices, list(e.spec.group_sizes))._replace(mesh=None)
    spec = e.spec._replace(slots=layout)
    assert layout.is_identity == (devices == 1)
    state = init(spec, e.key, e.initial, e.image)
    expected = [row(memory_of(spec, state.clients), 0)] * 7
    turn, kept = (jax.jit(partial(f, spec)) for f in (swap_participants, memories))
    work = jax.jit(partial(worked, spec))
    last_seen, returned = dict[int, int](), 0
    for period in range(8):
        state = turn(e.key, state.replace(round=jnp.int32(period)))
        ids = state.participants.tolist()
        np.testing.assert_array_equal(layout.to_participants(state.clients.number), ids)
        memory = layout.to_participants(memory_of(spec, state.clients))
        assert_equal(memory, stack([expected[n] for n in ids]))
        assert_equal(kept(state), stack(expected))
        state = work(state, period + 1)
        memory = layout.to_participants(memory_of(spec, state.clients))
        for slot, n in enumerate(ids):
            expected[n] = row(memory, slot)
            returned += last_seen.get(n, period) < period - 1
            last_seen[n] = period
        assert_equal(kept(state), stack(expected))
    assert returned > 0 and len(last_seen) > 3


@pytest.mark.parametrize("changes", [{}, GROUPS], ids=["one group", "two groups"])
def test_where_all_take_part_memories_come_by_number(changes: dict[str, Any]) -> None:
    e, state, run = setup(**{**REMEMBERED, "participants": None}, **changes)
    assert state.memory is None
    state, _ = run(state)
    by_number, ids = memories(e.spec, state), state.participants
    assert (ids.tolist() == list(range(7))) == (not changes)
    assert_equal(jax.tree.map(lambda x: x[ids], by_number), memory_of(e.spec, state.clients))
    assert differs(row(by_number.optimizer, 0), row(by_number.optimizer, 1))


@pytest.mark.parametrize("participants", [3, 7])
def test_who_keeps_nothing_starts_afresh_in_every_period(participants: int) -> None:
    e, state, run = setup(**{**FORGETFUL, "participants": participants}, aggregate_every=2)
    fresh, swap = (
        row(memory_of(e.spec, state.clients), 0),
        jax.jit(partial(swap_participants, e.spec)),
    )
    for period in range(4):
        opened = swap(e.key, state)
        assert opened.round == 2 * period
        expected = fresh.replace(batches_seen=np.array(opened.round * 2))
        assert_equal(memory_of(e.spec, opened.clients), stack([expected] * participants))
        for _ in range(2):
            state, _ = run(state)
        np.testing.assert_array_equal(state.participants, opened.participants)
        assert all(differs(row(memory_of(e.spec, state.clients).optimizer, slot), fresh.optimizer)
                   for slot in range(participants))  # fmt: skip
        np.testing.assert_array_equal(state.clients.batches_seen, state.round * 2)


@pytest.mark.parametrize("client_state", ["resident", "stateless"])
def test_no_two_periods_draw_the_same_batch(client_state: str) -> None:
    settings = FORGETFUL if client_state == "stateless" else REMEMBERED
    e, state, run = setup(**settings, aggregate_every=2)
    drawn = set[tuple[int, int]]()
    for _ in range(10):
        state, record = run(state)
        for n, count in zip(
            record.participants.tolist(), state.clients.batches_seen.tolist(), strict=True
        ):
            numbers = {(n, count - 1 - step) for step in range(2)}
            assert not numbers & drawn and min(numbers)[1] >= 0
            drawn |= numbers
    counts = [[d for who, d in drawn if who == n] for n in range(7)]
    assert len(drawn) == 10 * 3 * 2 and max(map(len, counts)) > 4
    if client_state == "resident":  # and none is left out
        assert all(sorted(numbers) == list(range(len(numbers))) for numbers in counts)


@pytest.mark.parametrize("policy", ["keep", "reset", "average"])
@pytest.mark.parametrize("statistics", ["aggregate", "local"])
def test_what_arrives_anew_is_not_kept(policy: str, statistics: str) -> None:
    settings = {"client_optimizer_state": policy, "batch_norm_statistics": statistics}
    e = build(plain(**{**REMEMBERED, **settings}))
    memory: Memory = e.init().memory
    assert (memory.optimizer is None) == (policy != "keep")
    assert (memory.stats is None) == (statistics != "local")
    assert {x.shape[0] for x in jax.tree.leaves(memory)} == {7}
    assert memory.received is not None
