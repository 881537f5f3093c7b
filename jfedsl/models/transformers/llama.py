"""Decoders of Llama's kind (arXiv 2302.13971): rotary positions, RMSNorm, gated MLP."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jfedsl.models.transformers.architecture import (
    Architecture,
    Part,
    Source,
    blocks_of,
    checked_activation,
    linear,
)
from jfedsl.models.transformers.block import BlockShape, norm_of
from jfedsl.models.transformers.embeddings import TokenEmbedding
from jfedsl.models.transformers.logits import Logits
from jfedsl.nn.rotary import frequencies


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The parts of a model.

    Args:
      config: `config.json` of a pretrained model.

    Raises:
      KeyError: it lacks a size.
      ValueError: it asks for what is not built here.
    """
    width, heads = config["hidden_size"], config["num_attention_heads"]
    head_width = config.get("head_dim") or width // heads
    shape = BlockShape(
        width=width,
        heads=heads,
        key_heads=config.get("num_key_value_heads") or heads,
        head_width=head_width,
        hidden=config["intermediate_size"],
        activation=checked_activation(config.get("hidden_act", "silu")),
        epsilon=config.get("rms_norm_eps", 1e-6),
        gated=True,
        biases=(config.get("attention_bias", False), config.get("mlp_bias", False)),
        causal=True,
        rms=True,
        angles=_angles(config, head_width),
    )
    vocabulary = config["vocab_size"]

    def embed(adapter: Any) -> TokenEmbedding:
        return TokenEmbedding(vocabulary, width, adapter)

    last = "embed_tokens" if config.get("tie_word_embeddings", False) else "lm_head"
    return Architecture(
        embed=Part("embed", embed, {"tokens": Source("embed_tokens")}),
        blocks=blocks_of(shape, config["num_hidden_layers"], _sources),
        norm=Part("norm", partial(norm_of, shape), {"": Source("norm")}),
        logits=Part("lm_head", partial(Logits, vocabulary), {"": Source(last)}),
        shape=shape,
        pooling="last",
        vocabulary=vocabulary,
        positions=config["max_position_embeddings"],
    )


def _angles(config: Mapping[str, Any], head_width: int) -> tuple[float, ...]:
    theta = config.get("rope_theta", 10000.0)
    return tuple(frequencies(head_width, theta, config.get("rope_scaling")).tolist())


def _sources(n: int) -> dict[str, Source]:
    start = f"layers.{n}"
    return {
        "norm1": Source(f"{start}.input_layernorm"),
        **{f"attention/{p}": linear(f"{start}.self_attn.{p}_proj") for p in "qkvo"},
        "norm2": Source(f"{start}.post_attention_layernorm"),
        **{f"mlp/{p}": linear(f"{start}.mlp.{p}_proj") for p in ("gate", "up", "down")},
    }
