"""The tokenizer in a GGUF file as tokenizer.json has it."""

from typing import Any

from jfedsl.models.pretrained.contents import CheckpointError, library, unreadable

_SPECIAL, _ADDED = 3, 4  # kinds of tokens: control tokens, and others that a user added
_BEFORE_MERGES = ("gpt-2", "smollm")  # what splits a text into words: `tokenizer.ggml.pre`


def tokenizer_text(metadata: dict[str, Any]) -> str | None:
    """The text of tokenizer.json, or None if the file has no tokenizer.

    Args:
      metadata: of the file. Byte-level BPE (`tokenizer.ggml.model` gpt2) is read.

    Raises:
      CheckpointError: tokenizers is not installed, or the tokenizer is damaged or of another kind.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind in (None, "none", "no_vocab"):
        return None
    before = metadata.get("tokenizer.ggml.pre", "none")
    if kind != "gpt2" or before not in _BEFORE_MERGES:
        allowed = f"gpt2 with pre {' or '.join(_BEFORE_MERGES)}"
        raise CheckpointError(f"tokenizers {allowed} are read, not {kind} with pre {before}")
    library("tokenizers")
    try:
        return _byte_level(metadata, before)
    except Exception as error:  # of the package's Rust code
        raise unreadable("the tokenizer in the file", error) from error


def _byte_level(metadata: dict[str, Any], before: str) -> str:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # SmolLM merges no digits: each is a word.
    digits = pre_tokenizers.Digits(individual_digits=True)
    split = [digits, words] if before == "smollm" else [words]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = metadata.get("tokenizer.ggml.token_type", [])
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == _SPECIAL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=False)
            if kind in (_SPECIAL, _ADDED)
        ]
    )
    if metadata.get("tokenizer.ggml.add_bos_token", False):
        _begin_with(tokenizer, tokens, metadata["tokenizer.ggml.bos_token_id"])
    return tokenizer.to_str()


def _begin_with(tokenizer: Any, tokens: list[str], number: int) -> None:
    """Every text begins with this token."""
    from tokenizers import processors

    token = tokens[number]
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{token} $A", f"{token} $A {token}:1 $B:1", [(token, number)]
    )
