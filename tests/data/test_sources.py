"""Data sets by name, and by a form that says where they are."""

from pathlib import Path

import numpy as np
import pytest
from helpers import plain

from jfedsl.data.sources import load
from jfedsl.errors import UserError


def write(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, features=np.arange(40.0).reshape(20, 2), label=np.arange(20) % 2)
    return path


def test_a_path_is_made_absolute_so_that_a_run_goes_on_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.npz")
    monkeypatch.chdir(tmp_path)
    config = plain(dataset="file:x.npz")
    assert config.dataset == f"file:{path}"
    assert load(config.dataset, "data").classes == 2


def test_a_file_that_has_moved_is_found_in_the_folder_of_data_sets(tmp_path: Path) -> None:
    moved = write(tmp_path / "new" / "x.npz")
    assert load(f"file:{tmp_path}/old/x.npz", str(moved.parent)).classes == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("file:/none/x.npz", "--dataset=file:/none/x.npz: there is no such file"),
        ("tfds:nothing", "--dataset=tfds:nothing: not prepared in data; run: .*tfds build nothing"),
    ],
)
def test_errors_name_the_flag_and_its_value(name: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load(name, "data")


@pytest.mark.parametrize("name", ["file:", "other:x", "fle"])
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"--dataset must be .*, or file:PATH, hf:PATH, tfds:NAME"):
        plain(dataset=name)
