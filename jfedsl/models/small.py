"""Small convolutional network with five poolings, for runs with many clients."""

from jfedsl.models import blocks
from jfedsl.models.layers import Model


def small(
    classes: int, norm: str = "none", widths: tuple[int, ...] = (16, 32, 32, 64, 64)
) -> Model:
    """Layers conv1, pool1, ..., conv5, pool5, flatten, logits, on `[B, H, W, C]` inputs.

    Inputs smaller than 32x32 are zero-padded to 32x32 by conv1.

    Args:
      classes: width of the last layer.
      norm: none, group or batch, after every convolution.
      widths: channels of the convolutions.
    """
    pairs = (
        (blocks.convolution(f"conv{i}", width, norm), blocks.pool(f"pool{i}"))
        for i, width in enumerate(widths, 1)
    )
    first, *rest = (layer for pair in pairs for layer in pair)
    return (blocks.padded(first, 32), *rest, blocks.flatten(), blocks.logits(classes))
