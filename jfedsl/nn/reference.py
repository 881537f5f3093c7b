"""A switch from the fast forms of operations to those of lax, for counting what they compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PLAIN = ContextVar("plain operations", default=False)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Inside, convolution, pooling and ReLU are traced as lax and Flax have them."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def are_plain() -> bool:
    """Whether operations are to be traced as lax and Flax have them."""
    return _PLAIN.get()
