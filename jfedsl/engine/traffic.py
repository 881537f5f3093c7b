"""What a run's messages would take uncompressed, from shapes alone."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.compression.message import FLOAT_BITS, position_bits
from jfedsl.engine.adapter_averaging import stacked_entries, without_adapters
from jfedsl.engine.optimizers import like_moments
from jfedsl.engine.parts import auxiliary_of_client, group_cuts, server_part
from jfedsl.engine.personal import shared_part
from jfedsl.engine.state import RunSpec
from jfedsl.engine.streams import DOWN, LOCAL, UP, Stream
from jfedsl.models import layers
from jfedsl.models.shapes import output_of

FLOAT_BYTES = FLOAT_BITS // 8


def bits_beside(spec: RunSpec, stream: Stream, lengths: Array | None = None) -> int | Array:
    """Bits that a message carries beside activations: targets, and at the cut lengths of sequences.

    A target is the number of a class, float32, or a token id. A length is from 0 to the longest
    one. A sequence of L tokens has L - 1 ids to predict.

    Args:
      spec: functions and static numbers of the run.
      stream: that the message belongs to.
      lengths: positions of each example that are no padding, `[B]`; None: all.
    """
    beside = 0
    if spec.positions is not None and stream.carries_activations and not stream.at_tail:
        beside = spec.batch_size * position_bits(spec.positions + 1)
    return beside + _target_bits(spec, lengths) if stream.labels else beside


def _target_bits(spec: RunSpec, lengths: Array | None) -> int | Array:
    if spec.task.of_tokens:
        assert spec.positions is not None
        tokens: int | Array = spec.batch_size * (spec.positions - 1)
        if lengths is not None:
            tokens = jnp.sum(jnp.maximum(lengths - 1, 0))
        return tokens * position_bits(spec.classes)
    target = position_bits(spec.classes) if spec.task.of_classes else FLOAT_BITS * spec.classes
    return spec.batch_size * target


def is_sent(spec: RunSpec, stream: Stream, params: Any) -> bool:
    """Whether clients send or receive a stream.

    The gradient at the cut is for their step: without parameters that it teaches they take none.

    Args:
      spec: functions and static numbers of the run.
      stream: that may be sent.
      params: of the layers that a client holds, arrays or shapes.
    """
    if not stream.of_batch or stream.direction != DOWN or stream.at_tail:
        return True
    taught = params[: spec.cut] + auxiliary_of_client(spec, params)
    return bool(jax.tree.leaves(taught))


def smashed_shape(
    spec: RunSpec, params: Any, stats: Any, image: tuple[int, ...]
) -> jax.ShapeDtypeStruct:
    """Shape `[B, ...]` and dtype of one client's activation at the cut.

    Where cuts differ, of the arrays that hold the activations of all.

    Args:
      spec: functions and static numbers of the run.
      params: of the layers up to the cut or more, arrays or shapes.
      stats: of the same layers.
      image: shape of an input.
    """
    if spec.cuts is not None:
        return jax.ShapeDtypeStruct((spec.batch_size, *spec.cuts.layout.shape), jnp.float32)
    images, cut = jax.ShapeDtypeStruct((spec.batch_size, *image), jnp.float32), spec.cut
    return jax.eval_shape(
        lambda p, s, x: layers.apply(spec.model[:cut], p[:cut], s[:cut], x, train=True)[0],
        params, stats, images,
    )  # fmt: skip


def tail_input_shape(spec: RunSpec, smashed: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Shape `[B, ...]` and dtype of what the server's layers make of one client's activation.

    Args:
      spec: functions and static numbers of the run.
      smashed: shape and dtype of that activation.
    """
    return output_of(server_part(spec, spec.model), smashed)


def stream_shape(
    spec: RunSpec, stream: Stream, params: Any, stats: Any, image: tuple[int, ...]
) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a message of a mini-batch; arguments as for `smashed_shape`."""
    smashed = smashed_shape(spec, params, stats, image)
    whole = tail_input_shape(spec, smashed) if stream.at_tail else smashed
    return jax.ShapeDtypeStruct((stream.rows(spec), *whole.shape[1:]), whole.dtype)


def uncompressed_bytes(
    spec: RunSpec, params: Any, stats: Any, image: tuple[int, ...], rounds: int
) -> dict[str, int]:
    """Bytes of each stream of a run without pruning and compressors: float32 all the way.

    Args:
      spec: functions and static numbers of the run.
      params: of the layers that a client holds, arrays or shapes.
      stats: normalisation statistics of these layers.
      image: shape of an input.
      rounds: completed.

    Returns:
      Bytes by the column of each stream.
    """
    sent = [stream for stream in spec.algorithm.streams if stream.direction != LOCAL]
    if spec.cuts is None:
        count = spec.algorithm.answered(spec)
        return {s.column: _stream_bytes(spec, s, params, stats, image, rounds, count) for s in sent}
    layout, totals = spec.cuts.layout, dict.fromkeys((stream.column for stream in sent), 0)
    for cut, count in zip(group_cuts(spec), spec.group_sizes, strict=True):
        alone = spec._replace(cuts=spec.cuts._replace(layout=layout.only(cut)))
        rest = params[:cut], stats[:cut], image, rounds, count
        for stream in sent:
            totals[stream.column] += _stream_bytes(alone, stream, *rest)
    return totals


def _stream_bytes(
    spec: RunSpec, stream: Stream, params: Any, stats: Any, image: tuple[int, ...], rounds: int,
    clients: int,
) -> int:  # fmt: skip
    """Bytes of one stream of so many clients; other arguments as for `uncompressed_bytes`."""
    if not is_sent(spec, stream, params):
        return 0
    receivers = 1 if stream.broadcast else clients
    if stream.of_batch:
        messages = stream.messages(spec, rounds * spec.local_steps) * receivers
        beside = -(-int(bits_beside(spec, stream)) // 8)
        entries = math.prod(stream_shape(spec, stream, params, stats, image).shape)
        return messages * (entries * FLOAT_BYTES + beside)
    periods = {UP: rounds // spec.aggregate_every, DOWN: -(-rounds // spec.aggregate_every)}
    model, count = _model_entries(spec, params, stats), periods[stream.direction]
    later = model
    if stream.direction == DOWN and spec.adapters is not None and spec.adapters.stacks:
        later = _model_entries(spec, without_adapters(params), stats)
        later += stacked_entries(spec.adapters, params)
    return receivers * (min(count, 1) * model + max(count - 1, 0) * later) * FLOAT_BYTES


def _model_entries(spec: RunSpec, params: Any, stats: Any) -> int:
    """Numbers that travel with the model of a client: weights, and what else is averaged."""
    entries = _entries(shared_part(spec, params))
    if entries and spec.client_optimizer_state == "average":
        optimizer = spec.client_optimizer
        state = jax.eval_shape(optimizer.init, params)
        sizes = jax.tree.map(lambda w: w.size, params)
        entries += sum(jax.tree.leaves(like_moments(optimizer, state, sizes, counts=1)))
    if spec.statistics == "aggregate":
        entries += _entries(shared_part(spec, stats))
    return entries


def _entries(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
