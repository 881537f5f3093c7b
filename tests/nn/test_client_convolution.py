"""Clients' convolutions as batched products, against grouped convolutions in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from jfedsl.nn import client_convolution
from jfedsl.nn.client_convolution import grouped_only, suits_product
from jfedsl.nn.convolution import conv_general_dilated
from jfedsl.nn.platform import platform, traced_for, tracing_for

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Case(NamedTuple):
    """A convolution of one client."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    strides: tuple[int, int] = (1, 1)
    padding: Any = "SAME"
    dilation: tuple[int, int] = (1, 1)

    def gradients(self, conv: Callable[..., Array], x: Array, w: Array) -> Any:
        """The output and the gradients of a function of it."""

        def total(x: Array, w: Array) -> tuple[Array, Array]:
            y = conv(
                x, w, self.strides, self.padding, None, self.dilation, dimension_numbers=LAYOUT
            )
            return jnp.sum(jnp.sin(y)), y

        (_, y), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(x, w)
        return y, *gradients

    def operands(self, clients: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
        """Random inputs and kernels `[C, ...]`."""
        draw = np.random.default_rng(0)
        x, w = (draw.normal(size=(clients, *shape)).astype(dtype) for shape in (self.x, self.w))
        return x, w


CASES = {
    "same": Case((2, 6, 7, 8), (3, 3, 8, 16)),
    "strides": Case((2, 9, 8, 8), (3, 3, 8, 8), (2, 1)),
    "wide": Case((1, 8, 8, 6), (5, 1, 6, 7), (1, 2), ((2, 0), (0, 3)), (1, 2)),
    "cropped": Case((2, 8, 8, 6), (2, 3, 6, 9), (1, 1), ((-1, 1), (0, -2))),
    "one pixel": Case((3, 5, 5, 16), (1, 1, 16, 8), (2, 2), "VALID"),
    "tiny": Case((2, 2, 2, 8), (3, 3, 8, 8)),
    "few outputs": Case((2, 5, 5, 8), (3, 3, 8, 3)),
}


@pytest.mark.parametrize("most_bytes", [2**30, 20_000], ids=["at once", "in chunks"])
@pytest.mark.parametrize("name", CASES)
def test_products_agree_with_grouped_convolutions_to_1e_5(
    name: str, most_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_convolution, "_MOST_BYTES", most_bytes)
    case = CASES[name]
    operands = case.operands(clients=5)

    def run(conv: Callable[..., Array], dtype: str) -> Any:
        over_clients = jax.vmap(partial(case.gradients, conv))
        return jax.jit(over_clients)(*(jnp.asarray(a, dtype) for a in operands))

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        exact = run(lax.conv_general_dilated, "float64")
        with tracing_for("gpu"):
            ours = run(conv_general_dilated, "float32")
    for result, expected in zip(ours, map(np.asarray, exact), strict=True):
        assert result.dtype == jnp.float32
        result = np.asarray(result)
        assert np.linalg.norm(result - expected) <= 1e-5 * np.linalg.norm(expected)


def counts(clients: int, shared: bool = False, name: str = "same") -> tuple[int, int, int]:
    """Convolutions, grouped ones among them, and products of the traced gradients."""
    case = CASES[name]
    x, w = case.operands(clients, "float32")
    axes, kernel = (0, None if shared else 0), w[0] if shared else w
    with tracing_for("gpu"):
        mapped = jax.vmap(partial(case.gradients, conv_general_dilated), axes)
        text = jax.jit(mapped).lower(x, kernel).as_text()
    lines = text.splitlines()
    convolutions = [line for line in lines if "stablehlo.convolution" in line]
    grouped = [line for line in convolutions if f"group_count = {clients}" in line]
    return len(convolutions), len(grouped), text.count("stablehlo.dot_general")


def test_no_grouped_convolution_is_left_and_kernels_do_not_grow_with_clients() -> None:
    assert counts(10) == counts(1000) == (0, 0, 3)
    assert counts(10, name="few outputs")[1:] == (2, 1), "dx has 8 outputs, the others 3"


def test_chunks_of_any_number_of_clients_share_their_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_convolution, "_MOST_BYTES", 60_000)
    assert counts(5) == counts(7) == counts(1000) == (0, 0, 3)


@pytest.mark.parametrize("empty", ["clients", "examples", "inputs"])
def test_no_clients_examples_or_channels_make_empty_or_zero_results(empty: str) -> None:
    clients, batch, inputs = (
        0 if empty == name else 2 for name in ("clients", "examples", "inputs")
    )
    case = Case((batch, 4, 4, inputs), (3, 3, inputs, 8))
    with tracing_for("gpu"):
        mapped = jax.vmap(partial(case.gradients, conv_general_dilated))
        y, dx, dw = mapped(*case.operands(clients, "float32"))
    assert y.shape == (clients, batch, 4, 4, 8) and dx.shape == (clients, *case.x)
    assert not np.any(y) and not np.any(dw)


def test_a_shared_kernel_stays_a_convolution() -> None:
    """That of a server, whose kernel's gradient is of each client here."""
    convolutions, grouped, products = counts(10, shared=True)
    assert (convolutions, grouped, products) == (2, 0, 1)


def test_grouped_convolutions_can_be_asked_for() -> None:
    with grouped_only():
        convolutions, grouped, products = counts(10)
    assert (convolutions, grouped, products) == (3, 3, 0)


def test_on_cpu_the_program_is_as_before() -> None:
    case = CASES["same"]
    traced = str(
        jax.make_jaxpr(partial(case.gradients, conv_general_dilated))(
            *(a[0] for a in case.operands(1))
        )
    )
    assert "custom_vmap" not in traced


def test_second_derivatives_agree_with_those_of_lax() -> None:
    case = CASES["strides"]
    operands = [jnp.asarray(a, jnp.float32) for a in case.operands(clients=2)]

    def slope(conv: Callable[..., Array], x: Array, w: Array) -> Array:
        return sum(jnp.sum(g**2) for g in case.gradients(conv, x, w)[1:])

    def run(conv: Callable[..., Array]) -> Any:
        return jax.jit(jax.vmap(jax.grad(partial(slope, conv), (0, 1))))(*operands)

    theirs = run(lax.conv_general_dilated)
    with tracing_for("tpu"):
        ours = run(conv_general_dilated)
    for a, b in zip(ours, theirs, strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)


def test_the_product_suits_all_but_few_output_channels() -> None:
    assert [suits_product(outputs, 4) for outputs in (1, 4, 6, 16, 512)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert suits_product(3, 2), "entries of two bytes move faster"


def test_a_traced_function_keeps_its_platform() -> None:
    named = traced_for("tpu", platform)
    assert platform() == jax.default_backend()
    with tracing_for("gpu"):
        assert (platform(), named()) == ("gpu", "tpu")
