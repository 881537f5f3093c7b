"""FLOPs of clients' products in an exchange."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfedsl.engine.parts import tail_part
from jfedsl.engine.state import RunSpec
from jfedsl.engine.traffic import tail_input_shape
from jfedsl.models.flops import product_flops
from jfedsl.models.kept import kept
from jfedsl.models.layers import Model
from jfedsl.models.shapes import output_of, variables_of


class Flops(NamedTuple):
    """FLOPs of a client's products in an exchange, forward and backward, for one example.

    Attributes:
      dense: without pruning.
      pruned: as clients compute at their final rates, mean over clients.
    """

    dense: int
    pruned: float


@kept
def flops_of(model: Model, image: tuple[int, ...], trained_input: bool = False) -> int:
    """Of the products of these layers in an exchange, for one example."""
    shapes = variables_of(model, jax.ShapeDtypeStruct((1, *image), jnp.float32))
    return sum(map(sum, product_flops(model, shapes, image, trained_input)))


def mean_flops(
    sides: Sequence[Model], groups: Sequence[np.ndarray], image: tuple[int, ...]
) -> float:
    """Mean over clients of the FLOPs of their layers, for one example.

    Args:
      sides: the layers of the clients of each group; of one for all.
      groups: ids of the clients of each.
      image: shape of an input.
    """
    each = [flops_of(side, image) for side in sides]
    counts = [len(members) for members in groups]
    return float(np.average(np.broadcast_to(each, len(counts)), weights=counts))


def with_tail(flops: Flops, spec: RunSpec, image: tuple[int, ...]) -> Flops:
    """FLOPs of a client's layers before the cut with those of its tail.

    Args:
      flops: of the layers before the cut.
      spec: functions and static numbers of the run.
      image: shape of an input.
    """
    if not spec.tail:
        return flops
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    smashed = output_of(spec.model[: spec.cut], x)
    shape = tail_input_shape(spec, smashed).shape[1:]
    of_tail = flops_of(tail_part(spec, spec.model), shape, trained_input=True)
    return Flops(flops.dense + of_tail, flops.pruned + of_tail)
