"""GGUF files, the format of llama.cpp: settings, tensors and tokenizer in one file."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from jfedsl.models.pretrained.contents import (
    Checkpoint,
    CheckpointError,
    library,
    no_tensor,
    unreadable,
)
from jfedsl.models.pretrained.gguf_layouts import LAYOUTS, Layout
from jfedsl.models.pretrained.gguf_tokenizer import tokenizer_text

_DAMAGED = (OSError, ValueError, IndexError, KeyError, OverflowError)  # of the package's reader


def load(file: Path) -> Checkpoint:
    """The checkpoint in a GGUF file.

    Args:
      file: of architecture llama or gpt2. Quantized tensors are dequantized as they are read.

    Raises:
      CheckpointError: gguf or tokenizers is not installed, the file is missing or damaged, or its
        architecture, a setting or the tokenizer is of a kind that is not read.
    """
    metadata, tensors = _contents(file)
    architecture = str(metadata.get("general.architecture", "none"))
    if architecture not in LAYOUTS:
        allowed = ", ".join(LAYOUTS)
        raise CheckpointError(f"GGUF files of architecture {allowed} are read, not {architecture}")
    layout = LAYOUTS[architecture]
    stored = {_base_name(tensor.name, layout): tensor for tensor in tensors}
    config = _config(metadata, architecture, layout)
    config |= _shared_sizes(stored, layout)

    def read(name: str) -> np.ndarray:
        if name not in stored:
            raise no_tensor(name, stored)
        return _as_hugging_face(_values(stored[name]), stored[name].name, layout, config)

    return Checkpoint(architecture, config, frozenset(stored), read, tokenizer_text(metadata))


def _contents(file: Path) -> tuple[dict[str, Any], list[Any]]:
    """The metadata; the tensors as the package lists them, still on disk."""
    gguf = library("gguf")
    if not file.exists():
        raise CheckpointError("there is no such file")
    try:
        reader = gguf.GGUFReader(file)
        return {key: field.contents() for key, field in reader.fields.items()}, reader.tensors
    except _DAMAGED as error:
        raise unreadable(file.name, error) from error


def _config(metadata: dict[str, Any], architecture: str, layout: Layout) -> dict[str, Any]:
    """The settings under the names of config.json."""
    config = {"model_type": architecture, **layout.constants}
    for key, name in (layout.sizes | layout.optional).items():
        value = metadata.get(f"{architecture}.{key}")
        if value is None and key in layout.sizes:
            raise CheckpointError(f"{architecture}.{key} is missing in the file")
        if isinstance(value, list):
            raise CheckpointError(f"{architecture}.{key} that differs by block is not read")
        if value is not None:
            config[name] = value
    for name in ("bos", "eos"):
        config[f"{name}_token_id"] = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if architecture == "llama":
        _complete_llama(config, metadata)
    return config


def _complete_llama(config: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Adds what a file may leave out; refuses rotary positions that are scaled or partial."""
    heads = config["num_attention_heads"]
    config.setdefault("num_key_value_heads", heads)
    config.setdefault("head_dim", config["hidden_size"] // heads)
    config.setdefault("rope_theta", 10000.0)
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise CheckpointError(f"rotary positions scaled by {scaling} are not read from GGUF files")
    rotated = metadata.get("llama.rope.dimension_count", config["head_dim"])
    if rotated != config["head_dim"]:
        what = f"{rotated} of {config['head_dim']} dimensions of a head"
        raise CheckpointError(f"rotary positions in {what} are not read from GGUF files")


def _shared_sizes(stored: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """What only the tensors tell: the size of the vocabulary, and whether the head has its own."""
    embedding = f"{layout.outer['token_embd']}.weight"
    if embedding not in stored:
        raise CheckpointError("the tensor token_embd.weight is missing in the file")
    rows = int(stored[embedding].shape[-1])  # GGUF lists the axes from the last one on
    return {"vocab_size": rows, "tie_word_embeddings": "lm_head.weight" not in stored}


def _base_name(name: str, layout: Layout) -> str:
    """A tensor's name in the base model of Hugging Face."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    block, part, kind = match.groups() if match else (None, "", "")
    names = layout.outer if block is None else layout.inner
    if part not in names:
        raise CheckpointError(f"the file has a tensor {name}; models with it are not read")
    prefix = "" if block is None else layout.block.format(block)
    return f"{prefix}{names[part]}.{kind}"


def _values(tensor: Any) -> np.ndarray:
    """The values of a tensor, float32."""
    gguf = library("gguf")
    try:
        return np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
    except NotImplementedError as error:
        kind = tensor.tensor_type.name
        raise CheckpointError(f"tensor {tensor.name} is stored as {kind}, not read") from error


def _as_hugging_face(
    values: np.ndarray, name: str, layout: Layout, config: dict[str, Any]
) -> np.ndarray:
    """The tensor with rows and axes in the order of Hugging Face."""
    part = name.split(".")[-2]
    if part in layout.rotary:
        return _unpermuted(values, config[layout.rotary[part]])
    if layout.transposed and name.startswith("blk.") and values.ndim == 2:
        return np.ascontiguousarray(values.T)
    return values


def _unpermuted(values: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a projection in the order that they had before llama.cpp's conversion.

    Rotary positions turn pairs of rows. In Hugging Face's order row n of a head is paired with row
    n + dim/2, in llama.cpp's with its neighbour (`permute` in convert_hf_to_gguf.py).

    Args:
      values: `[heads * dim]` or `[heads * dim, in]`.
      heads: number of heads.
    """
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)
