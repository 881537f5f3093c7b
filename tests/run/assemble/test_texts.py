"""Texts in a run: tokenized before anything else sees them."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers_made

from jfedsl import DATASETS, Config, build, from_arrays, from_texts
from jfedsl.data.fingerprint import fingerprint
from jfedsl.errors import UserError
from jfedsl.run.assemble.texts import with_tokens

DATA = from_texts((["good text", "bad"], [1, 0]), (["a text"], [1]), clients=["ann", "bob"])


def test_texts_become_ids_that_are_kept_in_the_folder_of_data_sets(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), tokens=4)
    data = with_tokens(config, DATA, tokenizers_made.wordpiece())
    assert data.train.images.tolist() == [[2, 6, 7, 3], [2, 5, 3, -1]]
    assert len(list((tmp_path / "tokens").iterdir())) == 1
    marks = fingerprint(data, [np.array([0]), np.array([1])], {}, {}, {})
    assert marks["train"]["inputs"] == "int32 [4]"
    assert marks["train"]["input_checksum"] != marks["test"]["input_checksum"]
    windows = with_tokens(config, DATA, tokenizers_made.bytewise(), chunks=True)
    assert windows.train.images.shape == (3, 4)


def test_other_data_sets_are_left_alone() -> None:
    data = from_arrays((np.eye(3), [0, 1, 0]), (np.eye(3), [0, 1, 0]))
    assert with_tokens(Config(), data, None) is data


@pytest.mark.usefixtures("tables")
def test_without_a_tokenizer_a_line_says_what_names_one(tmp_path: Path) -> None:
    DATASETS["mine"] = lambda _: DATA
    with pytest.raises(UserError) as error:
        build(Config(dataset="mine", clients=2))
    given = "--dataset=mine holds texts; --pretrained=FOLDER names a model with a tokenizer"
    assert str(error.value) == given
    with pytest.raises(UserError, match="--dataset=mine: the tokenizer cannot be read: "):
        with_tokens(Config(dataset="mine", data_dir=str(tmp_path)), DATA, "{}")
