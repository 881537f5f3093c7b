"""The table `MODELS` of models by name, to which a plugin adds its own.

>>> [layer.name for layer in MODELS["mlp"].build(10, "none")]
['flatten', 'dense1', 'dense2', 'logits']
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jfedsl.models.cnn import cnn
from jfedsl.models.layers import Model
from jfedsl.models.mlp import mlp
from jfedsl.models.resnet import THIN_WIDTHS, resnet18
from jfedsl.models.small import small
from jfedsl.models.vgg import DEPTHS, vgg


class ModelEntry(NamedTuple):
    """A model of the table.

    >>> from flax import linen as nn
    >>> from jfedsl import from_linen
    >>> def linear(classes, norm):
    ...     return (from_linen("logits", nn.Dense(classes)),)
    >>> ModelEntry(linear, default_cut="logits").checked
    False

    Attributes:
      build: `(classes, norm) -> model`, with `norm` one of `blocks.NORMS`.
      default_cut: name of the last client-side layer where `--cut` is not given.
      checked: whether the model is known to compute each example independently of the others. Any
        other model is checked for it when a run starts, see `jfedsl.models.trial`.
    """

    build: Callable[[int, str], Model]
    default_cut: str
    checked: bool = False


MODELS = {
    "cnn": ModelEntry(cnn, "pool1", checked=True),
    "mlp": ModelEntry(mlp, "dense1", checked=True),
    "resnet18": ModelEntry(resnet18, "block2", checked=True),
    "resnet18_thin": ModelEntry(partial(resnet18, widths=THIN_WIDTHS), "block2", checked=True),
    "small": ModelEntry(small, "pool2", checked=True),
    **{f"vgg{depth}": ModelEntry(partial(vgg, depth), "pool2", checked=True) for depth in DEPTHS},
}
