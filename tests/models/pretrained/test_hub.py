"""Names of the hub, with a stand-in for the download."""

import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from jfedsl.models.pretrained.checkpoint import CheckpointError, open_checkpoint
from models.pretrained.files import drawn, write_folder

ON_HUB = ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "README.md"]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The names asked for and the files of `ON_HUB` downloaded; none of them weights in "a/bin"."""
    calls = []

    def download(repo_id: str, *, allow_patterns: list[str]) -> str:
        files = [f for f in ON_HUB if any(fnmatch(f, pattern) for pattern in allow_patterns)]
        calls.append((repo_id, files))
        tensors = {} if repo_id == "a/bin" else {"wte.weight": drawn(3, 2)}
        return str(write_folder(tmp_path / "snapshot", {"model_type": "gpt2"}, tensors))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return calls


def test_only_the_files_that_are_read_are_downloaded(asked: list[Any]) -> None:
    read = open_checkpoint("openai-community/gpt2").read("wte.weight")
    np.testing.assert_array_equal(read, drawn(3, 2))
    assert asked == [("openai-community/gpt2", ["config.json", "model.safetensors"])]


def test_a_folder_of_that_name_comes_first(asked: list[Any]) -> None:
    Path("a").mkdir()
    write_folder(Path("a/b"), {"model_type": "vit"}, {})
    assert open_checkpoint("a/b").architecture == "vit" and asked == []


def test_a_model_without_safetensors_is_not_a_shape(asked: list[Any]) -> None:
    with pytest.raises(CheckpointError, match="^this model .* hub has no model.safetensors$"):
        open_checkpoint("a/bin")


@pytest.mark.parametrize("place", ["bert", "./a/b", "/a/b", "a/b/c", "a b/c"])
def test_other_texts_are_paths(asked: list[Any], place: str) -> None:
    with pytest.raises(CheckpointError, match="^there is no such folder$"):
        open_checkpoint(place)
    assert asked == []


def test_without_a_network_or_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no\nroute" + " to a host" * 99)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_network)
    message = "^there is no such folder, and the Hugging Face hub cannot be read: no route to"
    with pytest.raises(CheckpointError, match=message) as raised:
        open_checkpoint("a/b")
    assert len(str(raised.value)) < 300
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = r"^there is no such folder, and for a name .* huggingface_hub is needed: pip install"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint("a/b")
