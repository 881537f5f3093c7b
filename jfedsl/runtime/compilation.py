"""Compiled programs, kept on the disk from one start to the next."""

import contextlib
import hashlib
import os
import platform
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jfedsl.runtime import program_cache

# XLA logs this as an error about every program that it loads on CPU, as its own tuning hints are
# no features of a processor; the results are right. Other lines pass.
_NOISE = b"cpu_aot_loader.cc"

_ours: str | None = None  # the folder that keep_programs set, as that is a setting of the process


def keep_programs(folder: str) -> None:
    """Keeps programs that took a second or more to compile in a folder, made if need be.

    Each kind of processor has a folder of its own there, as a home directory may be shared between
    machines. A folder set elsewhere, in the environment or by JAX's own setting, stays.

    Args:
      folder: may start with `~`; empty for none.
    """
    global _ours
    program_cache.mend()
    if _folder() not in (None, _ours):
        return
    _ours = str(Path(folder).expanduser().absolute() / _processor()) if folder else None
    if _folder() != _ours:
        jax.config.update("jax_compilation_cache_dir", _ours)
        compilation_cache.reset_cache()  # it remembers which folder there was, or that none was


def _folder() -> str | None:
    """JAX's folder of compiled programs."""
    return getattr(jax.config, "jax_compilation_cache_dir", None)


def _processor() -> str:
    """A name for what programs compiled on this processor can run on."""
    features = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def compiled(function: Any, *arguments: Any) -> Callable[..., Any]:
    """Compiles a jitted function for arguments of these shapes, or loads it from the folder."""
    with without_noise():
        return function.lower(*arguments).compile()


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Passes on what the process writes to standard error, line by line, but for noise."""
    if jax.default_backend() != "cpu" or _folder() is None:
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    thread = threading.Thread(target=_pass_on, args=(reading, kept))
    thread.start()
    try:
        yield
    finally:
        os.dup2(kept, 2)  # closes the last end of the pipe to write to, and so ends the thread
        thread.join()
        os.close(kept)


def _pass_on(source: int, target: int) -> None:
    with os.fdopen(source, "rb") as lines, contextlib.suppress(OSError):
        for line in lines:
            if _NOISE not in line:
                os.write(target, line)
