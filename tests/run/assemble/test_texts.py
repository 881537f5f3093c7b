"""Texts in a run: tokenized before anything else sees them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers_made

from jfedsl import DATASETS, Config, build, from_arrays, from_texts
from jfedsl.data.fingerprint import fingerprint
from jfedsl.errors import UserError
from jfedsl.models.pretrained.checkpoint import Checkpoint
from jfedsl.run.assemble.texts import with_tokens


def checkpoint(tokenizer: str | None) -> Checkpoint:
    return Checkpoint("bert", {}, frozenset(), lambda name: np.zeros(0), tokenizer)


WORDPIECE = checkpoint(tokenizers_made.wordpiece())
DATA = from_texts((["good text", "bad"], [1, 0]), (["a text"], [1]), clients=["ann", "bob"])


def test_texts_become_ids_that_are_kept_in_the_folder_of_data_sets(tmp_path: Path) -> None:
    config = Config(data_dir=str(tmp_path), tokens=4)
    data = with_tokens(config, DATA, WORDPIECE)
    assert data.train.images.tolist() == [[2, 6, 7, 3], [2, 5, 3, -1]]
    assert len(list((tmp_path / "tokens").iterdir())) == 1
    marks = fingerprint(data, [np.array([0]), np.array([1])], {}, {}, {})
    assert marks["train"]["inputs"] == "int32 [4]"
    assert marks["train"]["input_checksum"] != marks["test"]["input_checksum"]


@pytest.mark.parametrize("task", ["classification", "next_token"])
def test_the_next_token_is_predicted_in_windows(tmp_path: Path, task: str) -> None:
    config: Any = SimpleNamespace(dataset="mine", data_dir=str(tmp_path), tokens=3, task=task)
    data = with_tokens(config, DATA, WORDPIECE)
    windows = [[2, 6, 7], [2, 5, 3]]  # and [SEP] of the first text alone
    cut_off = [[2, 6, 3], [2, 5, 3]]
    assert data.train.images.tolist() == (windows if task == "next_token" else cut_off)
    assert (data.train.byte_counts is not None) == (task == "next_token")


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
    config = Config(dataset="mine", data_dir=str(tmp_path), pretrained=str(tmp_path))
    with pytest.raises(UserError, match="--dataset=mine: the tokenizer cannot be read: "):
        with_tokens(config, DATA, checkpoint("{}"))
    with pytest.raises(UserError, match=f"^--pretrained={tmp_path} has no tokenizer.json, and --d"):
        with_tokens(config, DATA, checkpoint(None))


def test_a_run_sees_token_ids(tmp_path: Path) -> None:
    sizes = {
        "model_type": "bert", "vocab_size": len(tokenizers_made.WORDS), "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "max_position_embeddings": 6, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    (tmp_path / "tokenizer.json").write_text(tokenizers_made.wordpiece())
    rows = "".join(f"very good text {n},yes,ann\nbad,no,bob\n" for n in range(20))
    (tmp_path / "mine.csv").write_text(f"text,label,client\n{rows}")
    config = Config(
        dataset=f"file:{tmp_path / 'mine.csv'}", data_dir=str(tmp_path), partition="natural",
        pretrained=str(tmp_path), tokens=6, prune_kind="none", batch_size=2, cut="embed",
    )  # fmt: skip
    experiment = build(config)
    assert experiment.client_names == ("ann", "bob") and experiment.class_names == ("no", "yes")
    ids = np.asarray(experiment.data.images)
    assert ids.shape == (36, 6) and set(map(tuple, ids[18:].tolist())) == {(2, 5, 3, -1, -1, -1)}
    assert "int32 [6]" in experiment.fingerprint["train"]["inputs"]
