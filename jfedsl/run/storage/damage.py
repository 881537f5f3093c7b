"""Telling a damaged file from one that cannot be read for the moment."""

import re
from collections.abc import Iterator

# What readers make of missing files and of contents that they cannot decode.
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_DECODING = (
    ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError, RecursionError,
)  # fmt: skip
# Tensorstore's codes for errors of the system that are not the file's fault.
_PASSING = re.compile(
    "(RESOURCE_EXHAUSTED|UNAVAILABLE|PERMISSION_DENIED|DEADLINE_EXCEEDED|CANCELLED|ABORTED|"
    "UNKNOWN):"
)


def means_damage(error: BaseException) -> bool:
    """Whether a reader's error means that the file is damaged or missing.

    All others, such as too little memory or too many open files, say nothing of the file.
    """
    known = isinstance(error, (*_MISSING, *_DECODING))
    return known and not any(map(_passes, _chain(error)))


def _passes(error: BaseException) -> bool:
    """Whether an error is of the machine at this moment."""
    system = isinstance(error, (OSError, MemoryError)) and not isinstance(error, _MISSING)
    return system or bool(_PASSING.match(str(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and the errors that led to it."""
    if error is not None:
        yield error
        yield from _chain(error.__cause__)
        if not error.__suppress_context__:
            yield from _chain(error.__context__)
