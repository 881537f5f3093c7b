"""VGG (arXiv 1409.1556, table 1) in its form for 32x32 images, with one dense layer."""

from jfedsl.models import blocks
from jfedsl.models.layers import Model

# Convolutions in each of the five blocks, by the number of weight layers of the original.
DEPTHS = {
    11: (1, 1, 2, 2, 2),  # configuration A
    13: (2, 2, 2, 2, 2),  # B
    16: (2, 2, 3, 3, 3),  # D
    19: (2, 2, 4, 4, 4),  # E
}
WIDTHS = (64, 128, 256, 512, 512)


def vgg(depth: int, classes: int, norm: str = "none", widths: tuple[int, ...] = WIDTHS) -> Model:
    """Layers conv1_1, ..., pool1, conv2_1, ..., pool5, flatten, logits, on `[B, H, W, C]` inputs.

    Inputs smaller than 32x32 are zero-padded to 32x32 by conv1_1. One dense layer stands in for the
    three of the original.

    Args:
      depth: 11, 13, 16 or 19, the number of weight layers of the original.
      classes: width of the last layer.
      norm: none, group or batch, after every convolution.
      widths: channels of the convolutions in each block.
    """
    first, *rest = (
        layer
        for block, (convolutions, width) in enumerate(zip(DEPTHS[depth], widths, strict=True), 1)
        for layer in _block(block, convolutions, width, norm)
    )
    return (blocks.padded(first, 32), *rest, blocks.flatten(), blocks.logits(classes))


def _block(number: int, convolutions: int, width: int, norm: str) -> Model:
    names = (f"conv{number}_{i}" for i in range(1, convolutions + 1))
    layers = (blocks.convolution(name, width, norm) for name in names)
    return (*layers, blocks.pool(f"pool{number}"))
