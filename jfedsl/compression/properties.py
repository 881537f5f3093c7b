"""Properties of chains of compressors, known without sending anything."""

import jax
import jax.numpy as jnp

from jfedsl.compression.expression import Call, build
from jfedsl.compression.registry import COMPRESSORS


def is_unbiased(calls: tuple[Call, ...]) -> bool:
    """Whether the expectation of what a chain delivers is its input, for every client."""

    def call_is_unbiased(call: Call) -> bool:
        unbiased = COMPRESSORS[call.name].unbiased
        return unbiased if isinstance(unbiased, bool) else unbiased(**call.arguments)

    return all(map(call_is_unbiased, calls))


def has_memory(calls: tuple[Call, ...], clients: int) -> bool:
    """Whether a chain keeps a state from one message to the next.

    Args:
      calls: from `parse`.
      clients: C.
    """
    like = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    return bool(jax.tree.leaves(jax.eval_shape(build(calls, clients, 0)(0).init, like)))
