"""Quiet saving: libraries do not report again what the caller says in one line."""

import contextlib
import logging
import sys
from collections.abc import Iterator

_LOGGERS = ("absl", "asyncio")
_LATE = "Event loop is closed"  # as asyncio says to a thread that still has news for it


@contextlib.contextmanager
def without_tracebacks() -> Iterator[None]:
    """Without the tracebacks of Orbax, asyncio and tensorstore for every array not written.

    Only those: what other threads print or raise meanwhile is shown. Orbax and asyncio use loggers.
    Threads of tensorstore raise where nobody can catch it, which is for `sys.unraisablehook`.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook

    def unless_late(raised: "sys.UnraisableHookArgs") -> None:
        if _LATE not in str(raised.exc_value):
            hook(raised)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = unless_late
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
