"""Compiled programs, kept on the disk from one start to the next."""

import hashlib
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jfedsl.errors import one_line
from jfedsl.run.processes import program_cache

_ours: str | None = None  # the folder that keep_programs has set for this process


def keep_programs(folder: str) -> None:
    """Keeps compiled programs in a folder, which is made if it is missing.

    Each kind of processor has a subfolder, because machines may share a home directory. A folder
    set in the environment or by JAX's setting stays. If the folder cannot be written, as in a
    container without a home, no programs are kept.

    Args:
      folder: may start with `~`; empty to keep no programs.
    """
    global _ours
    program_cache.mend()
    if _folder() not in (None, _ours):
        return
    _ours = _made(folder) if folder else None
    if _folder() != _ours:
        jax.config.update("jax_compilation_cache_dir", _ours)
        # Small programs too: building a run compiles dozens, which take seconds together.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()  # else JAX keeps to the folder that it used first


def _made(folder: str) -> str | None:
    """The subfolder of this kind of processor; prints a note if it cannot be written."""
    try:
        path = Path(folder).expanduser().absolute() / _processor()
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
        return str(path)
    except (OSError, RuntimeError) as error:  # the latter without a home
        text = f"note: no compiled programs are kept in --compilation_cache={folder}: {error}"
        print(one_line(text), file=sys.stderr, flush=True)
        return None


def _folder() -> str | None:
    """JAX's folder of compiled programs."""
    return getattr(jax.config, "jax_compilation_cache_dir", None)


def _processor() -> str:
    """A name of the kind of processor: of equal names, one runs the programs of the other."""
    features = platform.processor() + program_cache.processor_features()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def compiled(function: Any, *arguments: Any) -> Callable[..., Any]:
    """Compiles a jitted function for arguments of these shapes, or loads it from the folder.

    With JAX_DISABLE_JIT the function is returned as it is, so that a debugger can step through it.
    """
    if getattr(jax.config, "jax_disable_jit", False):
        run: Callable[..., Any] = function
        return run
    return function.lower(*arguments).compile()
