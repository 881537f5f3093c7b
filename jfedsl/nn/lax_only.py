"""A switch that keeps to the operations of lax and Flax, so that FLOPs and residuals are theirs.

The fast forms of this package compute the same by other products, padding and dtypes. A count of
FLOPs or of residual bytes must not depend on which form happens to suit the platform.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LAX_ONLY = ContextVar("lax operations only", default=False)


@contextmanager
def lax_only() -> Iterator[None]:
    """Inside, convolution, pooling and ReLU are traced as lax and Flax define them."""
    token = _LAX_ONLY.set(True)
    try:
        yield
    finally:
        _LAX_ONLY.reset(token)


def is_lax_only() -> bool:
    """Whether the caller is inside `lax_only()`."""
    return _LAX_ONLY.get()
