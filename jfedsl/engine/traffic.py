"""What a run's messages would take uncompressed, from shapes alone."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jfedsl.engine.optimizers import like_moments
from jfedsl.engine.state import Scheme
from jfedsl.models import layers

FLOAT_BYTES = 4


def label_bits(scheme: Scheme) -> int:
    """Bits of one mini-batch's labels."""
    return scheme.batch_size * math.ceil(math.log2(scheme.classes))


def smashed_shape(
    scheme: Scheme, params: Any, stats: Any, image: tuple[int, ...]
) -> jax.ShapeDtypeStruct:
    """Shape `[B, ...]` and dtype of one client's activation at the cut.

    Args:
      scheme: of the run.
      params: of the client-side layers, arrays or shapes.
      stats: likewise.
      image: `(H, W, C)`.
    """
    images = jax.ShapeDtypeStruct((scheme.batch_size, *image), jnp.float32)
    return jax.eval_shape(
        lambda p, s, x: layers.apply(scheme.model[: scheme.cut], p, s, x, train=True)[0],
        params, stats, images,
    )  # fmt: skip


def uncompressed_bytes(
    scheme: Scheme, params: Any, stats: Any, image: tuple[int, ...], rounds: int
) -> dict[str, int]:
    """Bytes by stream of a run without pruning, dropout and quantizers: float32 all the way.

    Args:
      scheme: of the run.
      params: of the whole model, arrays or shapes.
      stats: likewise.
      image: `(H, W, C)`.
      rounds: completed.
    """
    own, own_stats = params[: scheme.cut], stats[: scheme.cut]
    entries = math.prod(smashed_shape(scheme, own, own_stats, image).shape)
    exchanges = rounds * scheme.local_steps * scheme.participants * scheme.splits
    model = _entries(own)
    if scheme.client_optimizer_state == "average":
        optimizer = scheme.client_optimizer
        state = jax.eval_shape(optimizer.init, own)
        sizes = jax.tree.map(lambda w: w.size, own)
        model += sum(jax.tree.leaves(like_moments(optimizer, state, sizes, counts=1)))
    if scheme.statistics == "aggregate":
        model += _entries(own_stats)
    starts = -(-rounds // scheme.aggregate_every) * scheme.participants
    ends = rounds // scheme.aggregate_every * scheme.participants
    return {
        "smashed_up": exchanges * (entries * FLOAT_BYTES + -(-label_bits(scheme) // 8)),
        "cut_gradient_down": exchanges * entries * FLOAT_BYTES,
        "model_up": ends * model * FLOAT_BYTES,
        "model_down": starts * model * FLOAT_BYTES,
    }


def _entries(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
