"""Convolutional network with two convolutions and one hidden dense layer."""

from jfedsl.models import blocks
from jfedsl.models.layers import Model


def cnn(
    classes: int, norm: str = "none", widths: tuple[int, int] = (32, 64), units: int = 128
) -> Model:
    """Layers conv1, pool1, conv2, pool2, flatten, dense, logits, on `[B, H, W, C]` inputs.

    Args:
      classes: width of the last layer.
      norm: none, group or batch, after convolutions and the hidden dense layer.
      widths: channels of the two convolutions.
      units: width of the hidden dense layer.
    """
    return (
        blocks.convolution("conv1", widths[0], norm),
        blocks.pool("pool1"),
        blocks.convolution("conv2", widths[1], norm),
        blocks.pool("pool2"),
        blocks.flatten(),
        blocks.dense("dense", units, norm),
        blocks.logits(classes),
    )
