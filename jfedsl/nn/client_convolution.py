"""Convolutions that become one batched matrix product when each client has a kernel of its own.

Mapped over clients, lax's convolution of clients' inputs with clients' kernels is a grouped one,
with a group a client. On accelerators its few channels a group fill no matrix unit. Here the pixels
under all taps lie side by side, and one product over the client axis has them all. Without clients'
kernels, as on the server, it is the convolution of lax. Only the innermost map over clients becomes
a product; maps around it see lax's operations.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap

from jfedsl.nn.conv_forms import (
    Window,
    accumulation_dtype,
    lax_convolution,
    lax_weight_gradient,
    patches,
)

# Measured on an H100 (docs/design/performance_gpu.md): a grouped convolution runs at some 2 TFLOP/s
# whatever its channels; the product writes and reads the pixels under all taps at some 1.5 TB/s.
# TPUs have not been measured and take the same numbers.
_GROUPED_FLOPS, _BYTES_A_SECOND = 2e12, 1.5e12
# The pixels under all taps that lie in memory at once; above it, clients are computed in chunks.
_MOST_BYTES = 2**30
_GROUPED_ONLY = ContextVar("grouped convolutions only", default=False)

_Form = Callable[[Array, Array], Array]


def convolution(x: Array, w: Array, window: Window) -> Array:
    """A convolution, channels last.

    Args:
      x: input `[B, H, W, Cin]`.
      w: kernel `[KH, KW, Cin, Cout]`.
      window: how the kernel slides.

    Returns:
      `[B, H', W', Cout]`, in the dtype of `x`.
    """
    form = partial(lax_convolution, window=window)
    outputs = jax.eval_shape(form, x, w).shape[1:]
    product = partial(_product, window=window, outputs=outputs[:-1])
    return _by_clients(form, product, w.shape[:2], outputs)(x, w)


def weight_gradient(x: Array, dy: Array, window: Window, kernel: Sequence[int]) -> Array:
    """The gradient of `convolution` by its kernel.

    Args:
      x: input `[B, H, W, Cin]`.
      dy: gradient by the output, `[B, H', W', Cout]`.
      window: how the kernel slides.
      kernel: extents of the kernel.

    Returns:
      `[KH, KW, Cin, Cout]`, in the dtype of `x`.
    """
    form = partial(lax_weight_gradient, window=window, kernel=kernel)
    product = partial(_weight_product, window=window, kernel=kernel)
    return _by_clients(form, product, kernel, dy.shape[1:])(x, dy)


@contextmanager
def grouped_only() -> Iterator[None]:
    """Inside, clients' convolutions are traced as grouped ones, to compare the two forms."""
    token = _GROUPED_ONLY.set(True)
    try:
        yield
    finally:
        _GROUPED_ONLY.reset(token)


def suits_product(outputs: int, itemsize: int) -> bool:
    """Whether the batched product takes less time than the grouped convolution.

    For each pixel and tap-channel the product moves two entries, and the grouped convolution
    computes two FLOPs an output channel: neither batch, size nor input channels matter.

    >>> suits_product(3, 4), suits_product(16, 4)
    (False, True)

    Args:
      outputs: channels of the output.
      itemsize: bytes of an entry.
    """
    return 2 * itemsize / _BYTES_A_SECOND < 2 * outputs / _GROUPED_FLOPS


def _by_clients(
    form: _Form, product: _Form, kernel: Sequence[int], outputs: Sequence[int]
) -> _Form:
    """The form, and over clients that differ in both operands the product where it suits."""
    computed = custom_vmap(form)
    pixels_and_taps = int(np.prod([*outputs[:-1], *kernel]))

    @computed.def_vmap
    def over_clients(
        clients: int, batched: Sequence[bool], x: Array, other: Array
    ) -> tuple[Array, bool]:
        suits = suits_product(outputs[-1], x.dtype.itemsize) and not _GROUPED_ONLY.get()
        if not (all(batched) and suits and pixels_and_taps):
            axes = [0 if each else None for each in batched]
            return jax.vmap(form, axes)(x, other), True
        of_client = x.shape[1] * pixels_and_taps * x.shape[-1] * x.dtype.itemsize
        chunks = min(clients, -(-clients * of_client // _MOST_BYTES))
        return _in_chunks(product, chunks)(x, other), True

    run: _Form = computed
    return run


def _in_chunks(product: _Form, chunks: int) -> _Form:
    """The product mapped over clients, so many chunks of them one after another."""
    if chunks <= 1:
        return jax.vmap(product)

    def mapped(x: Array, other: Array) -> Array:
        clients = len(x)
        # Chunks of one size, so that they share a program: copies of clients fill up the last.
        rows = np.minimum(np.arange(chunks * -(-clients // chunks)), clients - 1)
        of_chunks = [a[rows].reshape(chunks, -1, *a.shape[1:]) for a in (x, other)]
        results = lax.map(lambda pair: jax.vmap(product)(*pair), tuple(of_chunks))
        return results.reshape(-1, *results.shape[2:])[:clients]

    return mapped


def _product(x: Array, w: Array, window: Window, outputs: Sequence[int]) -> Array:
    pixels = patches(x, window, w.shape[:2], outputs)
    y = jnp.matmul(
        pixels, w.reshape(pixels.shape[1], w.shape[3]), preferred_element_type=accumulation_dtype(x)
    )
    return y.reshape(len(x), *outputs, w.shape[3]).astype(x.dtype)


def _weight_product(x: Array, dy: Array, window: Window, kernel: Sequence[int]) -> Array:
    pixels = patches(x, window, kernel, dy.shape[1:3])
    dw = jnp.matmul(
        pixels.T, dy.reshape(len(pixels), dy.shape[3]), preferred_element_type=accumulation_dtype(x)
    )
    return dw.reshape(*kernel, x.shape[3], dy.shape[3]).astype(x.dtype)
