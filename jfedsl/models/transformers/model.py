"""A pretrained transformer as a layer tuple, with what is trained on either side of the cut."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flax import linen as nn

from jfedsl.models.layers import Layer, Model, from_linen
from jfedsl.models.tokens import padded, with_integer_inputs
from jfedsl.models.transformers import bert, gpt2, llama, vit
from jfedsl.models.transformers.adapter import Adapter
from jfedsl.models.transformers.architecture import Architecture, Part
from jfedsl.models.transformers.embeddings import Pool
from jfedsl.models.transformers.values import Held, Read, starting_values

DEFAULT_CUT = "block2"
ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], Architecture]] = {
    "bert": bert.architecture,
    "gpt2": gpt2.architecture,
    "llama": llama.architecture,
    "vit": vit.architecture,
}


def transformer(
    architecture: Architecture, classes: int | None, client: Adapter, server: Adapter, cut: int,
    read: Read | None = None, tail: int = 0,
) -> Model:  # fmt: skip
    """The layers of a model.

    Args:
      architecture: its parts.
      classes: of examples, which a head for classification tells apart; None for a decoder that
        gives scores of the next token.
      client: what is trained of clients' layers.
      server: what is trained of the others.
      cut: how many layers are before the cut.
      read: one tensor of a pretrained model by its name; None: all values are drawn at random.
      tail: how many of the last layers are clients' too.

    Raises:
      ValueError: an encoder is to give scores of tokens.
    """
    held: Held = {}
    parts, heads = _parts(architecture, classes is None), 0 if classes is None else 2
    end = len(parts) + heads - tail
    model = [
        _layer(part, server if cut <= n < end else client, read, held)
        for n, part in enumerate(parts)
    ]
    if architecture.vocabulary:
        model[0] = padded(with_integer_inputs(model[0]))
    if classes is None:
        return tuple(model)
    small = nn.initializers.normal(0.02)
    return (
        *model,
        from_linen("pool", Pool(architecture.pooling)),
        from_linen("head", nn.Dense(classes, kernel_init=small)),
    )


def _parts(architecture: Architecture, predicts_tokens: bool) -> list[Part]:
    if predicts_tokens and architecture.logits is None:
        raise ValueError("an encoder gives no scores of the next token")
    last = architecture.logits if predicts_tokens else None
    optional = (part for part in (architecture.norm, last) if part is not None)
    return [architecture.embed, *architecture.blocks, *optional]


def _layer(part: Part, adapter: Adapter, read: Read | None, held: Held) -> Layer:
    layer = from_linen(part.name, part.module(adapter))
    if read is None:
        return layer
    return layer._replace(start=partial(starting_values, read, part.sources, held))
