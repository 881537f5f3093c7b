"""Decoders of GPT-2's kind (Radford et al. 2019)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from jfedsl.models.transformers.architecture import (
    Architecture,
    Part,
    Source,
    blocks_of,
    checked_activation,
    head_width,
)
from jfedsl.models.transformers.block import BlockShape, norm_of
from jfedsl.models.transformers.embeddings import TokenEmbedding
from jfedsl.models.transformers.logits import Logits


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The parts of a model.

    Args:
      config: `config.json` of a pretrained model.

    Raises:
      KeyError: it lacks a size.
      ValueError: it asks for what is not built here.
    """
    for name in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        if config.get(name, False):
            raise ValueError(f"{name} is false, not true")
    if not config.get("scale_attn_weights", True):
        raise ValueError("scale_attn_weights is true, not false")
    last = "wte" if config.get("tie_word_embeddings", True) else "lm_head"
    width, heads = config["n_embd"], config["n_head"]
    shape = BlockShape(
        width=width,
        heads=heads,
        key_heads=heads,
        head_width=head_width(width, heads),
        hidden=config.get("n_inner") or 4 * width,
        activation=checked_activation(config.get("activation_function", "gelu_new")),
        epsilon=config.get("layer_norm_epsilon", 1e-5),
        causal=True,
    )
    vocabulary, positions = config["vocab_size"], config["n_positions"]

    def embed(adapter: Any) -> TokenEmbedding:
        return TokenEmbedding(vocabulary, width, adapter, positions=positions)

    return Architecture(
        embed=Part("embed", embed, {"tokens": Source("wte"), "positions": Source("wpe")}),
        blocks=blocks_of(shape, config["n_layer"], _sources),
        norm=Part("norm", partial(norm_of, shape), {"": Source("ln_f")}),
        logits=Part("lm_head", partial(Logits, vocabulary), {"": Source(last)}),
        shape=shape,
        pooling="last",
        vocabulary=vocabulary,
        positions=positions,
    )


def _sources(n: int) -> dict[str, Source]:
    def third(i: int) -> Source:
        """Queries, keys or values, which lie side by side in one kernel `[in, out]`."""

        def part(tensor: np.ndarray) -> np.ndarray:
            return np.split(tensor, 3, axis=-1)[i]

        return Source(f"h.{n}.attn.c_attn", weight=part, bias=part)

    return {
        "norm1": Source(f"h.{n}.ln_1"),
        "attention/q": third(0),
        "attention/k": third(1),
        "attention/v": third(2),
        "attention/o": Source(f"h.{n}.attn.c_proj"),
        "norm2": Source(f"h.{n}.ln_2"),
        "mlp/up": Source(f"h.{n}.mlp.c_fc"),
        "mlp/down": Source(f"h.{n}.mlp.c_proj"),
    }
