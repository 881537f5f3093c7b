"""Models as tuples of layers; `MODELS` is the table of those known by name."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jfedsl.models.cnn import cnn
from jfedsl.models.layers import Model
from jfedsl.models.mlp import mlp
from jfedsl.models.resnet import resnet18
from jfedsl.models.small import small
from jfedsl.models.vgg import DEPTHS, vgg


class Entry(NamedTuple):
    """A model by name.

    Attributes:
      build: `(classes, norm) -> model`.
      default_cut: the layer it is cut after by default.
      tried: whether it is known to keep examples apart; others are tried when a run starts.
    """

    build: Callable[[int, str], Model]
    default_cut: str
    tried: bool = False


MODELS = {
    "cnn": Entry(cnn, "pool1", tried=True),
    "mlp": Entry(mlp, "dense1", tried=True),
    "resnet18": Entry(resnet18, "block2", tried=True),
    "small": Entry(small, "pool2", tried=True),
    **{f"vgg{depth}": Entry(partial(vgg, depth), "pool2", tried=True) for depth in DEPTHS},
}
