"""Saving without the tracebacks of libraries: the caller reports a failure in one line."""

import contextlib
import logging
import sys
from collections.abc import Iterator

_LOGGERS = ("absl", "asyncio")
_LATE = "Event loop is closed"  # asyncio's error to a thread that reports too late


@contextlib.contextmanager
def without_tracebacks() -> Iterator[None]:
    """A context that hides the tracebacks of Orbax, asyncio and tensorstore about unwritten arrays.

    Orbax and asyncio use loggers. Threads of tensorstore raise where nothing catches the error, so
    it goes to `sys.unraisablehook`. All that other threads print or raise is shown.
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
