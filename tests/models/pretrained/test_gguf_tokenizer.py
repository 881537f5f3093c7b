"""The tokenizer in a GGUF file."""

import sys
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from jfedsl.models.pretrained.contents import CheckpointError
from jfedsl.models.pretrained.gguf_tokenizer import tokenizer_text

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<|end|>", "<pad>", *BYTES, "12", "ab", "Ġab"]
METADATA: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.merges": ["1 2", "a b", "Ġ ab"],
    "tokenizer.ggml.token_type": [3, 4, *[1] * (len(TOKENS) - 2)],
    "tokenizer.ggml.bos_token_id": 0,
}


def tokenizer(**changed: Any) -> Tokenizer:
    metadata = METADATA | {f"tokenizer.ggml.{key}": value for key, value in changed.items()}
    text = tokenizer_text(metadata)
    assert text is not None
    return Tokenizer.from_str(text)


def test_tokens_keep_their_numbers_and_texts_come_back() -> None:
    read = tokenizer()
    assert [read.id_to_token(n) for n in range(len(TOKENS))] == TOKENS
    assert read.get_vocab_size() == len(TOKENS)
    text = "ab ab, 12 é\n  日"
    assert read.decode(read.encode(text).ids) == text


@pytest.mark.parametrize(
    ("before", "number"), [("smollm", ["Ġ", "1", "2"]), ("gpt-2", ["Ġ", "12"])]
)
def test_digits_are_words_of_their_own_in_smollm_only(before: str, number: list[str]) -> None:
    assert tokenizer(pre=before).encode("ab ab 12").tokens == ["ab", "Ġab", *number]


def test_control_tokens_are_special_and_added_ones_are_whole() -> None:
    encoded = tokenizer().encode("ab<|end|>ab<pad>")
    assert encoded.tokens == ["ab", "<|end|>", "ab", "<pad>"]
    assert tokenizer().decode(encoded.ids) == "abab<pad>"  # special tokens are no text


def test_a_first_token_where_the_file_says_so() -> None:
    assert tokenizer(add_bos_token=True).encode("ab").tokens == ["<|end|>", "ab"]
    assert tokenizer(add_bos_token=False).encode("ab").tokens == ["ab"]


def test_files_without_a_tokenizer() -> None:
    assert tokenizer_text({}) is None
    assert tokenizer_text({"tokenizer.ggml.model": "no_vocab"}) is None


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="with pre gpt-2 or smollm are .* gpt2 with pre tekk"):
        tokenizer(pre="tekken")
    with pytest.raises(CheckpointError, match="^the tokenizer in the file cannot be read: "):
        tokenizer(merges=["ab zz"])
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(CheckpointError, match="^the package tokenizers is needed: pip install"):
        tokenizer()
