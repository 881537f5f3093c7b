"""What a run may not exceed: counters of bytes."""

import math

import jax

from jfedsl.compression import expression
from jfedsl.config import Config
from jfedsl.engine.state import Client, RunSpec
from jfedsl.engine.traffic import stream_shape
from jfedsl.errors import UserError, as_text


def check_sizes(config: Config, spec: RunSpec, client: Client, image: tuple[int, ...]) -> None:
    """Messages must fit the counters of `message_bytes`: 2 GiB with all headers.

    Args:
      config: all settings of the run.
      spec: functions and static numbers of the run.
      client: a client of it, arrays or shapes.
      image: shape of an input.

    Raises:
      UserError: names the flag that would make the messages smaller.
    """
    weights = [leaf.size for leaf in jax.tree.leaves(client.params)]
    for stream in spec.algorithm.streams:
        name = stream.compressor
        calls = config.compressors.get(name, ())
        sizes = weights
        if stream.of_batch:
            shape = stream_shape(spec, stream, client.params, client.stats, image).shape
            sizes = [math.prod(shape)]
        # Moments may travel along. What tells positions takes a bit an entry at most.
        each = 4 if stream.of_batch or config.client_optimizer_state != "average" else 12
        extra = sum(expression.most_extra_bytes(calls, n) for n in sizes)
        most = sum(sizes) * each + extra
        if most >= 2**31:
            flag = "batch_size" if stream.of_batch else "cut"
            if most - extra < 2**31:  # headers are too many
                flag = name if getattr(config, name) else "bucket_size"
            raise UserError(
                f"--{flag}={as_text(getattr(config, flag))} makes messages too large: one of "
                f"{name} might take {most} bytes, and 2 GiB is the limit"
            )
