"""JAX's folder of compiled programs, mended: whole entries only, and none that cannot be read.

JAX never replaces an entry. One that a kill or a full disk cut short would be reported and compiled
again by every later run. JAX has no public way in. Where a later version names these things
otherwise, its own behaviour stays.
"""

import contextlib
import functools
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_NAME = "{}-cache"  # what JAX calls the file of a key


def mend() -> None:
    """From now on, entries are written whole and those that cannot be read are removed."""
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import compilation_cache
        from jax._src.lru_cache import LRUCache

        for owner, name, wrap in (
            (compilation_cache, "get_executable_and_time", _removing),
            (LRUCache, "put", _whole),
        ):
            function = getattr(owner, name)
            if not hasattr(function, "__wrapped__"):  # the process has been here before
                setattr(owner, name, wrap(function))


def _removing(load: Callable[..., Any]) -> Callable[..., Any]:
    """`load(key, ...)`, which removes what is damaged, so that it is compiled and kept anew."""

    @functools.wraps(load)
    def loaded(key: str, *arguments: Any, **named: Any) -> Any:
        try:
            return load(key, *arguments, **named)
        except (OSError, MemoryError):
            raise  # says nothing of the entry
        except Exception:  # whatever the decoder or XLA make of it
            folder = getattr(jax.config, "jax_compilation_cache_dir", None)
            try:
                Path(str(folder), _NAME.format(key)).unlink()
            except OSError:
                pass  # no file of ours, or not ours to remove
            else:
                return None, None
            raise

    return loaded


def _whole(put: Callable[..., None]) -> Callable[..., None]:
    """`put(cache, key, value)`, which a kill, a full disk or a reader cannot meet half done."""

    @functools.wraps(put)
    def written(cache: Any, key: str, value: bytes) -> None:
        folder = Path(str(cache.path))
        if cache.eviction_enabled or not folder.is_dir():  # a size to keep to, or a bucket
            put(cache, key, value)
            return
        target = folder / _NAME.format(key)
        if target.exists():
            return
        part = folder / f"{key}.{platform.node()}.{os.getpid()}"
        try:
            part.write_bytes(value)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    return written
