"""Convolution and pooling: equal to those of lax and Flax, in forms that are fast in loops."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import example, given
from hypothesis import strategies as st
from jax import Array, lax

from jfedsl.nn import convolution, pooling
from jfedsl.nn.platform import tracing_for

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
Conv = Callable[..., Array]


class Case(NamedTuple):
    """A convolution: `[2, *size, 3] * [*kernel, 3, 4]`."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Any = "SAME"
    lhs_dilation: tuple[int, int] = (1, 1)
    rhs_dilation: tuple[int, int] = (1, 1)

    def run(self, conv: Conv, x: Array, w: Array) -> Array:
        return conv(
            x, w, self.strides, self.padding, self.lhs_dilation, self.rhs_dilation,
            dimension_numbers=CHANNELS_LAST,
        )  # fmt: skip

    def operands(self) -> tuple[Array, Array]:
        return integers(0, (2, *self.size, 3)), integers(1, (*self.kernel, 3, 4))


def integers(seed: int, shape: tuple[int, ...]) -> Array:
    """Small whole numbers in float32: their sums of products are exact in any order."""
    return jnp.asarray(np.random.default_rng(seed).integers(-3, 4, shape), jnp.float32)


def assert_equal(ours: Any, theirs: Any) -> None:
    """Equal shapes and values; wrong whole numbers would differ by 1 at least."""
    for actual, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-3, strict=True)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Windows with a non-empty output; maps smaller than the kernel included."""

    def pair(least: int, most: int) -> tuple[int, int]:
        return draw(st.tuples(st.integers(least, most), st.integers(least, most)))

    padding = draw(st.sampled_from(["SAME", "VALID", "explicit"]))
    rhs_dilation, kernel, strides = pair(1, 2), pair(1, 4), pair(1, 3)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, rhs_dilation, strict=True)]
    if padding != "explicit":
        # lax takes no named padding of a dilated input.
        least = extents if padding == "VALID" else (1, 1)
        size = tuple(draw(st.integers(n, 9)) for n in least)
        return Case(size, kernel, strides, padding, (1, 1), rhs_dilation)
    size, lhs_dilation = pair(1, 7), pair(1, 2)
    pads = []
    for n, d, extent in zip(size, lhs_dilation, extents, strict=True):
        low = draw(st.integers(-1, 3))
        least_high = max(extent - ((n - 1) * d + 1) - low, -1)  # or the kernel fits nowhere
        pads.append((low, draw(st.integers(least_high, least_high + 3))))
    return Case(size, kernel, strides, tuple(pads), lhs_dilation, rhs_dilation)


def value_and_gradients(case: Case, conv: Conv) -> tuple[Array, Array, Array]:
    """Output and the gradients by input and by kernel under a random cotangent."""

    @jax.jit
    def run(x: Array, w: Array) -> tuple[Array, Array, Array]:
        y, pull_back = jax.vjp(lambda x, w: case.run(conv, x, w), x, w)
        return y, *pull_back(integers(2, y.shape))

    return run(*case.operands())


@given(cases())
@example(Case((2, 2), (3, 3)))
@example(Case((1, 1), (3, 3)))
@example(Case((1, 1), (3, 3), (2, 2)))
@example(Case((1, 2), (3, 3), rhs_dilation=(2, 1)))
@example(Case((3, 3), (5, 5), (2, 2), ((2, 2), (2, 2))))
@example(Case((2, 3), (4, 5), padding=((1, 2), (2, 2))))
@example(Case((3, 2), (3, 2), padding="VALID"))
@example(Case((8, 8), (3, 3)))
@example(Case((8, 7), (3, 3), (2, 2)))
def test_value_and_gradients_equal_those_of_lax(case: Case) -> None:
    ours = value_and_gradients(case, convolution.conv_general_dilated)
    assert_equal(ours, value_and_gradients(case, lax.conv_general_dilated))


@given(cases())
def test_real_numbers_agree_with_those_of_lax_to_1e_5(case: Case) -> None:
    def real(seed: int, shape: tuple[int, ...]) -> Array:
        return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)

    x, w = (real(n, operand.shape) for n, operand in enumerate(case.operands()))

    def run(conv: Conv) -> tuple[Array, ...]:
        y, pull_back = jax.vjp(lambda x, w: case.run(conv, x, w), x, w)
        return y, *pull_back(real(2, y.shape))

    with jax.default_matmul_precision("highest"):
        pairs = zip(
            run(convolution.conv_general_dilated), run(lax.conv_general_dilated), strict=True
        )
        for ours, theirs in pairs:
            assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


def use(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `form` the one that is chosen, where the shapes allow it."""
    monkeypatch.setattr(convolution, "platform", lambda: "cpu")
    monkeypatch.setattr(convolution, "_MOST_PAIRED_INPUTS", 99 * (form == "pairs"))
    monkeypatch.setattr(convolution, "_MOST_PAIRED_OUTPUTS", 99)
    monkeypatch.setattr(convolution, "_LEAST_CHANNEL_PRODUCT", 1 if form == "tiles" else 10**9)
    monkeypatch.setattr(convolution, "_LEAST_TILES", 1)
    monkeypatch.setattr(convolution, "_PIXELS_A_PART", 64 if form == "parts" else 10**9)


FORMS = {"product": 2, "pairs": 8, "parts": 9, "tiles": 8}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_every_form_is_as_exact_as_its_dtype_on_real_numbers(
    form: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(form, monkeypatch)
    draw, size = np.random.default_rng(0), FORMS[form]
    shapes = ((6, size, size, 17), (3, 3, 17, 9), (6, size, size, 9))
    exact = [draw.normal(size=shape) for shape in shapes]
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):

        def run(conv: Conv, dtype: str) -> list[np.ndarray]:
            x, w, dy = (jnp.asarray(array, dtype) for array in exact)
            y, pull_back = jax.vjp(
                lambda x, w: conv(x, w, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST), x, w
            )
            results = y, *pull_back(dy)
            assert {result.dtype.name for result in results} == {dtype}
            return [np.asarray(result, np.float64) for result in results]

        # bfloat16 rounds operands and results to 8 bits.
        limit = {"float32": 1e-6, "bfloat16": 1e-2, "float64": 1e-14}[dtype]
        pairs = zip(
            run(convolution.conv_general_dilated, dtype),
            run(lax.conv_general_dilated, "float64"),
            strict=True,
        )
        for ours, theirs in pairs:
            assert np.linalg.norm(ours - theirs) <= limit * np.linalg.norm(theirs)


@pytest.mark.parametrize("size", [2, 7, 8])
def test_no_examples_make_no_outputs_and_zero_gradients(size: int) -> None:
    x, w = jnp.zeros((0, size, size, 3)), jnp.ones((3, 3, 3, 4))
    y = convolution.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST)
    dx, dw = loss_gradients(convolution.conv_general_dilated, x, w)
    assert y.shape == (0, size, size, 4) and dx.shape == x.shape
    np.testing.assert_array_equal(dw, jnp.zeros(w.shape))


@pytest.mark.parametrize("size", [2, 40], ids=["tiny", "in parts"])
def test_float64_stays_float64(size: int) -> None:
    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, w = (jnp.asarray(draw.normal(size=s)) for s in ((8, size, size, 16), (3, 3, 16, 2)))

        def run(conv: Conv) -> Any:
            return jax.value_and_grad(
                lambda x, w: jnp.sum(
                    conv(x, w, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST) ** 2
                ),
                (0, 1),
            )(x, w)

        for ours, theirs in zip(
            jax.tree.leaves(run(convolution.conv_general_dilated)),
            jax.tree.leaves(run(lax.conv_general_dilated)),
            strict=True,
        ):
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("padding", ["VALID", ((0, 0), (0, 0)), ((0, 1), (1, 0))])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernel_that_fits_nowhere_gives_the_empty_output_of_lax(
    padding: Any, stride: int
) -> None:
    case = Case((1, 1), (3, 3), (stride, stride), padding)
    theirs = case.run(lax.conv_general_dilated, *case.operands())
    assert theirs.size == 0
    assert case.run(convolution.conv_general_dilated, *case.operands()).shape == theirs.shape


@pytest.mark.parametrize(
    "case", [Case((5, 4), (3, 3), (2, 1)), Case((2, 2), (3, 3))], ids=["general", "tiny"]
)
def test_reverse_over_reverse_second_derivative_equals_that_of_lax(case: Case) -> None:
    x, w = case.operands()
    directions = integers(3, x.shape), integers(4, w.shape)

    def hessian_product(conv: Conv) -> Any:
        def slope(x: Array, w: Array) -> Array:
            gradients = jax.grad(lambda x, w: jnp.sum(case.run(conv, x, w) ** 2), (0, 1))(x, w)
            pairs = zip(gradients, directions, strict=True)
            return sum(jnp.sum(gradient * direction) for gradient, direction in pairs)

        return jax.jit(jax.grad(slope, (0, 1)))(x, w)

    assert_equal(
        hessian_product(convolution.conv_general_dilated), hessian_product(lax.conv_general_dilated)
    )


TILED = Case((6, 4), (3, 3))


@pytest.mark.parametrize("derivative", ["first", "second"])
def test_with_tiles_derivatives_equal_those_of_lax(
    derivative: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use("tiles", monkeypatch)
    x, w = TILED.operands()
    # The value and both gradients, without a convolution.
    assert products(x, w) == {"dot_general": 48}
    if derivative == "first":
        theirs = value_and_gradients(TILED, lax.conv_general_dilated)
        assert_equal(value_and_gradients(TILED, convolution.conv_general_dilated), theirs)
    else:
        test_reverse_over_reverse_second_derivative_equals_that_of_lax(TILED)


def products(x: Any, w: Any) -> dict[str, int]:
    """Numbers of matrix products and convolutions in the value and the gradients."""
    traced = jax.make_jaxpr(lambda x, w: loss_gradients(convolution.conv_general_dilated, x, w))(
        x, w
    )
    names = [equation.primitive.name for equation in equations(traced.jaxpr)]
    counts = {name: names.count(name) for name in ("dot_general", "conv_general_dilated")}
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize(
    ("platform", "shape", "outputs", "paired"),
    [
        ("cpu", (8, 32, 32, 3), 16, True),
        ("cpu", (8, 32, 31, 3), 16, False),
        ("cpu", (8, 32, 32, 5), 16, False),
        ("cpu", (8, 32, 32, 3), 33, False),
        ("gpu", (8, 32, 32, 3), 16, False),
    ],
)
def test_few_channels_and_even_rows_pair_up(
    platform: str, shape: tuple[int, ...], outputs: int, paired: bool
) -> None:
    w = jax.ShapeDtypeStruct((3, 3, shape[3], outputs), jnp.float32)
    conv = partial(
        convolution.conv_general_dilated, window_strides=(1, 1), padding="SAME",
        dimension_numbers=CHANNELS_LAST,
    )  # fmt: skip
    with tracing_for(platform):
        traced = jax.make_jaxpr(conv)(jax.ShapeDtypeStruct(shape, jnp.float32), w)
    (conv_equation,) = [
        e for e in equations(traced.jaxpr) if e.primitive.name == "conv_general_dilated"
    ]
    expected = (3, 2, 2 * shape[3], 2 * outputs) if paired else w.shape
    assert conv_equation.invars[1].aval.shape == expected


@pytest.mark.parametrize(
    ("platform", "shape", "outputs", "dtype", "expected"),
    [
        ("cpu", (128, 8, 8, 256), 256, "float32", {"dot_general": 48}),
        ("cpu", (128, 8, 8, 256), 256, "bfloat16", {"conv_general_dilated": 2 + 4}),
        ("cpu", (128, 7, 7, 256), 256, "float32", {"conv_general_dilated": 2 + 3}),
        ("cpu", (8, 8, 8, 256), 256, "float32", {"conv_general_dilated": 3}),
        ("cpu", (800, 8, 8, 32), 32, "float32", {"conv_general_dilated": 2 + 16}),
        ("cpu", (8, 32, 32, 3), 16, "float32", {"conv_general_dilated": 3}),
        ("cpu", (128, 2, 2, 512), 512, "float32", {"dot_general": 3}),
        ("gpu", (128, 8, 8, 256), 256, "float32", {"conv_general_dilated": 3}),
    ],
)  # fmt: skip
def test_the_form_follows_platform_and_shape(
    platform: str, shape: tuple[int, ...], outputs: int, dtype: str, expected: dict[str, int]
) -> None:
    x = jax.ShapeDtypeStruct(shape, dtype)
    w = jax.ShapeDtypeStruct((3, 3, shape[3], outputs), dtype)
    with tracing_for(platform):
        assert products(x, w) == expected


def loss_gradients(conv: Conv, x: Array, w: Array) -> tuple[Array, Array]:
    case = Case(x.shape[1:3], w.shape[:2])
    return jax.grad(lambda x, w: jnp.sum(case.run(conv, x, w) ** 2), (0, 1))(x, w)


SIZES = {"parts": (6, 5), "product": (2, 2), "pairs": (6, 6), "tiles": (4, 6)}


@pytest.mark.parametrize("form", SIZES)
@pytest.mark.parametrize("mapped", ["vmap", "map"])
def test_mapped_over_clients_with_different_kernels_equals_a_python_loop(
    form: str, mapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(form, monkeypatch)
    size = SIZES[form]
    x, w = integers(0, (3, 2, *size, 3)), integers(1, (3, 3, 3, 3, 4))

    def one_client(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
        y = Case(size, (3, 3)).run(convolution.conv_general_dilated, x, w)
        return y, loss_gradients(convolution.conv_general_dilated, x, w)

    over_clients = (
        jax.vmap(one_client)
        if mapped == "vmap"
        else lambda *operands: lax.map(lambda client: one_client(*client), operands)
    )
    looped = [jax.jit(one_client)(x[n], w[n]) for n in range(3)]
    assert_equal(jax.jit(over_clients)(x, w), jax.tree.map(lambda *a: jnp.stack(a), *looped))


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def mapped_gradient_layouts(conv: Conv) -> list[lax.ConvDimensionNumbers]:
    """Layouts of the convolutions in the gradient of a 3x3 convolution inside `lax.map`."""
    x, w = integers(0, (3, 2, 6, 6, 3)), integers(1, (3, 3, 3, 3, 4))
    traced = jax.make_jaxpr(lambda *a: lax.map(lambda b: loss_gradients(conv, *b), a))(x, w)
    convolutions = [
        e.params for e in equations(traced.jaxpr) if e.primitive.name == "conv_general_dilated"
    ]
    assert all(params["feature_group_count"] == 1 for params in convolutions)
    assert all(params["batch_group_count"] == 1 for params in convolutions)
    return [params["dimension_numbers"] for params in convolutions]


def test_gradients_in_a_loop_use_canonical_layouts_only() -> None:
    canonical = lax.conv_dimension_numbers((2, 6, 6, 3), (3, 3, 3, 4), CHANNELS_LAST)
    ours = mapped_gradient_layouts(convolution.conv_general_dilated)
    # The value and the two gradients.
    assert ours == [canonical] * 3
    # Autodiff of lax leaves the layout f01b_i01o, which XLA does not rewrite inside a loop.
    assert set(mapped_gradient_layouts(lax.conv_general_dilated)) != {canonical}


FALL_THROUGH = {
    "groups": ((2, 5, 5, 4), (3, 3, 2, 6), CHANNELS_LAST, 2, None),
    "channels first": ((2, 3, 5, 5), (4, 3, 3, 3), ("NCHW", "OIHW", "NCHW"), 1, None),
    "one dimension": ((2, 5, 3), (3, 3, 4), ("NWC", "WIO", "NWC"), 1, None),
    "three dimensions": ((2, 3, 3, 3, 3), (2, 2, 2, 3, 4), ("NDHWC", "DHWIO", "NDHWC"), 1, None),
    "precision": ((2, 5, 5, 3), (3, 3, 3, 4), CHANNELS_LAST, 1, lax.Precision.HIGHEST),
    "whole numbers": ((2, 5, 5, 3), (3, 3, 3, 4), CHANNELS_LAST, 1, None),
    "default layout": ((2, 3, 5, 5), (4, 3, 3, 3), None, 1, None),
    "default layout, one dimension": ((2, 3, 5), (4, 3, 3), None, 1, None),
}


@pytest.mark.parametrize("name", FALL_THROUGH)
def test_any_other_convolution_is_that_of_lax(name: str) -> None:
    x_shape, w_shape, layout, groups, precision = FALL_THROUGH[name]

    def traced(conv: Conv) -> str:
        def run(x: Array, w: Array) -> Array:
            return conv(
                x, w, (1,) * (len(x_shape) - 2), "SAME", dimension_numbers=layout,
                feature_group_count=groups, precision=precision,
            )  # fmt: skip

        dtype = jnp.int32 if name == "whole numbers" else jnp.float32
        return str(jax.make_jaxpr(run)(jnp.zeros(x_shape, dtype), jnp.zeros(w_shape, dtype)))

    assert traced(convolution.conv_general_dilated) == traced(lax.conv_general_dilated)


def test_is_a_drop_in_for_the_convolution_of_flax() -> None:
    def run(conv: Conv) -> Any:
        module = nn.Conv(4, (3, 3), strides=2, conv_general_dilated=conv)
        return module.init_with_output(jax.random.key(0), integers(0, (2, 7, 7, 3)))

    ours, theirs = run(convolution.conv_general_dilated), run(lax.conv_general_dilated)
    for actual, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5, strict=True)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shape", [(2, 6, 12, 3), (1, 7, 5, 2), (1, 3, 3, 1)])
def test_max_pool_equals_that_of_flax_and_crops_what_fills_no_window(
    shape: tuple[int, ...], size: int
) -> None:
    x = jax.random.normal(jax.random.key(0), shape)
    theirs = nn.max_pool(x, (size, size), (size, size))
    np.testing.assert_array_equal(pooling.max_pool(x, size), theirs, strict=True)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 5, 7, 2)])
def test_max_pool_gradient_reaches_only_the_maxima(shape: tuple[int, ...]) -> None:
    # All entries differ, so every window has one maximum.
    x = jnp.asarray(np.random.default_rng(0).permutation(np.prod(shape)), jnp.float32)
    x = x.reshape(shape)
    y, pull_back = jax.vjp(pooling.max_pool, x)
    upstream = 1.0 + jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape)
    (gradient,) = pull_back(upstream)
    expected = dict(zip(np.ravel(y).tolist(), np.ravel(upstream).tolist(), strict=True))
    entries = [expected.get(value, 0.0) for value in np.ravel(x).tolist()]
    np.testing.assert_array_equal(np.ravel(gradient), np.array(entries))


def test_gradient_of_pooling_goes_to_the_first_of_equal_maxima():
    # Dividing by how many entries equal the maximum is 0 / 0 where XLA computes them twice, rounded
    # differently (seen after GroupNorm in a loop over clients).
    x = jnp.zeros((1, 4, 4, 1))
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda x: pooling.max_pool(x).sum()))(x))
    assert " div " not in jaxpr
    compared = re.findall(r"eq (\w+) (\w+)", jaxpr)
    assert compared, "with the position of the maximum"
    for name in {name for pair in compared for name in pair}:
        assert re.search(rf"\b{name}:u8\[", jaxpr), "only positions are compared, never values"
    gradient = jax.grad(lambda x: pooling.max_pool(x).sum())(x)
    assert gradient[0, ::2, ::2].sum() == gradient.sum() == 4, "the first of equals gets all of it"


def test_second_derivative_of_pooling_and_relu_is_that_of_their_pieces() -> None:
    # Sum of squares of the gradient of sum(pool(relu(x))^2): 4 * max^2 where the maximum counts.
    x = jax.random.normal(jax.random.key(0), (2, 4, 5, 3))
    y = pooling.max_pool(pooling.relu(x))

    def slope(x: Array) -> Array:
        gradient = jax.grad(lambda x: jnp.sum(pooling.max_pool(pooling.relu(x)) ** 2))(x)
        return jnp.sum(gradient**2)

    np.testing.assert_allclose(slope(x), 4 * jnp.sum(y**2), rtol=1e-6)
    expected = jax.grad(lambda x: 4 * jnp.sum(pooling.max_pool(pooling.relu(x)) ** 2))(x)
    np.testing.assert_allclose(jax.grad(slope)(x), expected, rtol=1e-6)


def test_second_derivative_of_pooling_goes_to_the_first_of_equals() -> None:
    hessian = jax.jacrev(jax.grad(lambda x: jnp.sum(pooling.max_pool(x) ** 2)))(
        jnp.ones((1, 2, 2, 1))
    )
    expected = np.zeros((4, 4))
    expected[0, 0] = 2
    np.testing.assert_array_equal(hessian.reshape(4, 4), expected)


def test_max_pool_hides_no_nan() -> None:
    for position in range(4):
        x = jnp.zeros((1, 2, 2, 1)).at[0, position // 2, position % 2, 0].set(jnp.nan)
        assert jnp.isnan(pooling.max_pool(x)).all()


def test_relu_is_the_maximum_with_zero_and_keeps_one_byte_an_entry() -> None:
    x = jnp.array([-2.0, -0.0, 0.0, 3.0, jnp.nan, -jnp.inf, jnp.inf])
    y, vjp = jax.vjp(pooling.relu, x)
    np.testing.assert_array_equal(y, np.maximum(np.asarray(x), 0))
    np.testing.assert_array_equal(vjp(jnp.ones(7))[0], [0, 0, 0, 1, 0, 0, 1])
    (residual,) = jax.tree.leaves(vjp)
    assert residual.dtype == bool and residual.shape == x.shape


@pytest.mark.parametrize(
    ("batch", "size", "channels", "parts"), [(7, 24, 16, 2), (3, 64, 16, 3), (9, 32, 3, 1)]
)
def test_a_weight_gradient_in_parts_is_that_of_lax(
    batch: int, size: int, channels: int, parts: int
) -> None:
    x = integers(1, (batch, size, size, channels))
    w = integers(2, (3, 3, channels, 5))
    assert convolution._weight_gradient_parts(channels, (batch, size, size, 5)) == parts
    ours, theirs = (
        jax.jit(
            jax.grad(
                lambda x, w, conv=conv: jnp.sum(Case((size, size), (3, 3)).run(conv, x, w) ** 2),
                (0, 1),
            )
        )(x, w)
        for conv in (convolution.conv_general_dilated, lax.conv_general_dilated)
    )
    jax.tree.map(
        lambda actual, expected: np.testing.assert_allclose(actual, expected, rtol=1e-5),
        ours,
        theirs,
    )


def test_a_weight_gradient_has_no_more_parts_than_examples() -> None:
    assert convolution._weight_gradient_parts(32, (800, 8, 8, 32)) == 16
    assert convolution._weight_gradient_parts(32, (2, 64, 64, 8)) == 2
