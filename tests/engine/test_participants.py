"""Who takes part: as many of each group in every period, everybody in time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import plain
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.engine import participants
from jfedsl.engine.participants import draw_participants, group_sizes
from jfedsl.engine.state import RunSpec
from jfedsl.run.assemble import build

SCHEME = build(plain(clients=4)).spec


def spec(groups: list[list[int]], sizes: tuple[int, ...]) -> RunSpec:
    pruner = SCHEME.pruner._replace(groups=tuple(map(np.array, groups)))
    clients = sum(map(len, groups))
    return SCHEME._replace(
        clients=clients, participants=sum(sizes), group_sizes=sizes, pruner=pruner
    )


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.data())
def test_groups_get_their_share_and_one_at_least(members: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(len(members), sum(members)))
    sizes = group_sizes(members, count)
    assert sum(sizes) == count
    for size, most in zip(sizes, members, strict=True):
        share = most * count / sum(members)
        assert 1 <= size <= most
        assert size <= max(1, np.ceil(share))
    if count == sum(members):
        assert list(sizes) == members


def test_fewer_participants_than_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="2 participants of 3 groups"):
        group_sizes([5, 5, 5], 2)


def test_every_period_draws_as_many_of_each_group_and_in_time_everybody() -> None:
    run = spec([[0, 3, 4], [1, 2, 5, 6]], (1, 2))
    draw = jax.jit(lambda round_: draw_participants(run, jax.random.key(0), round_))
    seen: set[int] = set()
    for round_ in range(30):
        ids = np.asarray(draw(jnp.int32(round_))).tolist()
        assert len(set(ids)) == 3 and ids[0] in (0, 3, 4) and set(ids[1:]) <= {1, 2, 5, 6}
        assert ids[1] < ids[2]
        seen |= set(ids)
    assert seen == set(range(7))


def test_all_clients_come_group_by_group() -> None:
    run = spec([[0, 3], [1, 2]], (2, 2))
    assert draw_participants(run, jax.random.key(0), jnp.int32(5)).tolist() == [0, 3, 1, 2]


def test_each_layout_calls_the_branch_with_its_forms() -> None:
    run = spec([[0, 1], [2, 3]], (2, 2))
    pruner = run.pruner._replace(
        forwards=("wide", "narrow"),
        width_configs=((0, 0), (0, 1)),
        config_of_round=np.array([0, 0, 1]),
    )
    names: Any = {("wide", "wide"): 7, ("wide", "narrow"): 9}

    def which(start: jax.Array) -> jax.Array:
        return participants.with_width_config(
            run._replace(pruner=pruner),
            start,
            lambda forwards, x: x + names[forwards],
            jnp.int32(1),
        )

    assert [int(jax.jit(which)(jnp.int32(start))) for start in (0, 1, 2, 50)] == [8, 8, 10, 10]
