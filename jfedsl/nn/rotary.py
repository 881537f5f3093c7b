"""Rotary position embeddings: queries and keys turned by angles that grow with the position.

Su et al. 2021, arXiv 2104.09864, with the two halves of a head as the pairs that turn, as Llama has
them.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

SCALINGS = ("default", "linear", "llama3")


def frequencies(width: int, theta: float, scaling: Mapping[str, Any] | None = None) -> np.ndarray:
    """Angles a position of each pair, float32 `[width / 2]`.

    >>> frequencies(4, 10000.0).tolist()
    [1.0, 0.009999999776482582]

    Args:
      width: entries of a head, an even number.
      theta: base of the geometric sequence.
      scaling: how a model for longer texts slows them down: `rope_type`, one of `SCALINGS`, and its
        numbers, named as in Hugging Face's `rope_scaling`.

    Raises:
      ValueError: another `rope_type`.
    """
    slowest_last = theta ** (-np.arange(0, width, 2) / width)
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in SCALINGS:
        raise ValueError(f"rope_type is one of {', '.join(SCALINGS)}, not {kind}")
    if kind == "linear":
        slowest_last = slowest_last / scaling["factor"]
    if kind == "llama3":
        slowest_last = _llama3(slowest_last, scaling)
    return slowest_last.astype(np.float32)


def _llama3(angles: np.ndarray, scaling: Mapping[str, Any]) -> np.ndarray:
    """Slow angles divided by the factor, fast ones as they are, and a ramp between (Llama 3.1)."""
    turns = scaling["original_max_position_embeddings"] * angles / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return angles * (kept + (1.0 - kept) / scaling["factor"])


def rotate(x: Array, angles: np.ndarray) -> Array:
    """Heads `x[B, T, H, D]` turned by their positions 0 to T - 1.

    Args:
      x: queries or keys.
      angles: a position, of each pair, `[D / 2]`.
    """
    turned = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * angles[None, :]
    cos, sin = jnp.cos(turned)[None, :, None, :], jnp.sin(turned)[None, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    pairs = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(pairs, axis=-1).astype(x.dtype)
