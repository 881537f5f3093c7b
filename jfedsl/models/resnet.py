"""ResNet (arXiv 1512.03385) in its form for 32x32 images."""

from jfedsl.models import blocks
from jfedsl.models.layers import Model

WIDTHS = (64, 128, 256, 512)
THIN_WIDTHS = (16, 32, 64, 128)  # a quarter of it: a sixteenth of the FLOPs
_BLOCKS_A_STAGE = 2


def resnet18(classes: int, norm: str = "none", widths: tuple[int, ...] = WIDTHS) -> Model:
    """Layers conv1, block1, ..., block8, pool, logits, on `[B, H, W, C]` inputs.

    Four stages of two basic blocks, each stage but the first starting at half the resolution; the
    first convolution is 3x3 without stride or pooling. Inputs smaller than 32x32 are zero-padded to
    32x32 by conv1.

    Args:
      classes: width of the last layer.
      norm: none, group or batch, after every convolution.
      widths: channels of the stages.
    """
    residual_blocks = [
        blocks.residual(
            f"block{_BLOCKS_A_STAGE * stage + i + 1}", width, 2 if stage and i == 0 else 1, norm
        )
        for stage, width in enumerate(widths)
        for i in range(_BLOCKS_A_STAGE)
    ]
    first = blocks.padded(blocks.stem("conv1", widths[0], norm), 32)
    return (first, *residual_blocks, blocks.average("pool"), blocks.logits(classes))
