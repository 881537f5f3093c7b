"""Tiny models of the library `transformers` with random weights, and what it computes with them.

`python -m models.transformers.reference` in the folder `tests` writes the files of `golden/` anew,
with the packages of the extra `bench`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("bert", "gpt2", "llama", "vit")
_WIDTHS = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}
_WIDTHS |= {"num_hidden_layers": 3}
_TEXTS = {"vocab_size": 30, "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 0}
_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {**_WIDTHS, **_TEXTS},
    "gpt2": {"vocab_size": 30, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 24},
    "llama": {**_WIDTHS, **_TEXTS, "num_key_value_heads": 2, "rope_parameters": _ROPE},
    "vit": {**_WIDTHS, "image_size": 12, "patch_size": 4, "num_channels": 3},
}
SETTINGS["gpt2"] |= {"bos_token_id": 0, "eos_token_id": 0}
CLASSES = {
    "bert": ("BertModel", "BertConfig"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config"),
    "llama": ("LlamaForCausalLM", "LlamaConfig"),
    "vit": ("ViTModel", "ViTConfig"),
}


def shortened(name: str, blocks: int, folder: Path) -> str:
    """A copy of a model's folder in which only the first few blocks are computed."""
    shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": blocks}))
    return str(folder)


def inputs(name: str) -> np.ndarray:
    """Images, or token ids of which the second text ends with padding."""
    rng = np.random.default_rng(0)
    if name == "vit":
        return rng.normal(size=(2, 12, 12, 3)).astype(np.float32)
    ids = rng.integers(0, 30, (2, 11)).astype(np.int32)
    ids[1, 6:] = -1
    return ids


def outputs(model: Any, values: np.ndarray) -> np.ndarray:
    """What the library computes: last hidden states of an encoder, logits of a decoder."""
    import torch

    with torch.no_grad():
        if values.ndim == 4:
            made = model(torch.tensor(values.transpose(0, 3, 1, 2)))
        else:
            ids, mask = torch.tensor(np.maximum(values, 0)).long(), torch.tensor(values >= 0).long()
            made = model(input_ids=ids, attention_mask=mask)
    return (made.logits if "logits" in made else made.last_hidden_state).numpy()


def random_model(name: str) -> Any:
    """A model of the library, no array of it constant."""
    import torch
    import transformers

    torch.manual_seed(0)
    kind, config = (getattr(transformers, part) for part in CLASSES[name])
    model = kind(config(**SETTINGS[name])).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return model


def golden(name: str) -> tuple[Path, np.ndarray]:
    """The folder of a saved model, and what the library computes with it."""
    folder = GOLDEN / name
    return folder, load_file(folder / "outputs.safetensors")["outputs"]


def _write(name: str) -> None:
    from safetensors.numpy import save_file

    model, folder = random_model(name), GOLDEN / name
    model.save_pretrained(folder)
    save_file({"outputs": outputs(model, inputs(name))}, folder / "outputs.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for extra in folder.glob("generation_config.json"):
        extra.unlink()


if __name__ == "__main__":
    for each in NAMES:
        _write(each)
