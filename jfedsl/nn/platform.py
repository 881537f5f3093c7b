"""The platform that a program is traced for, which forms, chunks and dtypes follow.

It is that of the devices that the program is compiled for. These may be others than those of the
process: a program for a GPU or a TPU can be compiled where there is only a CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import jax
from jax.sharding import Mesh

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_PLATFORM = ContextVar[str | None]("platform", default=None)
_GPUS = {"cuda", "rocm"}  # one platform of JAX with two names of devices


def platform() -> str:
    """cpu, gpu or tpu: that of `tracing_for`, outside of it that of the process."""
    return _PLATFORM.get() or jax.default_backend()


@contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """Inside, programs are traced for a platform.

    A jitted function that was traced before, for the same shapes, keeps its platform.

    Args:
      name: cpu, gpu or tpu.
    """
    token = _PLATFORM.set(name)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


def traced_for(name: str, function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A function that is traced for a platform, wherever it is jitted."""

    @wraps(function)
    def traced(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with tracing_for(name):
            return function(*args, **kwargs)

    return traced


def platform_of(mesh: Mesh | None) -> str:
    """The platform of the devices of a mesh; without one that of `platform`."""
    if mesh is None:
        return platform()
    name: str = mesh.devices.flat[0].platform
    return "gpu" if name in _GPUS else name
