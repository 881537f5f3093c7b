"""A pretrained model from wherever it is; packages that are missing."""

import sys
from pathlib import Path

import numpy as np
import pytest

from jfedsl.errors import UserError
from jfedsl.models.pretrained.checkpoint import CheckpointError, open_checkpoint
from models.pretrained.files import LLAMA_SIZES, drawn, write_folder, write_gguf


def test_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", {"model_type": "vit"}, {"vit.cls_token": drawn(1, 1, 4)})
    read = open_checkpoint(str(tmp_path / "m")).read("cls_token")
    np.testing.assert_array_equal(read, drawn(1, 1, 4))


def test_a_gguf_file(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "x.GGUF", LLAMA_SIZES, {"token_embd.weight": drawn(12, 32)})
    read = open_checkpoint(str(file)).read("embed_tokens.weight")
    np.testing.assert_array_equal(read, drawn(12, 32))


def test_places_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="^there is no such folder$"):
        open_checkpoint(str(tmp_path / "m"))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="^a folder with config.json or a .gguf file is"):
        open_checkpoint(str(tmp_path / "model.safetensors"))
    with pytest.raises(UserError, match="^--pretrained must be a folder .* this is a URL$"):
        open_checkpoint("https://example.org/model")


@pytest.mark.parametrize(("package", "place"), [("safetensors", ""), ("gguf", "x.gguf")])
def test_a_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, place: str
) -> None:
    write_folder(tmp_path, {"model_type": "bert"}, {"a": drawn(2)})
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"^the package {package} is needed: pip install 'jfedsl\[finetune\]'$"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(tmp_path / place))
