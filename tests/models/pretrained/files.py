"""Small checkpoints of the true format that tests write."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from safetensors.numpy import save_file


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors:
        save_file(tensors, folder / "model.safetensors")
    return folder


LLAMA_SIZES = {
    "llama.block_count": 1,
    "llama.context_length": 16,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 5000.0,
}
GPT2_SIZES = {
    "gpt2.block_count": 1,
    "gpt2.context_length": 16,
    "gpt2.embedding_length": 32,
    "gpt2.feed_forward_length": 128,
    "gpt2.attention.head_count": 2,
    "gpt2.attention.layer_norm_epsilon": 1e-5,
}


def write_gguf(
    file: Path,
    metadata: dict[str, Any],
    tensors: dict[str, np.ndarray],
    quantized: dict[str, np.ndarray] | None = None,
    architecture: str = "llama",
) -> Path:
    """A GGUF file; tensors of `quantized` are stored as Q8_0."""
    writer = GGUFWriter(file, architecture)
    for key, value in metadata.items():
        kind = next(k for k in _ADD if isinstance(value, k))
        getattr(writer, _ADD[kind])(key, value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    for name, values in (quantized or {}).items():
        kind = GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


# bool before int: it is one.
_ADD = {
    bool: "add_bool",
    int: "add_uint32",
    float: "add_float32",
    str: "add_string",
    list: "add_array",
}
