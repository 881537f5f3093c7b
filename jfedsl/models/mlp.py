"""Multi-layer perceptron."""

from jfedsl.models import blocks
from jfedsl.models.layers import Model


def mlp(classes: int, norm: str = "none", widths: tuple[int, ...] = (256, 128)) -> Model:
    """Layers flatten, dense1, dense2, ..., logits, on `[B, ...]` inputs.

    Args:
      classes: width of the last layer.
      norm: none, group or batch, after every hidden layer.
      widths: units of the hidden layers.
    """
    hidden = (blocks.dense(f"dense{i}", width, norm) for i, width in enumerate(widths, 1))
    return (blocks.flatten(), *hidden, blocks.logits(classes))
