"""What `jfedsl doctor` looks at: each check gives findings, one line each."""

import importlib.metadata
import itertools
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax
from packaging.requirements import Requirement

from jfedsl import __version__
from jfedsl.data.preparation import NAMES, command, is_prepared, prepared_folder
from jfedsl.errors import one_line
from jfedsl.nn.conv_forms import CHANNELS_LAST
from jfedsl.nn.convolution import conv_general_dilated
from jfedsl.nn.int8 import int8_backward

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_MIB = 2**20
_CHANNELS = (4, 16, 128, 256)  # on a CPU: pairs of pixels, as they are, Winograd


class Finding(NamedTuple):
    """One line of what was found.

    Attributes:
      about: what was looked at.
      text: what was found.
      fine: whether it is as it should be.
    """

    about: str
    text: str
    fine: bool = True


def everything(data_dir: str, compilation_cache: str) -> Iterator[Finding]:
    """All findings; each is computed when it is asked for.

    Args:
      data_dir: folder of prepared data sets.
      compilation_cache: folder of compiled programs.
    """
    yield from versions()
    yield devices()
    yield machine()
    for about, check in NUMBERS.items():
        yield numbers(about, check)
    yield from data_sets(data_dir)
    yield programs(compilation_cache)


def versions() -> Iterator[Finding]:
    """Versions of Python and of the libraries that compute, beside what the package requires."""
    yield Finding("jfedsl", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    required = _requirements()
    for name in _LIBRARIES:
        version = importlib.metadata.version(name)
        needs = required.get(name)
        if needs is None or needs.specifier.contains(version, prereleases=True):
            yield Finding(name, version)
        else:
            yield Finding(name, f"{version}; jfedsl needs {needs.specifier}", False)


def _requirements() -> dict[str, Requirement]:
    """What the installed package requires, by library; empty if pip has not installed it."""
    try:
        texts = importlib.metadata.requires("jfedsl") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    every = map(Requirement, texts)
    return {r.name: r for r in every if r.marker is None or r.marker.evaluate({"extra": ""})}


def devices() -> Finding:
    """The devices that JAX computes on."""
    try:
        devices = jax.devices()
    except RuntimeError as error:  # the platform that was asked for is not there
        return Finding("devices", one_line(str(error)), False)
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    stats = devices[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    memory = f", {limit // _MIB:,} MiB each" if limit else ""
    return Finding("devices", f"{len(devices)} {jax.default_backend()} ({kinds}){memory}")


def machine() -> Finding:
    """Cores and memory of the machine."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    memory = ""
    if "SC_PHYS_PAGES" in os.sysconf_names:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        memory = f", {size // _MIB:,} MiB of memory"
    return Finding("machine", f"{platform.machine()}, {cores} cores{memory}")


def numbers(about: str, check: Callable[[], float]) -> Finding:
    """Whether a check computes the right numbers; `check` returns the largest relative error."""
    try:
        error = check()
    except Exception as failure:  # whatever the compiler raises, the other checks go on
        return Finding(about, one_line(f"{type(failure).__name__}: {failure}"), False)
    text = f"largest relative error {error:.1e}"
    allowed = 1e-4 if jax.default_backend() == "cpu" else 1e-2  # GPUs round operands to 10 bits
    return Finding(about, text, bool(error < allowed))  # False for NaN


def fused_error() -> float:
    """Mapped matrix-vector products, squared and summed: jax 0.10.2 gets the last row wrong.

    Source: jax-ml/jax issue 39103.
    """
    rows = jnp.arange(32769, dtype=jnp.float32)
    x = jnp.stack((rows, 0 * rows, 0 * rows), axis=1)
    run = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))
    return _error(run(x), np.arange(32769.0) ** 2)


def convolution_error() -> float:
    """Loss and gradients of three convolutions in the fast forms, beside those of lax."""
    images = jax.random.normal(jax.random.key(0), (16, 8, 8, _CHANNELS[0]))
    keys = jax.random.split(jax.random.key(1), len(_CHANNELS) - 1)
    shapes = [(3, 3, *pair) for pair in itertools.pairwise(_CHANNELS)]
    kernels = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]

    def gradients(operation: Callable[..., Array]) -> list[Array]:
        def loss(kernels: list[Array]) -> Array:
            x = images
            for w in kernels:
                x = operation(x, w, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST)
            return jnp.mean(x**2)

        value, gradient = jax.jit(jax.value_and_grad(loss))(kernels)
        return [value, *gradient]

    return max(map(_error, gradients(conv_general_dilated), gradients(lax.conv_general_dilated)))


def int8_error() -> float:
    """Gradients of a dense layer in int8, where all operands are codes and no rounding happens."""
    generator = np.random.default_rng(0)
    x, w, dy = (
        generator.integers(-127, 128, shape).astype(np.float32)
        for shape in ((100, 128), (128, 10), (100, 10))  # a GPU has doubled sums of 10
    )
    for operand in (x, w, dy):
        operand[0, 0] = 127  # the scale of its codes is then 1
    layer = nn.Dense(10, use_bias=False)

    def loss(w: Array, x: Array) -> Array:
        with int8_backward(jax.random.key(0)):
            y = layer.apply({"params": {"kernel": w}}, x)
        return jnp.sum(jnp.asarray(y) * dy)

    dw, dx = jax.jit(jax.grad(loss, argnums=(0, 1)))(w, x)
    return max(_error(dw, x.T @ dy), _error(dx, dy @ w.T))


def _error(actual: Array, expected: Array | np.ndarray) -> float:
    """The largest difference, relative to the largest expected magnitude."""
    difference = np.abs(np.asarray(actual, np.float64) - np.asarray(expected, np.float64))
    return float(difference.max() / np.abs(np.asarray(expected)).max())


NUMBERS: dict[str, Callable[[], float]] = {
    "fused products": fused_error,
    "convolution": convolution_error,
    "int8 gradients": int8_error,
}


def data_sets(data_dir: str) -> Iterator[Finding]:
    """Which data sets are prepared, and the command for those that are not."""
    yield Finding("digits", "comes with scikit-learn")
    for name in NAMES:
        folder = prepared_folder(name, data_dir)
        if is_prepared(folder):
            yield Finding(name, f"prepared in {folder}")
        elif folder.exists():
            text = f"{folder}: incomplete; delete this folder, then run: {command(name, data_dir)}"
            yield Finding(name, text, False)
        else:
            yield Finding(name, f"not prepared; to prepare it: {command(name, data_dir)}")


def programs(folder: str) -> Finding:
    """The folder of compiled programs and its size."""
    path = Path(folder).expanduser()
    files = [entry for entry in path.rglob("*-cache") if entry.is_file()]
    size = sum(entry.stat().st_size for entry in files) / _MIB
    return Finding("compiled programs", f"{len(files)} in {path}, {size:,.0f} MiB")
