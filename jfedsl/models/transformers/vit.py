"""Vision transformers (arXiv 2010.11929)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from jfedsl.models.transformers.architecture import (
    Architecture,
    Part,
    Source,
    blocks_of,
    encoder_shape,
    linear,
)
from jfedsl.models.transformers.block import norm_of
from jfedsl.models.transformers.embeddings import PatchEmbedding


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The parts of a model.

    Args:
      config: `config.json` of a pretrained model.

    Raises:
      KeyError: it lacks a size.
      ValueError: it asks for what is not built here.
    """
    if not config.get("qkv_bias", True):
        raise ValueError("qkv_bias is true, not false")
    shape = encoder_shape(config, norm_first=True)
    image, patch = _pair(config["image_size"]), _pair(config["patch_size"])
    if image[0] % patch[0] or image[1] % patch[1]:
        raise ValueError(f"patches of {patch} divide the image, not one of {image}")
    embed = partial(PatchEmbedding, image, config.get("num_channels", 3), patch, shape.width)
    sources = {
        "patches": Source("embeddings.patch_embeddings.projection", weight=_kernel_of_patches),
        "whole": Source("embeddings.cls_token"),
        "positions": Source("embeddings.position_embeddings"),
    }
    norm = Part("norm", partial(norm_of, shape), {"": Source("layernorm")})
    return Architecture(
        embed=Part("embed", embed, sources),
        blocks=blocks_of(shape, config["num_hidden_layers"], _sources),
        norm=norm,
        logits=None,
        shape=shape,
        pooling="first",
        vocabulary=0,
        positions=0,
    )


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _kernel_of_patches(tensor: np.ndarray) -> np.ndarray:
    """From a convolution `[D, C, H, W]` to a kernel of patches `[H * W * C, D]`."""
    return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])


def _sources(n: int) -> dict[str, Source]:
    start = f"encoder.layer.{n}"
    return {
        "norm1": Source(f"{start}.layernorm_before"),
        "attention/q": linear(f"{start}.attention.attention.query"),
        "attention/k": linear(f"{start}.attention.attention.key"),
        "attention/v": linear(f"{start}.attention.attention.value"),
        "attention/o": linear(f"{start}.attention.output.dense"),
        "norm2": Source(f"{start}.layernorm_after"),
        "mlp/up": linear(f"{start}.intermediate.dense"),
        "mlp/down": linear(f"{start}.output.dense"),
    }
