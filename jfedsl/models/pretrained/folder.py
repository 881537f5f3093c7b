"""Folders of the Hugging Face layout: config.json, weights in safetensors, tokenizer.json."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jfedsl.models.pretrained.contents import (
    Checkpoint,
    CheckpointError,
    library,
    no_tensor,
    unreadable,
)

# What stands before the base model's names in a model with a head, by `model_type`.
_PREFIXES = {"bert": "bert.", "vit": "vit.", "gpt2": "transformer.", "llama": "model."}
_FLOATS = ("F64", "F32", "F16", "BF16")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OTHER_WEIGHTS = (".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors")
_CONVERT = (
    "python -c \"import torch, safetensors.torch as s; w = torch.load('pytorch_model.bin'); "
    "s.save_file({n: t.clone() for n, t in w.items()}, 'model.safetensors')\""
)

np.dtype(ml_dtypes.bfloat16)  # the import lets NumPy know bfloat16, which safetensors asks for


def load(folder: Path) -> Checkpoint:
    """The checkpoint in a folder.

    Args:
      folder: with config.json, and with model.safetensors, or with model.safetensors.index.json and
        the files that it names. With config.json alone it is a shape without weights.

    Raises:
      CheckpointError: safetensors is not installed, a file is missing or damaged, or the model is
        of an architecture or a kind of weights that is not read.
    """
    config = _config(folder)
    architecture = config["model_type"]
    files = {name: file for file in _weights(folder) for name in _names(file)}
    stored = {_base_name(architecture, name): name for name in files}

    def read(name: str) -> np.ndarray:
        if name not in stored:
            raise no_tensor(name, stored)
        return _tensor(files[stored[name]], stored[name])

    file = folder / "tokenizer.json"
    tokenizer = _text(file) if file.exists() else None
    return Checkpoint(architecture, config, frozenset(stored), read, tokenizer)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.exists():
        models = sorted(folder.glob("*.gguf"))
        remedy = f"; to read its GGUF file, name the file: {models[0]}" if models else ""
        raise CheckpointError(f"there is no config.json in this folder{remedy}")
    config = _json(file)
    kind = str(config.get("model_type", "none"))
    if kind not in _PREFIXES:
        raise CheckpointError(f"model_type {', '.join(_PREFIXES)} is allowed, not {kind}")
    if "quantization_config" in config:
        raise CheckpointError("quantized weights (quantization_config) are not read; use others")
    return _with_rotary_names(config)


def _with_rotary_names(config: dict[str, Any]) -> dict[str, Any]:
    """The config with `rope_theta` and `rope_scaling`, which Transformers 5 writes as one entry."""
    rotary = config.get("rope_parameters") or {}
    if "rope_theta" in rotary:
        config = {"rope_theta": rotary["rope_theta"], **config}
    if rotary.get("rope_type", "default") != "default":
        config = {"rope_scaling": rotary, **config}
    return config


def _base_name(architecture: str, name: str) -> str:
    """A tensor's name in the base model; of BERT, files from TensorFlow name norms differently."""
    name = name.removeprefix(_PREFIXES[architecture])
    if architecture == "bert":
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
    return name


def _weights(folder: Path) -> list[Path]:
    """The files of weights; none if there is only config.json."""
    if (folder / _WEIGHTS).exists():
        return [folder / _WEIGHTS]
    if (folder / _INDEX).exists():
        shards = _json(folder / _INDEX).get("weight_map")
        if not isinstance(shards, dict):
            raise CheckpointError(f"{_INDEX} has no weight_map")
        return [folder / str(name) for name in sorted(set(shards.values()))]
    others = sorted(p.name for p in folder.iterdir() if p.suffix in _OTHER_WEIGHTS)
    pickled = [n for n in others if n.startswith("pytorch_model")]
    if pickled:
        raise CheckpointError(f"{pickled[0]} is not read; convert it in its folder: {_CONVERT}")
    if others:
        raise CheckpointError(f"{_WEIGHTS} is needed; {others[0]} is not read")
    return []


def _open(file: Path) -> Any:
    safetensors = library("safetensors")
    try:
        return safetensors.safe_open(file, framework="np")
    except FileNotFoundError as error:
        raise CheckpointError(f"{file.name} is missing; {_INDEX} names it") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise unreadable(file.name, error) from error


def _names(file: Path) -> list[str]:
    with _open(file) as tensors:
        return list(tensors.keys())


def _tensor(file: Path, name: str) -> np.ndarray:
    with _open(file) as tensors:
        kind = tensors.get_slice(name).get_dtype()
        if kind not in _FLOATS:
            allowed = ", ".join(_FLOATS)
            raise CheckpointError(f"tensor {name}: numbers of type {allowed} are read, not {kind}")
        return np.asarray(tensors.get_tensor(name), np.float32)


def _json(file: Path) -> dict[str, Any]:
    try:
        entries = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise unreadable(file.name, error) from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{file.name} must be an object of JSON")
    return entries


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(file.name, error) from error
