"""How GGUF files name what Hugging Face names otherwise, for each architecture."""

from typing import Any, NamedTuple


class Layout(NamedTuple):
    """The names of one architecture.

    Attributes:
      sizes: key of the metadata, after "ARCHITECTURE.", to its name in config.json.
      optional: likewise, of those that a file may leave out.
      constants: entries of config.json that are the same in all files.
      block: name of a block, to be filled with its number.
      outer: names of tensors outside of blocks.
      inner: names of tensors in a block.
      transposed: whether linear layers are stored `[out, in]` and Hugging Face has `[in, out]`.
      rotary: tensors in a block whose rows llama.cpp permutes, to the name in config.json of the
        number of their heads.
    """

    sizes: dict[str, str]
    optional: dict[str, str]
    constants: dict[str, Any]
    block: str
    outer: dict[str, str]
    inner: dict[str, str]
    transposed: bool = False
    rotary: dict[str, str] = {}


LAYOUTS = {
    "gpt2": Layout(
        sizes={
            "block_count": "n_layer",
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        optional={"feed_forward_length": "n_inner"},
        constants={"activation_function": "gelu_new"},
        block="h.{}.",
        outer={
            "token_embd": "wte",
            "position_embd": "wpe",
            "output_norm": "ln_f",
            "output": "lm_head",
        },
        inner={
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        transposed=True,
    ),
    "llama": Layout(
        sizes={
            "block_count": "num_hidden_layers",
            "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size",
            "feed_forward_length": "intermediate_size",
            "attention.head_count": "num_attention_heads",
            "attention.layer_norm_rms_epsilon": "rms_norm_eps",
        },
        optional={
            "attention.head_count_kv": "num_key_value_heads",
            "attention.key_length": "head_dim",
            "rope.freq_base": "rope_theta",
        },
        constants={"hidden_act": "silu"},
        block="layers.{}.",
        outer={"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"},
        inner={
            "attn_norm": "input_layernorm",
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
        },
        rotary={"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"},
    ),
}
