"""What an architecture file says of its model: parts that an adapter makes layers of."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from jfedsl.models.transformers.adapter import Adapter
from jfedsl.models.transformers.block import ACTIVATIONS, Block, BlockShape

Values = Callable[[np.ndarray], np.ndarray]


class Source(NamedTuple):
    """Where the values of a module, or of one array of it, are in a pretrained model.

    Attributes:
      name: of the tensors, without `.weight` and `.bias`; of an array by itself its whole name.
      weight: from the tensor of weights to a kernel `[in, out]` or a table `[rows, width]`.
      bias: from the tensor of biases to a bias `[out]`.
    """

    name: str
    weight: Values = lambda tensor: tensor
    bias: Values = lambda tensor: tensor


def linear(name: str) -> Source:
    """A source of a linear map of PyTorch, which stores a kernel transposed."""
    return Source(name, weight=lambda tensor: tensor.T)


class Part(NamedTuple):
    """A layer of a model before it is known what of it is trained.

    Attributes:
      name: of the layer.
      module: `adapter -> linen module`.
      sources: by the path of a module in it, such as `attention/q`, or of an array.
    """

    name: str
    module: Callable[[Adapter], nn.Module]
    sources: Mapping[str, Source]


class Architecture(NamedTuple):
    """A pretrained model taken apart.

    Attributes:
      embed: the first layer.
      blocks: those that can be cut apart.
      norm: normalisation after the last block; None for none.
      logits: scores of all tokens at each position; None for an encoder.
      shape: of a block.
      pooling: what becomes the vector of a sequence for classification; see `Pool`.
      vocabulary: number of tokens; 0 for images.
      positions: the most that a sequence may have; 0 for images.
    """

    embed: Part
    blocks: tuple[Part, ...]
    norm: Part | None
    logits: Part | None
    shape: BlockShape
    pooling: str
    vocabulary: int
    positions: int


def head_width(width: int, heads: int) -> int:
    """Entries of a head.

    Raises:
      ValueError: heads do not divide the width.
    """
    if width % heads:
        raise ValueError(f"the number of heads divides the width {width}, and {heads} does not")
    return width // heads


def blocks_of(
    shape: BlockShape, count: int, sources: Callable[[int], Mapping[str, Source]]
) -> tuple[Part, ...]:
    """The blocks of a model, `block1` and so on; `sources` is given numbers from 0."""
    module: Any = partial(Block, shape)
    return tuple(Part(f"block{n + 1}", module, sources(n)) for n in range(count))


def checked_activation(name: str) -> str:
    """The name of an activation.

    Raises:
      ValueError: it is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"an activation is one of {', '.join(ACTIVATIONS)}, not {name}")
    return name


def encoder_shape(config: Mapping[str, Any], norm_first: bool) -> BlockShape:
    """The blocks of an encoder, whose sizes BERT and ViT name alike in `config.json`."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    return BlockShape(
        width=width,
        heads=heads,
        key_heads=heads,
        head_width=head_width(width, heads),
        hidden=config["intermediate_size"],
        activation=checked_activation(config.get("hidden_act", "gelu")),
        epsilon=config.get("layer_norm_eps", 1e-12),
        norm_first=norm_first,
    )
