"""Encoders of BERT's kind (arXiv 1810.04805): MiniLM, sentence transformers and others."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jfedsl.models.transformers.architecture import (
    Architecture,
    Part,
    Source,
    blocks_of,
    encoder_shape,
    linear,
)
from jfedsl.models.transformers.embeddings import TokenEmbedding


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The parts of a model.

    Args:
      config: `config.json` of a pretrained model.

    Raises:
      KeyError: it lacks a size.
      ValueError: it asks for what is not built here.
    """
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ValueError(f"position_embedding_type is absolute, not {kind}")
    shape = encoder_shape(config, norm_first=False)
    vocabulary, positions = config["vocab_size"], config["max_position_embeddings"]
    embed = partial(
        TokenEmbedding,
        vocabulary,
        shape.width,
        positions=positions,
        types=config.get("type_vocab_size", 2),
        epsilon=shape.epsilon,
    )
    sources = {
        "tokens": Source("embeddings.word_embeddings"),
        "positions": Source("embeddings.position_embeddings"),
        "types": Source("embeddings.token_type_embeddings"),
        "norm": Source("embeddings.LayerNorm"),
    }
    return Architecture(
        embed=Part("embed", lambda adapter: embed(adapter=adapter), sources),
        blocks=blocks_of(shape, config["num_hidden_layers"], _sources),
        norm=None,
        logits=None,
        shape=shape,
        pooling="mean",
        vocabulary=vocabulary,
        positions=positions,
    )


def _sources(n: int) -> dict[str, Source]:
    start = f"encoder.layer.{n}"
    return {
        "attention/q": linear(f"{start}.attention.self.query"),
        "attention/k": linear(f"{start}.attention.self.key"),
        "attention/v": linear(f"{start}.attention.self.value"),
        "attention/o": linear(f"{start}.attention.output.dense"),
        "norm1": Source(f"{start}.attention.output.LayerNorm"),
        "mlp/up": linear(f"{start}.intermediate.dense"),
        "mlp/down": linear(f"{start}.output.dense"),
        "norm2": Source(f"{start}.output.LayerNorm"),
    }
