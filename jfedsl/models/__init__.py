"""Models as tuples of layers; `ZOO` is the table of those known by name."""

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
    """A model of the zoo: `build(classes, norm)` and the layer it is cut after by default."""

    build: Callable[[int, str], Model]
    default_cut: str


ZOO = {
    "cnn": Entry(cnn, "pool1"),
    "mlp": Entry(mlp, "dense1"),
    "resnet18": Entry(resnet18, "block2"),
    "small": Entry(small, "pool2"),
    **{f"vgg{depth}": Entry(partial(vgg, depth), "pool2") for depth in DEPTHS},
}
