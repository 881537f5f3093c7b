"""Tiny models and texts in the place of those that presets name."""

import json
from pathlib import Path

import numpy as np
import tokenizers_made

from jfedsl.data.datasets import Dataset, from_texts

_OF_TEXTS = {
    "vocab_size": len(tokenizers_made.WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 6,
}
SIZES = {
    "bert": {**_OF_TEXTS, "type_vocab_size": 2, "hidden_act": "gelu"},
    "llama": {**_OF_TEXTS, "num_key_value_heads": 1, "hidden_act": "silu"},
    "vit": {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 3,
    },
}
EPSILONS = {"bert": "layer_norm_eps", "llama": "rms_norm_eps", "vit": "layer_norm_eps"}


def write_model(folder: Path, kind: str) -> str:
    """Writes the shape of a model, for weights drawn at random, and a tokenizer of WordPiece."""
    config = {"model_type": kind, EPSILONS[kind]: 1e-6, **SIZES[kind]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tokenizers_made.wordpiece())
    return str(folder)


def texts(_: str) -> Dataset:
    """Texts of five classes by twelve clients."""
    draw = np.random.default_rng(0)
    words = [word for word in tokenizers_made.WORDS if word.isalpha()]
    every = [" ".join(draw.choice(words, 5)) for _ in range(480)]
    labels = draw.integers(0, 5, len(every))
    clients = [f"client {n % 12}" for n in range(400)]
    return from_texts((every[:400], labels[:400]), (every[400:], labels[400:]), clients=clients)
