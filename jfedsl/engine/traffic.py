"""What a run's messages would take uncompressed, from shapes alone."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jfedsl.engine.optimizers import like_moments
from jfedsl.engine.state import RunSpec
from jfedsl.models import layers

FLOAT_BYTES = 4


def label_bits(spec: RunSpec) -> int:
    """Bits of one mini-batch's labels."""
    return spec.batch_size * math.ceil(math.log2(spec.classes))


def smashed_shape(
    spec: RunSpec, params: Any, stats: Any, image: tuple[int, ...]
) -> jax.ShapeDtypeStruct:
    """Shape `[B, ...]` and dtype of one client's activation at the cut.

    Args:
      spec: of the run.
      params: of the client-side layers, arrays or shapes.
      stats: likewise.
      image: `(H, W, C)`.
    """
    images = jax.ShapeDtypeStruct((spec.batch_size, *image), jnp.float32)
    return jax.eval_shape(
        lambda p, s, x: layers.apply(spec.model[: spec.cut], p, s, x, train=True)[0],
        params, stats, images,
    )  # fmt: skip


def uncompressed_bytes(
    spec: RunSpec, params: Any, stats: Any, image: tuple[int, ...], rounds: int
) -> dict[str, int]:
    """Bytes by stream of a run without pruning, dropout and quantizers: float32 all the way.

    Args:
      spec: of the run.
      params: of the whole model, arrays or shapes.
      stats: likewise.
      image: `(H, W, C)`.
      rounds: completed.
    """
    own, own_stats = params[: spec.cut], stats[: spec.cut]
    entries = math.prod(smashed_shape(spec, own, own_stats, image).shape)
    exchanges = rounds * spec.local_steps * spec.participants * spec.splits
    model = _entries(own)
    if spec.client_optimizer_state == "average":
        optimizer = spec.client_optimizer
        state = jax.eval_shape(optimizer.init, own)
        sizes = jax.tree.map(lambda w: w.size, own)
        model += sum(jax.tree.leaves(like_moments(optimizer, state, sizes, counts=1)))
    if spec.statistics == "aggregate":
        model += _entries(own_stats)
    starts = -(-rounds // spec.aggregate_every) * spec.participants
    ends = rounds // spec.aggregate_every * spec.participants
    return {
        "smashed_up": exchanges * (entries * FLOAT_BYTES + -(-label_bits(spec) // 8)),
        "cut_gradient_down": exchanges * entries * FLOAT_BYTES,
        "model_up": ends * model * FLOAT_BYTES,
        "model_down": starts * model * FLOAT_BYTES,
    }


def _entries(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
