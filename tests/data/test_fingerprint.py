"""Fingerprints: a run goes on with the same data only, and the error says what differs."""

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
FROZEN = {"first.kernel": np.ones((2, 3), np.float32)}
TASK = {"metric": "accuracy", "higher_is_better": True, "of_classes": True}


def fingerprint_of(x=X, y=Y, shares=SHARES, plugins=None, classes=None, frozen=FROZEN):
    plugins, dataset = plugins or {"a.py": "1"}, from_arrays((x, y), (X, Y), classes)
    return fingerprint(dataset, shares, plugins, TASK, frozen)


OLD = fingerprint_of()


def with_last(array, value):
    """The array with another last entry."""
    return np.concatenate([array[:-1], np.full_like(array[-1:], value)])


@pytest.mark.parametrize(
    ("new", "text"),
    [
        (
            fingerprint_of(X[:15], Y[:15]),
            "the training split has 15 examples, 20 when the run began",
        ),
        (
            fingerprint_of(y=with_last(Y, 0)),
            "the training split has 6 examples of class 0, 5 when the run",
        ),
        (
            fingerprint_of(y=Y[::-1]),
            "the training split has its labels in another order than when the run",
        ),
        (
            fingerprint_of(with_last(X, 7)),
            "the training split has other inputs than when the run began",
        ),
        (fingerprint_of(classes=5), "the training split has 5 classes, 4 when the run began"),
        (
            fingerprint_of(shares=SHARES[::-1]),
            "clients have other examples than when the run began",
        ),
        (
            {**OLD, "class_names": ["a", "b", "c", "d"]},
            "classes have other names than when the run",
        ),
        (fingerprint_of(plugins={"a.py": "2"}), "plugin a.py has changed"),
        (fingerprint_of(plugins={"b.py": "2"}), "plugin a.py was there when the run began"),
    ],
)
def test_a_run_with_other_data_is_refused_with_the_difference(new, text, tmp_path):
    assert differences(OLD, new)[0].startswith(text)
    keep(tmp_path, OLD)
    before = (tmp_path / "fingerprint.json").read_bytes()
    with pytest.raises(UserError, match=f"this run cannot go on: {text}"):
        keep(tmp_path, new)
    assert (tmp_path / "fingerprint.json").read_bytes() == before


def test_inputs_of_another_dtype_are_named():
    labels = Y.astype(np.int32)
    other = Dataset(Split(X.astype(np.uint8), labels), Split(X, labels), 4)
    text = "the training split has inputs uint8 [3], float32 [3] when the run began"
    assert differences(OLD, fingerprint(other, SHARES, {"a.py": "1"}, TASK, FROZEN)) == [text]


def test_a_run_goes_on_with_more_plugins_or_images_on_disk(tmp_path):
    keep(tmp_path, OLD)
    keep(tmp_path, fingerprint_of(plugins={"moved.py": "1", "b.py": "2"}))
    lazily = {**OLD, "train": {**OLD["train"], "input_checksum": None}}
    keep(tmp_path, lazily)
    assert changes(tmp_path, lazily) == [] and changes(tmp_path / "older", OLD) == []


def test_a_finished_run_notices_changed_or_missing_plugins(tmp_path):
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


def test_other_frozen_variables_are_named():
    new = fingerprint_of(frozen={"first.kernel": np.zeros((2, 3), np.float32)})
    text = "the model's frozen variables are not those when the run began"
    assert differences(OLD, new) == [text]
    earlier = {name: value for name, value in OLD.items() if name != "frozen"}
    assert differences(earlier, new) == [], "earlier builds did not record them"
