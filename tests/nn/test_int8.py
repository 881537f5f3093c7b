"""Backward passes in int8: equal to NumPy's products of codes, unbiased, and NaN where dy is."""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import slow
from jax import Array

from jfedsl.keys import fold
from jfedsl.models import layers
from jfedsl.models.cut import cut_index
from jfedsl.models.registry import MODELS
from jfedsl.nn import convolution, int8
from jfedsl.nn.conv_forms import Window
from jfedsl.nn.int8 import int8_backward
from jfedsl.nn.platform import traced_for, tracing_for
from jfedsl.sharding.client_map import map_clients


class Gradients(NamedTuple):
    """Output `y`, and the gradients by parameters and input `x`."""

    y: Array
    params: Any
    x: Array


def real(seed: int, shape: tuple[int, ...]) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def codes(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Random int8 with a 127 among them, so that they are their codes, with scale 1."""
    values = np.random.default_rng(seed).integers(-127, 128, shape, np.int8)
    values.flat[0] = 127
    return values


def rounded(x: Array) -> tuple[np.ndarray, np.float32]:
    """The nearest codes of `x`, and their scale."""
    scale = np.float32(np.abs(x).max() / np.float32(127))
    return np.round(np.asarray(x) / scale).astype(np.int64), scale


def random_like(shapes: Any) -> Any:
    """Random arrays of the given shapes; kernels are scaled to keep the size of activations."""
    return jax.tree.map(
        lambda w: real(w.size, w.shape).astype(w.dtype) / math.sqrt(math.prod(w.shape[:-1])), shapes
    )


def initial(module: nn.Module, x: Array) -> Any:
    """Random parameters, biases included, without compiling anything."""
    return random_like(jax.eval_shape(module.init, jax.random.key(0), x))


def gradients(
    module: nn.Module, params: Any, x: Array, dy: Array | None, key: Array | None
) -> Gradients:
    """Gradients of a module: in int8 with a key, else in float; `dy` default random."""

    def run(params: Any, x: Array) -> Any:
        return module.apply(params, x)

    def forward_and_backward(params: Any, x: Array, key: Array | None) -> Gradients:
        if key is None:
            y, vjp = jax.vjp(run, params, x)
        else:
            with int8_backward(key):
                y, vjp = jax.vjp(run, params, x)
        return Gradients(y, *vjp(real(9, y.shape).astype(y.dtype) if dy is None else dy))

    return jax.jit(forward_and_backward)(params, x, key)


class Case(NamedTuple):
    """A module and the shape of its input.

    Attributes:
      module: a dense layer or a convolution.
      shape: of the input.
      strides: of the kernel, one entry a spatial dimension.
      low: padding before the input, one entry a spatial dimension.
      dilation: of the kernel, one entry a spatial dimension.
    """

    module: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...] = (1, 1)
    low: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)


CASES = {
    "dense": Case(nn.Dense(5), (4, 7), (), (), ()),
    "dense, one example": Case(nn.Dense(5), (7,), (), (), ()),
    "dense, more axes": Case(nn.Dense(5, use_bias=False), (2, 3, 7), (), (), ()),
    "few channels": Case(nn.Conv(5, (3, 3)), (2, 6, 5, 3)),
    "many channels": Case(nn.Conv(20, (3, 3)), (2, 6, 5, 20)),
    "in fast forms": Case(
        nn.Conv(20, (3, 3), conv_general_dilated=convolution.conv_general_dilated), (2, 6, 6, 18)
    ),
    "strides": Case(nn.Conv(4, (3, 3), (2, 2)), (2, 7, 7, 17), (2, 2)),
    "strides that leave a pixel out": Case(
        nn.Conv(4, (2, 3), (2, 3), "VALID"), (2, 7, 8, 3), (2, 3), (0, 0)
    ),
    "dilation": Case(
        nn.Conv(4, (3, 2), padding=((2, 1), (0, 3)), kernel_dilation=(2, 3)),
        (2, 6, 6, 16), (1, 1), (2, 0), (2, 3),
    ),
    "tiny map": Case(nn.Conv(4, (3, 3)), (2, 2, 2, 17)),
    "one dimension": Case(nn.Conv(4, (3,)), (2, 6, 3), (1,), (1,), (1,)),
}  # fmt: skip


def products(
    case: Case, x: np.ndarray, w: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Dx and dw of whole numbers, tap by tap and pixel by pixel."""
    rank, dx, dw = len(case.strides), np.zeros_like(x), np.zeros_like(w)
    batch = (-1,) if rank == 0 else x.shape[:1]
    # dx_batch is a view: adding to it fills dx.
    x_batch, dx_batch = (a.reshape(*batch, *x.shape[x.ndim - 1 - rank :]) for a in (x, dx))
    dy_batch = dy.reshape(*batch, *dy.shape[dy.ndim - 1 - rank :])
    for output in np.ndindex(*dy_batch.shape[1:-1]):
        for tap in np.ndindex(*w.shape[:-2]):
            dimensions = zip(output, case.strides, tap, case.dilation, case.low, strict=True)
            pixel = tuple(o * s + t * d - low for o, s, t, d, low in dimensions)
            if all(0 <= p < n for p, n in zip(pixel, x_batch.shape[1:-1], strict=True)):
                at_pixel, at_output = (slice(None), *pixel), (slice(None), *output)
                dx_batch[at_pixel] += dy_batch[at_output] @ w[tap].T
                dw[tap] += x_batch[at_pixel].T @ dy_batch[at_output]
    return dx, dw


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_products_of_codes(name: str) -> None:
    case = CASES[name]
    x = real(1, case.shape)
    params = initial(case.module, x)
    y = jax.jit(case.module.apply)(params, x)
    dy_codes = codes(2, y.shape)
    dy = jnp.asarray(dy_codes, jnp.float32) * 0.25
    actual = gradients(case.module, params, x, dy, jax.random.key(3))
    np.testing.assert_array_equal(actual.y, y, "the forward pass is the same to the bit")
    (x_codes, x_scale), (w_codes, w_scale) = rounded(x), rounded(params["params"]["kernel"])
    dx, dw = products(case, x_codes, w_codes, dy_codes.astype(np.int64))
    np.testing.assert_allclose(actual.x, dx * (0.25 * w_scale), rtol=1e-6)
    np.testing.assert_allclose(actual.params["params"]["kernel"], dw * (0.25 * x_scale), rtol=1e-6)
    if "bias" in params["params"]:
        expected = np.asarray(dy).reshape(-1, dy.shape[-1]).sum(0)
        np.testing.assert_allclose(actual.params["params"]["bias"], expected, rtol=1e-6)


# Forms of another platform run here too, but a GPU may multiply the int8 of TPUs wrongly.
every_platform = pytest.mark.parametrize(
    "platform",
    [
        "cpu",
        "gpu",
        pytest.param(
            "tpu", marks=pytest.mark.skipif("jax.default_backend() == 'gpu'", reason="may err")
        ),
    ],
)
SAME = Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))
DENSE = Window((), (), (), ())


@every_platform
@pytest.mark.parametrize(
    ("window", "x_shape", "w_shape"),
    [
        (DENSE, (2081, 6), (6, 2081)),
        (SAME, (3, 24, 24, 2), (3, 3, 2, 130)),
        (SAME, (3, 24, 24, 16), (3, 3, 16, 5)),
        (SAME, (2, 34, 34, 16), (3, 3, 16, 5)),
    ],
)
def test_long_sums_are_exact_in_every_form(
    platform: str, window: Window, x_shape: Any, w_shape: Any
) -> None:
    # All of one sign and mostly odd: float32 would round the whole sum.
    x, w, dy = (
        np.abs(codes(seed, shape)) | np.int8(97)
        for seed, shape in enumerate((x_shape, w_shape, (*x_shape[:-1], w_shape[-1])))
    )
    with tracing_for(platform):
        dx = jax.jit(lambda d, w: int8._input_gradient(d, w, window, x_shape[1:-1]))(dy, w)
        dw = jax.jit(lambda x, d: int8._weight_gradient(x, d, window, w_shape))(x, dy)
    rank = len(w_shape) - 2
    case = Case(None, x_shape, (1,) * rank, (1,) * rank, (1,) * rank)
    expected = products(case, *(a.astype(np.int64) for a in (x, w, dy)))
    for ours, theirs in zip((dx, dw), expected, strict=True):
        assert ours.dtype == jnp.int32
        np.testing.assert_array_equal(ours, theirs)
    assert max(e.max() for e in expected) > 2**24


@every_platform
def test_sums_beyond_int32_do_not_overflow(platform: str) -> None:
    largest = np.full((int8._INT_TERMS + 100, 1), 127, np.int8)
    with tracing_for(platform):
        dw = int8._weight_gradient(largest, largest, DENSE, (1, 1))
    np.testing.assert_allclose(dw, len(largest) * 127**2, rtol=1e-6)


@pytest.mark.parametrize("module", [nn.Dense(10), nn.Conv(5, (3, 3))])
@pytest.mark.parametrize(("platform", "dtype"), [("cuda", "f32"), ("tpu", "i8")])
def test_codes_are_multiplied_as_float32_on_a_gpu(platform: str, dtype: str, module: Any) -> None:
    # XLA's kernels for int8 there may give twice the sum.
    x = real(0, (3, 7, 5, 5, 3))
    params = jax.tree.map(lambda w: jnp.stack([w] * 3), initial(module, x[0]))

    def backward(params: Any, x: Array) -> Any:
        with int8_backward(jax.random.key(0)):
            y, vjp = jax.vjp(module.apply, params, x)
        return vjp(y)

    run = jax.jit(traced_for("gpu" if platform == "cuda" else platform, jax.vmap(backward)))
    program = run.trace(params, x).lower(lowering_platforms=(platform,)).as_text()
    found = re.findall(r"(?:dot_general|convolution).* : \(tensor<.*x(\w+)>, tensor", program)
    assert sorted(found) == sorted(["f32", dtype, dtype]), "forward, then one for each gradient"


class Pair(nn.Module):
    """A user's module with `setup`: a convolution, then one dense layer called twice."""

    def setup(self) -> None:
        self.dense = nn.Dense(8)
        self.conv = nn.Conv(8, (3, 3))

    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = nn.relu(self.conv(x))
        return self.dense(x), self.dense(x)


def test_a_users_module_works_and_each_call_draws_from_another_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys_used: list[Array] = []
    quantize = int8._quantize

    def spy(x: Array, key: Array | None = None) -> Any:
        if key is not None:
            keys_used.append(jax.random.key_data(key))
        return quantize(x, key)

    monkeypatch.setattr(int8, "_quantize", spy)
    module, x, key = Pair(), real(0, (2, 4, 4, 3)), jax.random.key(5)
    dy = (real(1, (2, 4, 4, 8)), real(2, (2, 4, 4, 8)))

    @jax.jit
    def both_gradients(params: Any) -> Any:
        _, float_vjp = jax.vjp(module.apply, params, x)
        with int8_backward(key):
            _, int8_vjp = jax.vjp(module.apply, params, x)
        return int8_vjp(dy), float_vjp(dy), jnp.stack(keys_used)

    in_int8, in_float, keys = both_gradients(initial(module, x))
    for actual, expected in zip(*map(jax.tree.leaves, (in_int8, in_float)), strict=True):
        assert cosine(actual, expected) > 0.99
    expected = {tuple(jax.random.key_data(fold(key, n)).tolist()) for n in range(3)}
    assert sorted(map(tuple, keys.tolist())) == sorted(expected)


def test_modules_are_as_before_afterwards() -> None:
    operations = []

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            layer = nn.Dense(3)
            with int8_backward(jax.random.key(0)):
                y = layer(x)
            operations.append(layer.dot_general)
            return y

    jax.eval_shape(Outer().init, jax.random.key(1), real(0, (2, 4)))
    assert operations == [None]
    module, x = nn.Dense(3), real(0, (2, 4))
    params = initial(module, x)
    with int8_backward(jax.random.key(0)):
        module.apply(params, x)
        jaxpr = jax.make_jaxpr(module.apply)(params, x)
    assert module.dot_general is None and "custom_vjp" in str(jaxpr)
    assert "custom_vjp" not in str(jax.make_jaxpr(module.apply)(params, x))


FALL_THROUGH: dict[str, tuple[Any, tuple[int, ...]]] = {
    "groups": (nn.Conv(4, (3, 3), feature_group_count=2), (2, 5, 5, 4)),
    "input dilation": (nn.Conv(4, (3, 3), input_dilation=(2, 1), padding=1), (2, 5, 5, 4)),
    "complex": (nn.Dense(4, dtype=jnp.complex64, param_dtype=jnp.complex64), (2, 4)),
    "an operation made on the spot": (
        nn.Dense(4, dot_general_cls=lambda: jax.lax.dot_general), (2, 4),
    ),
    "another module": (nn.ConvTranspose(4, (3, 3)), (2, 5, 5, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", FALL_THROUGH)
def test_any_other_module_keeps_its_float_backward_pass(name: str) -> None:
    module, shape = FALL_THROUGH[name]
    x = real(0, shape)
    if name == "complex":
        x = x.astype(jnp.complex64)
    params = initial(module, x)
    with int8_backward(jax.random.key(0)):
        assert "custom_vjp" not in str(jax.make_jaxpr(module.apply)(params, x))


def dense_gradients(x: Array, w: Array, dy: Array, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Dx and dw `[draws, ...]` of a dense layer, one draw for each of so many keys."""

    def draw(key: Array) -> tuple[Array, Array]:
        with int8_backward(key):
            run = lambda w, x: nn.Dense(w.shape[1], use_bias=False).apply(  # noqa: E731
                {"params": {"kernel": w}}, x
            )
            _, vjp = jax.vjp(run, w, x)
        dw, dx = vjp(dy)
        return dx, dw

    return jax.tree.map(
        np.asarray, jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(4), draws))
    )


def test_unbiased_for_the_rounded_operands_and_within_a_step_of_each_entry() -> None:
    draws = 4000
    x, w, dy = real(0, (6, 5)), real(1, (5, 4)), real(2, (6, 4)) ** 3
    (x_codes, x_scale), (w_codes, w_scale), (_, step) = map(rounded, (x, w, dy))
    x_near, w_near = x_codes * float(x_scale), w_codes * float(w_scale)
    exact = np.asarray(dy, np.float64)
    bounds = (step * np.abs(w_near).sum(1)[None], step * np.abs(x_near).sum(0)[:, None])
    expected = (exact @ w_near.T, x_near.T @ exact)
    results = zip(dense_gradients(x, w, dy, draws), expected, bounds, strict=True)
    for gradient, mean, bound in results:
        error = np.std(gradient, axis=0, ddof=1) / math.sqrt(draws)
        assert (error > 0).all()
        deviation = np.abs(gradient.mean(0, dtype=np.float64) - mean)
        assert (deviation <= 5 * error + 2**-17 * bound).all()
        assert (np.abs(gradient - mean) <= bound * (1 + 1e-5)).all()


def test_dy_is_rounded_once_for_both_products() -> None:
    x = jnp.ones((1, 1), jnp.float32)
    dy = jnp.asarray([[127.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]], jnp.float32)
    # dw is the rounded dy, and dx is the sum of its entries.
    dx, dw = dense_gradients(x, jnp.ones((1, 8), jnp.float32), dy, 50)
    np.testing.assert_allclose(dw.sum((1, 2)), dx[:, 0, 0], rtol=1e-5)
    assert len(np.unique(np.round(dx))) > 3


@pytest.mark.parametrize("module", [nn.Dense(4), nn.Conv(4, (3, 3))])
def test_zeros_give_zeros_and_nan_or_infinity_gives_nan(module: Any) -> None:
    x = real(0, (2, 3, 3, 17))
    params = initial(module, x)
    y = jax.eval_shape(module.apply, params, x)
    dy = real(1, y.shape)

    @jax.jit
    def run(kernel: Array, x: Array, dy: Array) -> tuple[Array, Array]:
        def apply(kernel: Array, x: Array) -> Array:
            return module.apply({"params": {**params["params"], "kernel": kernel}}, x)

        with int8_backward(jax.random.key(0)):
            _, vjp = jax.vjp(apply, kernel, x)
        dw, dx = vjp(dy)
        return dx, dw

    w = params["params"]["kernel"]
    for dx, dw in (run(w, x, 0 * dy), run(0 * w, 0 * x, dy)):
        assert not dx.any() and not dw.any()
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        dx, dw = run(w, x, dy.at[-1, -1, -1, -1].set(bad))
        assert jnp.isnan(dx).all() and jnp.isnan(dw).all()
        dx, dw = run(w, x.at[0, 0, 0, 0].set(bad), dy)
        assert jnp.isfinite(dx).all() and jnp.isnan(dw).all()
        dx, dw = run(w.at[(0,) * w.ndim].set(bad), x, dy)
        assert jnp.isnan(dx).all() and jnp.isfinite(dw).all()


CLIENT = nn.Sequential([nn.Conv(6, (3, 3)), nn.relu, nn.Dense(2)])


def client(key: Array, params: Any, x: Array) -> tuple[Array, Any]:
    """One client's output, and the function of its backward pass."""
    with int8_backward(key):
        return jax.vjp(lambda params: CLIENT.apply(params, x), params)


def test_mapped_over_clients_equals_a_loop_and_clients_share_no_noise() -> None:
    x, dy = real(0, (3, 2, 4, 4, 3)), real(1, (3, 2, 4, 4, 2))
    # Two clients are equal but for their keys.
    x, dy = x.at[1].set(x[0]), dy.at[1].set(dy[0])
    of_one_client = initial(CLIENT, x[0])
    params = jax.tree.map(lambda w: jnp.stack([w, w, w + 1]), of_one_client)
    clients = (jax.random.split(jax.random.key(2), 3), params, x)

    def mapped(chunk: int) -> Any:
        def run(clients: Any, dy: Array) -> Any:
            y, vjps = map_clients(client, chunk)(*clients)
            return y, map_clients(lambda vjp, dy: vjp(dy)[0], chunk)(vjps, dy)

        return jax.jit(run)

    one_by_one = mapped(1)
    looped = [
        one_by_one(*jax.tree.map(lambda a, n=n: a[n : n + 1], (clients, dy))) for n in range(3)
    ]
    expected = jax.tree.map(lambda *a: jnp.concatenate(a), *looped)
    for chunk in (2, 3):
        for ours, theirs in zip(
            *map(jax.tree.leaves, (mapped(chunk)(clients, dy), expected)), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    kernels = [w for w in jax.tree.leaves(expected[1]) if w.ndim > 2]
    assert len(kernels) == 2
    for kernel in kernels:
        assert (kernel[0] != kernel[1]).any()


@pytest.mark.parametrize("by", ["input and weights", "weights"])
def test_the_backward_pass_keeps_codes_only_and_in_the_first_layer_no_kernel(by: str) -> None:
    x = real(0, (8, 6, 6, 4))
    module = nn.Conv(50, (3, 3), use_bias=False)
    params = initial(module, x)

    def forward(params: Any, x: Array) -> Any:
        with int8_backward(jax.random.key(0)):
            if by == "input and weights":
                return jax.vjp(module.apply, params, x)[1]
            return jax.vjp(lambda params: module.apply(params, x), params)[1]

    sizes = [
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(jax.eval_shape(forward, params, x))
    ]
    kernel = params["params"]["kernel"].size
    assert sum(sizes) <= x.size + (kernel if by == "input and weights" else 0) + 64


def test_bfloat16_operands_have_bfloat16_gradients() -> None:
    module, x = nn.Conv(8, (3, 3), dtype=jnp.bfloat16), real(0, (2, 5, 5, 17))
    params = initial(module, x)
    in_float = gradients(module, params, x.astype(jnp.bfloat16), None, None)
    in_int8 = gradients(module, params, x.astype(jnp.bfloat16), None, jax.random.key(0))
    np.testing.assert_array_equal(in_int8.y, in_float.y)
    for actual, expected in zip(*map(jax.tree.leaves, (in_int8, in_float)), strict=True):
        assert actual.dtype == expected.dtype and cosine(actual, expected) > 0.99
    assert in_int8.x.dtype == jnp.bfloat16


def cosine(a: Array, b: Array) -> float:
    a, b = (np.asarray(v, np.float64).ravel() for v in (a, b))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("name", "norm", "shape"),
    [
        slow("small", "none", (2, 32, 32, 3)),
        ("cnn", "batch", (2, 16, 16, 3)),
        ("mlp", "none", (4, 28, 28, 1)),
        slow("resnet18", "group", (2, 16, 16, 3)),
    ],
)
def test_gradients_of_the_models_are_close_to_those_in_float(
    name: str, norm: str, shape: tuple[int, ...]
) -> None:
    model = MODELS[name].build(10, norm)
    if name in ("resnet18", "small"):
        model = model[: cut_index(model, MODELS[name].default_cut)]
    x = real(0, shape)
    params, stats, _ = random_like(
        jax.eval_shape(lambda key: layers.init(model, key, x), jax.random.key(0))
    )

    def run(params: Any) -> Any:
        return layers.apply(model, params, stats, x, True)

    @jax.jit
    def both_gradients(key: Array) -> Any:
        y, float_vjp, _ = jax.vjp(run, params, has_aux=True)
        with int8_backward(key):
            _, int8_vjp, _ = jax.vjp(run, params, has_aux=True)
        dy = jax.random.normal(jax.random.key(1), y.shape)
        return float_vjp(dy), int8_vjp(dy)

    flat = [
        jnp.concatenate([gradient.ravel() for gradient in jax.tree.leaves(tree)])
        for tree in both_gradients(jax.random.key(2))
    ]
    assert 0.99 < cosine(*flat) < 1 - 1e-7, "close, but not the same"
