"""FLOPs and bytes of compiled programs, against those of XLA and what was put into them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import Array, lax

from jfedsl.run.targets.hlo import Instruction, instructions


def steps(function: Callable[..., Any], *arguments: Array) -> tuple[list[Instruction], Any]:
    compiled = jax.jit(function).lower(*arguments).compile()
    return instructions(compiled.as_text()), compiled.cost_analysis()


def convolved(window: dict[str, Any]) -> Callable[[Array, Array], Array]:
    return lambda x, w: lax.conv_general_dilated(
        x, w, dimension_numbers=("NHWC", "HWIO", "NHWC"), **window
    )


@pytest.mark.parametrize(
    "window",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 1), "padding": ((0, 1), (2, 0)), "rhs_dilation": (1, 2)},
        {"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), "lhs_dilation": (2, 3)},
        {"window_strides": (1, 1), "padding": "VALID", "feature_group_count": 3},
    ],
    ids=str,
)
def test_flops_of_a_convolution_are_those_of_xla(window: dict[str, Any]) -> None:
    groups = window.get("feature_group_count", 1)
    counted, of_xla = steps(
        convolved(window), jnp.ones((2, 7, 8, 6)), jnp.ones((3, 3, 6 // groups, 12))
    )
    assert sum(step.flops for step in counted) == of_xla["flops"] > 0


def test_flops_and_bytes_of_a_product() -> None:
    counted, of_xla = steps(jnp.matmul, jnp.ones((3, 40, 50)), jnp.ones((3, 50, 60)))
    assert sum(step.flops for step in counted) == of_xla["flops"] == 2 * 3 * 40 * 50 * 60
    entries = 3 * (40 * 50 + 50 * 60 + 40 * 60)
    assert sum(step.traffic for step in counted) == of_xla["bytes accessed"] == 4 * entries


def test_a_loop_reads_a_row_and_writes_a_row_in_each_iteration() -> None:
    """Neither the stacked arguments nor the stacked results are moved as a whole."""

    def run(rows: Array) -> Array:
        return lax.scan(lambda carry, row: (carry + row, jnp.sin(carry * row)), rows[0], rows)[1]

    counted, _ = steps(run, jnp.ones((100, 1000)))
    in_loop = [s for s in counted if s.loops]
    assert {s.runs for s in in_loop} == {100}
    moved = sum(s.traffic for s in in_loop)
    # A row is read by both operations, as is the sum so far; each writes a row.
    assert 3 * 4000 <= moved <= 10 * 4000
    assert sum(step.starts for step in counted if step.loops) == 0, "it has no product"
    assert sum(step.starts for step in counted) < 10


def test_rounds_of_a_loop_that_end_by_themselves_count_once() -> None:
    counted, _ = steps(lambda x: lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x), A)
    assert sum(step.runs * step.flops for step in counted) == 2 * 4**3


A = jnp.full((4, 4), 0.5)
