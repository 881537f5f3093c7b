"""What tells a run's data from other data, in words."""

from pathlib import Path

import numpy as np
import pytest

from jfedsl.data.datasets import Dataset, Split, from_arrays
from jfedsl.data.fingerprint import differences, fingerprint
from jfedsl.errors import UserError
from jfedsl.run.storage.fingerprints import changes, keep, plugins_changed

X = np.arange(60, dtype=np.float32).reshape(20, 3)
Y = np.arange(20) % 4
SHARES = [np.arange(0, 9), np.arange(9, 20)]


def marks(x=X, y=Y, shares=SHARES, plugins=None, classes=None):
    return fingerprint(from_arrays((x, y), (X, Y), classes), shares, plugins or {"a.py": "1"})


OLD = marks()


def with_one(array, value):
    return np.concatenate([array[:-1], np.full_like(array[-1:], value)])


@pytest.mark.parametrize(
    ("new", "text"),
    [
        (marks(X[:15], Y[:15]), "the training split has 15 examples, 20 when the run began"),
        (marks(y=with_one(Y, 0)), "the training split has 6 examples of class 0, 5 when the run"),
        (marks(y=Y[::-1]), "the training split has its labels in another order than when the run"),
        (marks(with_one(X, 7)), "the training split has other inputs than when the run began"),
        (marks(classes=5), "the training split has 5 classes, 4 when the run began"),
        (marks(shares=SHARES[::-1]), "clients have other examples than when the run began"),
        (marks(plugins={"a.py": "2"}), "plugin a.py has changed"),
        (marks(plugins={"b.py": "2"}), "plugin a.py was there when the run began"),
    ],
)
def test_what_differs_is_named_and_the_run_refused(new, text, tmp_path):
    assert differences(OLD, new)[0].startswith(text)
    keep(tmp_path, OLD)
    before = (tmp_path / "fingerprint.json").read_bytes()
    with pytest.raises(UserError, match=f"this run cannot go on: {text}"):
        keep(tmp_path, new)
    assert (tmp_path / "fingerprint.json").read_bytes() == before


def test_inputs_of_another_kind_are_named():
    labels = Y.astype(np.int32)
    other = Dataset(Split(X.astype(np.uint8), labels), Split(X, labels), 4)
    text = "the training split has inputs uint8 [3], float32 [3] when the run began"
    assert differences(OLD, fingerprint(other, SHARES, {"a.py": "1"})) == [text]


def test_the_same_data_go_on_from_any_program(tmp_path):
    keep(tmp_path, OLD)
    keep(tmp_path, marks(plugins={"moved.py": "1", "b.py": "2"}))
    lazily = {**OLD, "train": {**OLD["train"], "input_checksum": None}}
    keep(tmp_path, lazily)
    assert changes(tmp_path, lazily) == [] and changes(tmp_path / "older", OLD) == []


def test_a_finished_run_is_of_its_plugins(tmp_path):
    assert not plugins_changed(tmp_path, {}), "of an earlier version"
    keep(tmp_path, OLD)
    assert not plugins_changed(tmp_path, {"b.py": "3", "moved.py": "1"})
    assert plugins_changed(tmp_path, {"a.py": "2"}) and plugins_changed(tmp_path, {})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\0", '{"plugins": 3}'])
def test_a_damaged_file_is_named(text, tmp_path: Path):
    (tmp_path / "fingerprint.json").write_text(text)
    with pytest.raises(UserError, match="fingerprint.json: damaged"):
        keep(tmp_path, OLD)
    assert plugins_changed(tmp_path, {"a.py": "1"})
