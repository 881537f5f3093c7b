"""What a run may not exceed: counters of bytes."""

import math

import jax

from jfedsl.compression import expression
from jfedsl.config import Config
from jfedsl.config.compressors import PLACES
from jfedsl.engine.state import RunSpec
from jfedsl.engine.traffic import smashed_shape
from jfedsl.errors import UserError, as_text
from jfedsl.models.layers import Variables


def check_sizes(config: Config, spec: RunSpec, initial: Variables, image: tuple[int, ...]) -> None:
    """Messages must fit the counters of `message_bytes`: 2 GiB with all headers."""
    own, stats = initial.params[: spec.cut], initial.stats[: spec.cut]
    smashed = math.prod(smashed_shape(spec, own, stats, image).shape)
    weights = [leaf.size for leaf in jax.tree.leaves(own)]
    for place, calls in config.compressors.items():
        has_batch = PLACES[place].batch
        sizes = [smashed] if has_batch else weights
        # Moments may travel along. What tells positions takes a bit an entry at most.
        each = 4 if has_batch or config.client_optimizer_state != "average" else 12
        extra = sum(expression.most_extra_bytes(calls, n) for n in sizes)
        most = sum(sizes) * each + extra
        if most >= 2**31:
            flag = "batch_size" if has_batch else "cut"
            if most - extra < 2**31:  # headers are too many
                flag = place if getattr(config, place) else "bucket_size"
            raise UserError(
                f"--{flag}={as_text(getattr(config, flag))} makes messages too large: one of "
                f"{place} might take {most} bytes, and 2 GiB is the limit"
            )
