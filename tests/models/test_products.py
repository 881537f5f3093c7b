"""FLOPs of traced products against counts by hand and against the traced backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import Array, lax

from jfedsl.models.products import Products, products


def counted(function: Callable[..., Any], flags: Sequence[bool], *shapes: Any) -> Products:
    arrays = [s if hasattr(s, "dtype") else jax.ShapeDtypeStruct(s, "float32") for s in shapes]
    return products(jax.make_jaxpr(function)(*arrays).jaxpr, flags)


PRODUCT = 2 * 4 * 3 * 5  # of [4, 3] and [3, 5]


@pytest.mark.parametrize(("by_x", "by_w"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_product_costs_once_more_for_each_operand_that_needs_a_gradient(
    by_x: int, by_w: int
) -> None:
    part = counted(lambda x, w: x @ w, (bool(by_x), bool(by_w)), (4, 3), (3, 5))
    assert part == (PRODUCT, (by_x + by_w) * PRODUCT, (bool(by_x or by_w),))


def test_a_grouped_convolution_counts_all_taps() -> None:
    def convolve(x: Array, kernel: Array) -> Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (2, 1), "SAME", dimension_numbers=axes, feature_group_count=4
        )

    forward = 2 * 2 * 4 * 7 * 12 * 9 * 2  # pixels, outputs, taps, inputs of a group
    part = counted(convolve, (False, True), (2, 8, 7, 8), (3, 3, 2, 12))
    assert part == (forward, forward, (True,))


@jax.custom_vjp
def scaled(x: Array, w: Array) -> Array:
    """A product with a backward pass of its own, which does not count."""
    return x @ w


scaled.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: kept)

CALLS: dict[str, Callable[[Array, Array], Array]] = {
    "jit": jax.jit(lambda x, w: x @ w),
    "checkpoint": jax.checkpoint(lambda x, w: x @ w),
    "custom_vjp": scaled,
    "custom_jvp": lambda x, w: jax.nn.relu(x) @ w,
    "vmap": lambda x, w: jax.vmap(lambda row: row @ w)(x),
    "while": lambda x, w: lax.while_loop(lambda y: y[0, 0] < 1, lambda y: y + (x @ w), x @ w),
}


@pytest.mark.parametrize("name", CALLS)
def test_products_count_inside_of_what_is_called(name: str) -> None:
    times = 2 if name == "while" else 1
    part = counted(CALLS[name], (True, False), (4, 3), (3, 5))
    assert part == (times * PRODUCT, times * PRODUCT, (True,))


def test_the_most_expensive_branch_counts() -> None:
    def branched(which: Array, x: Array, w: Array) -> Array:
        return lax.switch(which, [lambda: x @ w @ w, lambda: x @ x, lambda: 2 * x])

    index = jax.ShapeDtypeStruct((), "int32")
    part = counted(branched, (False, True, False), index, (3, 3), (3, 3))
    assert part == (2 * 54, 2 * 54, (True,))


def test_a_carry_of_a_scan_may_need_a_gradient_from_the_second_iteration_on() -> None:
    def scanned(w: Array, first: Array, frozen: Array) -> tuple[Array, Array]:
        def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
            old, new = carry
            return (new, old @ frozen + w), old

        (_, last), olds = lax.scan(step, (first, first), None, length=6)
        return last, olds

    part = counted(scanned, (True, False, False), (3, 3), (3, 3), (3, 3))
    assert part == (6 * 54, 6 * 54, (True, True))
    part = counted(scanned, (False, False, False), (3, 3), (3, 3), (3, 3))
    assert part == (6 * 54, 0, (False, False))


def test_whole_numbers_and_stopped_gradients_need_none() -> None:
    def function(x: Array, w: Array) -> tuple[Array, Array, Array]:
        chosen = jnp.argmax(x, axis=1)
        return w[chosen] @ w.T, lax.stop_gradient(x) @ w.T, jnp.round(x).astype(jnp.int8)

    part = counted(function, (True, False), (4, 3), (5, 3))
    assert part == (2 * 2 * 4 * 3 * 5, 0, (False, False, False))


def attention(p: dict[str, Array], frozen: dict[str, Array], x: Array) -> Array:
    """Two heads, low-rank adapters on queries and values."""
    q = x @ frozen["q"] + x @ p["q_a"] @ p["q_b"]
    k = x @ frozen["k"]
    v = x @ frozen["v"] + x @ p["v_a"] @ p["v_b"]
    q, k, v = (y.reshape(*y.shape[:2], 2, -1) for y in (q, k, v))
    weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
    return jnp.einsum("bhts,bshd->bthd", weights, v).reshape(x.shape) @ frozen["o"]


@pytest.mark.parametrize("by_input", [False, True])
def test_adapted_attention_costs_what_its_traced_backward_pass_computes(by_input: bool) -> None:
    width, rank, shape = 6, 2, (3, 5, 6)
    square, down, up = (
        jax.ShapeDtypeStruct(s, "float32") for s in ((width,) * 2, (width, rank), (rank, width))
    )
    p = {"q_a": down, "q_b": up, "v_a": down, "v_b": up}
    frozen, x = dict.fromkeys("qkvo", square), jax.ShapeDtypeStruct(shape, "float32")
    program = jax.make_jaxpr(attention)(p, frozen, x).jaxpr
    part = products(program, [True] * 4 + [False] * 4 + [by_input])

    def both(p: Any, frozen: Any, x: Array) -> Any:
        if by_input:
            y, vjp = jax.vjp(lambda p, x: attention(p, frozen, x), p, x)
        else:
            y, vjp = jax.vjp(lambda p: attention(p, frozen, x), p)
        return y, vjp(y)

    traced = products(jax.make_jaxpr(both)(p, frozen, x).jaxpr, [False] * 9)
    assert part.forward + part.backward == traced.forward
    tokens = shape[0] * shape[1]
    projection, scores = 2 * tokens * width**2, 2 * tokens * shape[1] * width
    adapters = 4 * 2 * tokens * width * rank
    assert part.forward == 4 * projection + adapters + 2 * scores
    # Keys are frozen: without a gradient of the input queries alone need one of the scores.
    others = 3 * projection + adapters // 2 + scores if by_input else 0
    assert part.backward == projection + adapters * 3 // 2 + 3 * scores + others
