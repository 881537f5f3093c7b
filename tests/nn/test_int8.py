"""Backward passes in int8: equal to NumPy's products of whole numbers, unbiased, hiding no NaN."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import Array

from jfedsl.keys import fold
from jfedsl.models import layers
from jfedsl.models.registry import MODELS
from jfedsl.nn import convolution, int8
from jfedsl.nn.conv_forms import Window
from jfedsl.nn.int8 import int8_backward
from jfedsl.sharding.client_map import map_clients


class Gradients(NamedTuple):
    """Output, and the gradients by parameters and input."""

    y: Array
    params: Any
    x: Array


def real(seed: int, shape: tuple[int, ...]) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def codes(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers of which one is 127, so that they are codes of their own, with scale 1."""
    drawn = np.random.default_rng(seed).integers(-127, 128, shape, np.int8)
    drawn.flat[0] = 127
    return drawn


def rounded(x: Array) -> tuple[np.ndarray, np.float32]:
    """The nearest codes, and their scale."""
    scale = np.float32(np.abs(x).max() / np.float32(127))
    return np.round(np.asarray(x) / scale).astype(np.int64), scale


def filled(shapes: Any) -> Any:
    """Random numbers of these shapes, those of kernels of a size that keeps activations alike."""
    return jax.tree.map(
        lambda w: real(w.size, w.shape).astype(w.dtype) / math.sqrt(math.prod(w.shape[:-1])), shapes
    )


def initial(module: nn.Module, x: Array) -> Any:
    """Parameters whose biases are not 0 either, without compiling anything."""
    return filled(jax.eval_shape(module.init, jax.random.key(0), x))


def gradients(
    module: nn.Module, params: Any, x: Array, dy: Array | None, key: Array | None
) -> Gradients:
    """In int8 with a key; `dy` default random."""

    def run(params: Any, x: Array) -> Any:
        return module.apply(params, x)

    def both(params: Any, x: Array, key: Array | None) -> Gradients:
        if key is None:
            y, back = jax.vjp(run, params, x)
        else:
            with int8_backward(key):
                y, back = jax.vjp(run, params, x)
        return Gradients(y, *back(real(9, y.shape).astype(y.dtype) if dy is None else dy))

    return jax.jit(both)(params, x, key)


class Case(NamedTuple):
    """A module, and what its kernel slides over: all of one entry a spatial dimension."""

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
    "ours": Case(
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
    sides, dx, dw = len(case.strides), np.zeros_like(x), np.zeros_like(w)
    lead = (-1,) if sides == 0 else x.shape[:1]
    pixels, changes = (a.reshape(*lead, *x.shape[x.ndim - 1 - sides :]) for a in (x, dx))
    rows = dy.reshape(*lead, *dy.shape[dy.ndim - 1 - sides :])
    for out in np.ndindex(*rows.shape[1:-1]):
        for tap in np.ndindex(*w.shape[:-2]):
            window = zip(out, case.strides, tap, case.dilation, case.low, strict=True)
            place = tuple(o * s + t * d - low for o, s, t, d, low in window)
            if all(0 <= p < n for p, n in zip(place, pixels.shape[1:-1], strict=True)):
                here, there = (slice(None), *place), (slice(None), *out)
                changes[here] += rows[there] @ w[tap].T
                dw[tap] += pixels[here].T @ rows[there]
    return dx, dw


@pytest.mark.parametrize("name", CASES)
def test_equals_products_of_whole_numbers(name: str) -> None:
    case = CASES[name]
    x = real(1, case.shape)
    params = initial(case.module, x)
    y = jax.jit(case.module.apply)(params, x)
    whole = codes(2, y.shape)
    dy = jnp.asarray(whole, jnp.float32) * 0.25
    found = gradients(case.module, params, x, dy, jax.random.key(3))
    np.testing.assert_array_equal(found.y, y, "the forward pass is the same to the bit")
    (x_codes, x_scale), (w_codes, w_scale) = rounded(x), rounded(params["params"]["kernel"])
    dx, dw = products(case, x_codes, w_codes, whole.astype(np.int64))
    np.testing.assert_allclose(found.x, dx * (0.25 * w_scale), rtol=1e-6)
    np.testing.assert_allclose(found.params["params"]["kernel"], dw * (0.25 * x_scale), rtol=1e-6)
    if "bias" in params["params"]:
        own = np.asarray(dy).reshape(-1, dy.shape[-1]).sum(0)
        np.testing.assert_allclose(found.params["params"]["bias"], own, rtol=1e-6)


SAME = Window((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))
DENSE = Window((), (), (), ())


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(
    ("window", "x_shape", "w_shape"),
    [
        (DENSE, (2081, 6), (6, 2081)),
        (SAME, (3, 24, 24, 2), (3, 3, 2, 130)),
        (SAME, (3, 24, 24, 16), (3, 3, 16, 5)),
        (SAME, (2, 34, 34, 16), (3, 3, 16, 5)),
    ],
)
def test_long_sums_are_exact_whatever_the_form(
    backend: str, window: Window, x_shape: Any, w_shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    # All of one sign and mostly odd: float32 would round the whole sum.
    x, w, dy = (
        np.abs(codes(seed, shape)) | np.int8(97)
        for seed, shape in enumerate((x_shape, w_shape, (*x_shape[:-1], w_shape[-1])))
    )
    dx = jax.jit(lambda d, w: int8._input_gradient(d, w, window, x_shape[1:-1]))(dy, w)
    dw = jax.jit(lambda x, d: int8._weight_gradient(x, d, window, w_shape))(x, dy)
    sides = len(w_shape) - 2
    case = Case(None, x_shape, (1,) * sides, (1,) * sides, (1,) * sides)
    expected = products(case, *(a.astype(np.int64) for a in (x, w, dy)))
    for ours, theirs in zip((dx, dw), expected, strict=True):
        assert ours.dtype == jnp.int32
        np.testing.assert_array_equal(ours, theirs)
    assert max(e.max() for e in expected) > 2**24


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_sums_beyond_int32_do_not_overflow(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    full = np.full((int8._INT_TERMS + 100, 1), 127, np.int8)
    found = int8._weight_gradient(full, full, DENSE, (1, 1))
    np.testing.assert_allclose(found, len(full) * 127**2, rtol=1e-6)


class Pair(nn.Module):
    """As a user writes it: one layer set up beforehand and called twice, one convolution inside."""

    def setup(self) -> None:
        self.dense = nn.Dense(8)
        self.conv = nn.Conv(8, (3, 3))

    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = nn.relu(self.conv(x))
        return self.dense(x), self.dense(x)


def test_a_users_module_works_and_calls_draw_from_keys_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Array] = []
    quantize = int8._quantize

    def spy(x: Array, key: Array | None = None) -> Any:
        if key is not None:
            seen.append(jax.random.key_data(key))
        return quantize(x, key)

    monkeypatch.setattr(int8, "_quantize", spy)
    module, x, key = Pair(), real(0, (2, 4, 4, 3)), jax.random.key(5)
    dy = (real(1, (2, 4, 4, 8)), real(2, (2, 4, 4, 8)))

    @jax.jit
    def both(params: Any) -> Any:
        _, plain = jax.vjp(module.apply, params, x)
        with int8_backward(key):
            _, back = jax.vjp(module.apply, params, x)
        return back(dy), plain(dy), jnp.stack(seen)

    ours, theirs, keys = both(initial(module, x))
    for mine, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        assert cosine(mine, other) > 0.99
    expected = {tuple(jax.random.key_data(fold(key, n)).tolist()) for n in range(3)}
    assert sorted(map(tuple, keys.tolist())) == sorted(expected)


def test_nothing_stays_replaced() -> None:
    inside = []

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            layer = nn.Dense(3)
            with int8_backward(jax.random.key(0)):
                y = layer(x)
            inside.append(layer.dot_general)
            return y

    jax.eval_shape(Outer().init, jax.random.key(1), real(0, (2, 4)))
    assert inside == [None]
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
def test_anything_else_has_its_own_backward_pass(name: str) -> None:
    module, shape = FALL_THROUGH[name]
    x = real(0, shape)
    if name == "complex":
        x = x.astype(jnp.complex64)
    params = initial(module, x)
    with int8_backward(jax.random.key(0)):
        assert "custom_vjp" not in str(jax.make_jaxpr(module.apply)(params, x))


def drawn(x: Array, w: Array, dy: Array, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Dx and dw of a dense layer `[draws, ...]`, each under a key of its own."""

    def one(key: Array) -> tuple[Array, Array]:
        with int8_backward(key):
            run = lambda w, x: nn.Dense(w.shape[1], use_bias=False).apply(  # noqa: E731
                {"params": {"kernel": w}}, x
            )
            _, back = jax.vjp(run, w, x)
        dw, dx = back(dy)
        return dx, dw

    return jax.tree.map(
        np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(4), draws))
    )


def test_unbiased_for_the_rounded_operands_and_within_a_step_of_each_entry() -> None:
    draws = 4000
    x, w, dy = real(0, (6, 5)), real(1, (5, 4)), real(2, (6, 4)) ** 3
    (x_codes, x_scale), (w_codes, w_scale), (_, step) = map(rounded, (x, w, dy))
    x_near, w_near = x_codes * float(x_scale), w_codes * float(w_scale)
    exact = np.asarray(dy, np.float64)
    bounds = (step * np.abs(w_near).sum(1)[None], step * np.abs(x_near).sum(0)[:, None])
    expected = (exact @ w_near.T, x_near.T @ exact)
    for found, mean, bound in zip(drawn(x, w, dy, draws), expected, bounds, strict=True):
        error = np.std(found, axis=0, ddof=1) / math.sqrt(draws)
        assert (error > 0).all()
        assert (np.abs(found.mean(0, dtype=np.float64) - mean) <= 5 * error + 2**-17 * bound).all()
        assert (np.abs(found - mean) <= bound * (1 + 1e-5)).all()


def test_dy_is_rounded_once_for_both_products() -> None:
    one = jnp.ones((1, 1), jnp.float32)
    dy = jnp.asarray([[127.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]], jnp.float32)
    # dw is the rounded dy, and dx tells how many of its entries were rounded up.
    dx, dw = drawn(one, jnp.ones((1, 8), jnp.float32), dy, 50)
    np.testing.assert_allclose(dw.sum((1, 2)), dx[:, 0, 0], rtol=1e-5)
    assert len(np.unique(np.round(dx))) > 3


@pytest.mark.parametrize("module", [nn.Dense(4), nn.Conv(4, (3, 3))])
def test_zeros_give_zeros_and_nothing_finite_hides_what_is_not(module: Any) -> None:
    x = real(0, (2, 3, 3, 17))
    params = initial(module, x)
    y = jax.eval_shape(module.apply, params, x)
    dy = real(1, y.shape)

    @jax.jit
    def run(kernel: Array, x: Array, dy: Array) -> tuple[Array, Array]:
        def apply(kernel: Array, x: Array) -> Array:
            return module.apply({"params": {**params["params"], "kernel": kernel}}, x)

        with int8_backward(jax.random.key(0)):
            _, back = jax.vjp(apply, kernel, x)
        dw, dx = back(dy)
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
    one = initial(CLIENT, x[0])
    params = jax.tree.map(lambda w: jnp.stack([w, w, w + 1]), one)
    clients = (jax.random.split(jax.random.key(2), 3), params, x)

    def mapped(chunk: int) -> Any:
        def run(clients: Any, dy: Array) -> Any:
            y, backs = map_clients(client, chunk)(*clients)
            return y, map_clients(lambda back, dy: back(dy)[0], chunk)(backs, dy)

        return jax.jit(run)

    single = mapped(1)
    looped = [single(*jax.tree.map(lambda a, n=n: a[n : n + 1], (clients, dy))) for n in range(3)]
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


@pytest.mark.parametrize("whose", ["input", "weights"])
def test_the_backward_pass_keeps_bytes_only_and_of_the_first_layer_no_kernel(whose: str) -> None:
    x = real(0, (8, 6, 6, 4))
    module = nn.Conv(50, (3, 3), use_bias=False)
    params = initial(module, x)

    def forward(params: Any, x: Array) -> Any:
        with int8_backward(jax.random.key(0)):
            if whose == "input":
                return jax.vjp(module.apply, params, x)[1]
            return jax.vjp(lambda params: module.apply(params, x), params)[1]

    sizes = [
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(jax.eval_shape(forward, params, x))
    ]
    kernel = params["params"]["kernel"].size
    assert sum(sizes) <= x.size + (kernel if whose == "input" else 0) + 64


def test_bfloat16_operands_have_bfloat16_gradients() -> None:
    module, x = nn.Conv(8, (3, 3), dtype=jnp.bfloat16), real(0, (2, 5, 5, 17))
    params = initial(module, x)
    plain = gradients(module, params, x.astype(jnp.bfloat16), None, None)
    found = gradients(module, params, x.astype(jnp.bfloat16), None, jax.random.key(0))
    np.testing.assert_array_equal(found.y, plain.y)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, plain)), strict=True):
        assert ours.dtype == theirs.dtype and cosine(ours, theirs) > 0.99
    assert found.x.dtype == jnp.bfloat16


def cosine(a: Array, b: Array) -> float:
    a, b = (np.asarray(v, np.float64).ravel() for v in (a, b))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("name", "norm", "shape"),
    [
        ("small", "none", (2, 32, 32, 3)),
        ("cnn", "batch", (2, 16, 16, 3)),
        ("mlp", "none", (4, 28, 28, 1)),
        ("resnet18", "group", (2, 16, 16, 3)),
    ],
)
def test_gradients_of_the_zoo_are_close_to_those_in_float(
    name: str, norm: str, shape: tuple[int, ...]
) -> None:
    model = MODELS[name].build(10, norm)
    if name in ("resnet18", "small"):
        model = model[: layers.cut_index(model, MODELS[name].default_cut)]
    x = real(0, shape)
    params, stats = filled(
        jax.eval_shape(lambda key: layers.init(model, key, x), jax.random.key(0))
    )

    def run(params: Any) -> Any:
        return layers.apply(model, params, stats, x, True)

    @jax.jit
    def both(key: Array) -> Any:
        y, back, _ = jax.vjp(run, params, has_aux=True)
        with int8_backward(key):
            _, ours, _ = jax.vjp(run, params, has_aux=True)
        dy = jax.random.normal(jax.random.key(1), y.shape)
        return back(dy), ours(dy)

    theirs, ours = both(jax.random.key(2))
    flat = [jnp.concatenate([g.ravel() for g in jax.tree.leaves(tree)]) for tree in (ours, theirs)]
    assert 0.99 < cosine(*flat) < 1 - 1e-7, "close, but not the same"
