"""Two faults of JAX's folder of compiled programs, mended: torn entries, and a false warning.

JAX never replaces an entry. Every later run would report an entry that a kill or a full disk cut
short, and would compile the program again. So entries are written whole, and one that cannot be
read is removed.

XLA lists the processor features that a program was compiled for, and adds hints where AVX-512 is
among them. When it loads the program on a CPU, it does not find the hints among the features of the
host, and logs kilobytes of "could lead to execution errors such as SIGILL". So a loaded entry does
not list the features that this processor has. Features that it lacks stay in the list, and XLA
reports them.

JAX has no public hook for either. If a later version renames the functions, nothing is mended.
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

_NAME = "{}-cache"  # file name that JAX gives a key
_HINTED = re.compile(rb"\+(avx512\w+|prefer-no-(?:gather|scatter))")


def mend() -> None:
    """Wraps the functions of JAX that write, read and decode entries; once in a process."""
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import compilation_cache
        from jax._src.lru_cache import LRUCache

        for owner, name, wrap in (
            (compilation_cache, "get_executable_and_time", _removing),
            (compilation_cache, "extract_executable_and_time", _unhinted),
            (LRUCache, "put", _whole),
        ):
            function = getattr(owner, name)
            if not hasattr(function, "__wrapped__"):  # else it has been wrapped before
                setattr(owner, name, wrap(function))


def _removing(load: Callable[..., Any]) -> Callable[..., Any]:
    """`load(key, ...)` that removes a damaged entry; JAX then compiles the program again."""

    @functools.wraps(load)
    def loaded(key: str, *arguments: Any, **named: Any) -> Any:
        try:
            return load(key, *arguments, **named)
        except (OSError, MemoryError):
            raise  # the entry may be whole
        except Exception as error:  # any error of the decoder or of XLA
            if "RESOURCE_EXHAUSTED" in str(error):
                raise  # the device has no memory for the program
            folder = getattr(jax.config, "jax_compilation_cache_dir", None)
            try:
                Path(str(folder), _NAME.format(key)).unlink()
            except OSError:
                pass  # no such file, or no right to remove it
            else:
                return None, None
            raise

    return loaded


def _unhinted(extract: Callable[[bytes], tuple[bytes, int]]) -> Callable[..., tuple[bytes, int]]:
    """`extract(entry)` that takes features of this processor, and hints, out of the list."""
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
    """The features of this processor, in one line as Linux lists them; empty on other systems."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return ""


def _whole(put: Callable[..., None]) -> Callable[..., None]:
    """`put(cache, key, value)` that writes the whole entry or nothing, even at a kill."""

    @functools.wraps(put)
    def written(cache: Any, key: str, value: bytes) -> None:
        folder = Path(str(cache.path))
        if cache.eviction_enabled or not folder.is_dir():  # JAX limits the size, or it is a bucket
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
