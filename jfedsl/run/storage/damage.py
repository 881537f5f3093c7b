"""Whether an error of a reader means a damaged file, or that the machine cannot read it now."""

import re
from collections.abc import Iterator

# Errors that readers raise for missing files, and for contents that they cannot decode.
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_DECODING = (
    ValueError, LookupError, TypeError, AttributeError, EOFError, ArithmeticError, RecursionError,
)  # fmt: skip
# Tensorstore's codes of system errors, which do not mean damage.
_PASSING = re.compile(
    "(RESOURCE_EXHAUSTED|UNAVAILABLE|PERMISSION_DENIED|DEADLINE_EXCEEDED|CANCELLED|ABORTED|"
    "UNKNOWN):"
)


def means_damage(error: BaseException) -> bool:
    """Whether a reader's error means that the file is damaged or missing.

    Other errors, such as too little memory or too many open files, do not.
    """
    known = isinstance(error, (*_MISSING, *_DECODING))
    return known and not any(map(_passes, _chain(error)))


def _passes(error: BaseException) -> bool:
    """Whether the machine, and not the file, caused an error."""
    system = isinstance(error, (OSError, MemoryError)) and not isinstance(error, _MISSING)
    return system or bool(_PASSING.match(str(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and the errors that caused it."""
    if error is not None:
        yield error
        yield from _chain(error.__cause__)
        if not error.__suppress_context__:
            yield from _chain(error.__context__)
