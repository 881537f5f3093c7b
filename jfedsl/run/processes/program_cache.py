"""JAX's folder of compiled programs, mended: whole entries, and no false alarm about them.

JAX never replaces an entry. One that a kill or a full disk cut short would be reported and compiled
again by every later run.

XLA lists the processor's features that a program was compiled for, and adds hints of its own where
AVX-512 is among them. When it loads the program on CPU, it misses these hints among the features of
the host and logs kilobytes of "could lead to execution errors such as SIGILL". So an entry no
longer lists what this processor has. What it lacks stays, and is reported.

JAX has no public way in. Where a later version names these things otherwise, its own behaviour
stays.
"""

import contextlib
import functools
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_NAME = "{}-cache"  # what JAX calls the file of a key
_HINTED = re.compile(rb"\+(avx512\w+|prefer-no-(?:gather|scatter))")


def mend() -> None:
    """From now on, entries are written whole, and removed if they cannot be read."""
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import compilation_cache
        from jax._src.lru_cache import LRUCache

        for owner, name, wrap in (
            (compilation_cache, "get_executable_and_time", _removing),
            (compilation_cache, "extract_executable_and_time", _unhinted),
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
        except Exception as error:  # whatever the decoder or XLA make of it
            if "RESOURCE_EXHAUSTED" in str(error):
                raise  # of a device without room for the program
            folder = getattr(jax.config, "jax_compilation_cache_dir", None)
            try:
                Path(str(folder), _NAME.format(key)).unlink()
            except OSError:
                pass  # no file of ours, or not ours to remove
            else:
                return None, None
            raise

    return loaded


def _unhinted(extract: Callable[[bytes], tuple[bytes, int]]) -> Callable[..., tuple[bytes, int]]:
    """`extract(entry)`, with a program for which XLA adds no hints that it would then miss."""
    here = {name.replace("_", "") for name in processor_features().split()}

    def unlisted(match: re.Match[bytes]) -> bytes:
        name = match[1].decode()
        return b"-" + match[1] if name in here or name.startswith("prefer") else match[0]

    @functools.wraps(extract)
    def extracted(entry: bytes) -> tuple[bytes, int]:
        program, seconds = extract(entry)
        return _HINTED.sub(unlisted, program), seconds

    return extracted


def processor_features() -> str:
    """What Linux calls the features of this processor, in one line; empty elsewhere."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return ""


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
