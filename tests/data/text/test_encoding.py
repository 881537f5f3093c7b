"""Texts as token ids: special tokens, padding, windows, and the bytes of each token."""

import os
import sys

import numpy as np
import pytest
import tokenizers_made
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.data.arrays import ArrayError
from jfedsl.data.text import encoding
from jfedsl.data.text.encoding import cut_off, open_tokenizer, token_bytes, windows

TEXTS = np.array(["good texts", "", "a very very very bad text"], object)


def test_texts_are_cut_off_before_the_last_special_token_and_padded_at_the_end() -> None:
    encoded = cut_off(open_tokenizer(tokenizers_made.wordpiece()), TEXTS, 7)
    assert encoded.ids.dtype == np.int32
    assert encoded.ids.tolist() == [
        [2, 6, 7, 9, 3, -1, -1],
        [2, 3, -1, -1, -1, -1, -1],
        [2, 4, 8, 8, 8, 5, 3],
    ]
    assert encoded.longer == 1 and encoded.rows.tolist() == [0, 1, 2]


def test_pieces_of_texts_are_encoded_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = open_tokenizer(tokenizers_made.wordpiece())
    whole = cut_off(tokenizer, TEXTS, 7), windows(tokenizer, TEXTS, 3)
    monkeypatch.setattr(encoding, "_PIECE", 2)
    pieces = cut_off(tokenizer, TEXTS, 7), windows(tokenizer, TEXTS, 3)
    for one, other in zip(whole, pieces, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_windows_follow_each_other_and_leave_out_those_without_a_prediction() -> None:
    encoded = windows(open_tokenizer(tokenizers_made.wordpiece()), TEXTS, 4)
    assert encoded.ids.tolist() == [[2, 6, 7, 9], [2, 3, -1, -1], [2, 4, 8, 8], [8, 5, 7, 3]]
    assert encoded.rows.tolist() == [0, 1, 2, 2]  # [SEP] of the first text is alone
    lengths = [len("good texts"), 0, len("a very very"), len(" bad text")]
    assert encoded.byte_counts.tolist() == lengths


@given(st.text(max_size=20), st.integers(2, 5))
def test_every_byte_belongs_to_one_token(text: str, tokens: int) -> None:
    tokenizer = open_tokenizer(tokenizers_made.bytewise())
    encoding = tokenizer.encode(text)
    counts = token_bytes(text, encoding.offsets)
    assert counts.sum() == len(text.encode()) == len(encoding.ids)
    assert all(count >= 0 for count in counts)
    encoded = windows(tokenizer, np.array([text, "some more"], object), tokens)
    whole = encoded.ids[encoded.rows == 0]
    assert len(whole) == len(encoding.ids) // tokens + (len(encoding.ids) % tokens > 1)
    if text.isascii():  # a token of each byte
        np.testing.assert_array_equal(encoded.byte_counts, (encoded.ids[:, 1:] >= 0).sum(axis=1))


def test_the_vocabulary_holds_every_id() -> None:
    assert encoding.vocabulary_size(tokenizers_made.wordpiece()) == len(tokenizers_made.WORDS)


def test_what_is_no_tokenizer_is_one_line() -> None:
    with pytest.raises(ArrayError, match="^the tokenizer cannot be read: .*"):
        open_tokenizer("no json")


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ArrayError, match=r"pip install 'jfedsl\[finetune\]'$"):
        open_tokenizer(tokenizers_made.wordpiece())


def test_threads_are_set_unless_the_user_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    open_tokenizer(tokenizers_made.wordpiece())
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    open_tokenizer(tokenizers_made.wordpiece())
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
