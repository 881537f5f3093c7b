"""Where a model is cut: by the name of a layer, or by the number of client-side layers."""

import re

from jfedsl.errors import as_text, close_to
from jfedsl.models.layers import Model


def cut_index(model: Model, cut: str) -> int:
    """Number of client-side layers.

    Args:
      model: the whole model.
      cut: the name of the last client-side layer, or the number of client-side layers in digits.

    Raises:
      ValueError: the name is unknown, or one side would have no layers. The text follows
        "--cut must be" in an error line.
    """
    names = [layer.name for layer in model]
    index = int(cut) if re.fullmatch("-?[0-9]{1,9}", cut) else [*names, cut].index(cut) + 1
    if not 0 < index < len(model):
        listed = ", ".join(names[:-1])
        allowed = f"one of {listed}, or a number from 1 to {len(model) - 1}"
        raise ValueError(f"{allowed}, not {as_text(cut)}{close_to(cut, names[:-1])}")
    return index
