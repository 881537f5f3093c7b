"""Data sets of texts become data sets of ids, computed once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers_made

from jfedsl.data.arrays import ArrayError
from jfedsl.data.datasets import from_texts
from jfedsl.data.text import tokens
from jfedsl.data.text.tokens import tokenized
from jfedsl.errors import UserError

TRAIN = ["good text", "very very bad texts", "bad"]
DATA = from_texts((TRAIN, ["yes", "no", "no"]), (["a", ""], ["yes", "no"]), clients=[4, 4, 8])
WORDPIECE = tokenizers_made.wordpiece()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by a line whenever a tokenizer is opened."""
    calls: list[str] = []
    read = tokens.open_tokenizer
    monkeypatch.setattr(tokens, "open_tokenizer", lambda text: calls.append(text) or read(text))
    return calls


def same(a: Any, b: Any) -> None:
    for one, other in ((a.train, b.train), (a.test, b.test)):
        for array, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, expected)
    assert a.notes == b.notes


def test_texts_become_ids_with_the_labels_and_clients_that_they_had(tmp_path: Path) -> None:
    data = tokenized(DATA, WORDPIECE, 5, tmp_path)
    assert data.train.images.tolist() == [[2, 6, 7, 3, -1], [2, 8, 8, 5, 3], [2, 5, 3, -1, -1]]
    assert data.test.images.tolist() == [[2, 4, 3, -1, -1], [2, 3, -1, -1, -1]]
    assert data.integer_inputs and not data.of_texts and data.class_names == ("no", "yes")
    np.testing.assert_array_equal(data.train.labels, DATA.train.labels)
    np.testing.assert_array_equal(data.train.owners, [0, 0, 1])
    assert data.notes == ("1 of 3 training texts are cut off after 5 tokens",)
    assert data.train.byte_counts is None


def test_windows_have_the_label_and_the_client_of_their_text(tmp_path: Path) -> None:
    data = tokenized(DATA, WORDPIECE, 3, tmp_path, chunks=True)
    assert data.train.images.tolist() == [[2, 6, 7], [2, 8, 8], [5, 7, 9], [2, 5, 3]]
    assert data.train.labels.tolist() == [1, 0, 0, 0]
    assert data.train.owners is not None and data.train.owners.tolist() == [0, 0, 0, 1]
    assert data.train.byte_counts is not None
    assert data.train.byte_counts.tolist() == [9, 9, 6, 3]
    assert data.train.at(np.array([3, 0])).byte_counts.tolist() == [3, 9]


@pytest.mark.parametrize("chunks", [False, True])
def test_ids_are_computed_once_for_the_same_texts_tokenizer_and_settings(
    tmp_path: Path, opened: list[str], chunks: bool
) -> None:
    first = tokenized(DATA, WORDPIECE, 4, tmp_path, chunks)
    same(tokenized(DATA, WORDPIECE, 4, tmp_path, chunks), first)
    assert len(opened) == 1 and len(list(tmp_path.iterdir())) == 1
    other = from_texts((["good", " text", *TRAIN[2:]], [0, 1, 2]), (["a"], [0]))
    split = from_texts((["goo", "d text", *TRAIN[2:]], [0, 1, 2]), (["a"], [0]))
    for arguments in (
        (DATA, WORDPIECE, 5), (DATA, WORDPIECE.replace("good", "goat"), 4), (other, WORDPIECE, 4),
        (split, WORDPIECE, 4),
    ):  # fmt: skip
        tokenized(*arguments, tmp_path, chunks)
    tokenized(DATA, WORDPIECE, 4, tmp_path, not chunks)
    assert len(opened) == 6 and len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_a_damaged_file_is_made_again(tmp_path: Path, opened: list[str], damage: str) -> None:
    first = tokenized(DATA, WORDPIECE, 4, tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(b"\x02\0\0\0\x06\0\0\0")] ^= 1  # an id
    path.write_bytes({"cut": content[:-30], "flip": flipped, "other": b"text"}[damage])
    same(tokenized(DATA, WORDPIECE, 4, tmp_path), first)
    assert len(opened) == 2 and path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    data = tokenized(DATA, WORDPIECE, 9, tmp_path / "file")
    assert data.train.images.shape == (3, 9)
    assert len(data.notes) == 1 and data.notes[0].startswith("token ids are not kept: [Errno ")


def test_what_cannot_be_tokenized_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--tokens must be 3 or more, not 2; .* 2 special tokens"):
        tokenized(DATA, WORDPIECE, 2, tmp_path)
    with pytest.raises(UserError, match="--tokens must be 2 or more, not 1; "):
        tokenized(DATA, WORDPIECE, 1, tmp_path, chunks=True)
    bytewise = tokenizers_made.bytewise()
    with pytest.raises(ArrayError, match="^test inputs: no tokens in row 2, ''; leave such texts "):
        tokenized(DATA, bytewise, 4, tmp_path)
    short = DATA._replace(test=DATA.test.at(np.array([0])))
    with pytest.raises(ArrayError, match="^test inputs: no text has two tokens, of which one is "):
        tokenized(short, bytewise, 4, tmp_path, chunks=True)
    assert list(tmp_path.iterdir()) == []
