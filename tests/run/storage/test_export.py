"""Exports: what was written is what is read, or one line says which file is at fault."""

import json
from pathlib import Path

import numpy as np
import pytest

from jfedsl.errors import UserError
from jfedsl.files.signed import signed
from jfedsl.models import blocks
from jfedsl.models.layers import Variables
from jfedsl.run.storage import export

ARRAYS = {
    "params.a.kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "stats.b.mean": np.array(0.5, np.float32),
    "params.b.scale": np.ones(3, bool),
}


def make(folder: Path) -> Path:
    half = {"params.a.kernel": ARRAYS["params.a.kernel"]}
    export.write(folder, {"joined.npz": ARRAYS, "server.npz": half}, {"classes": 3})
    return folder


def test_round_trip_and_manifest(tmp_path: Path) -> None:
    folder = make(tmp_path / "new" / "export")
    arrays = export.read(folder)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == export.FORMAT and manifest["classes"] == 3
    assert manifest["files"]["server.npz"]["arrays"] == {
        "params.a.kernel": {"shape": [2, 3], "dtype": "float32"}
    }
    names = {p.name for p in folder.iterdir()}
    assert names == {"joined.npz", "server.npz", "manifest.json"}


def test_writing_again_replaces(tmp_path: Path) -> None:
    make(tmp_path)
    export.write(tmp_path, {"joined.npz": {"x": np.zeros(1)}}, {})
    assert list(export.read(tmp_path)) == ["x"]
    assert {p.name for p in tmp_path.iterdir()} == {"joined.npz", "manifest.json"}


def test_a_kill_between_files_leaves_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        export.write(tmp_path, {"joined.npz": {"x": np.zeros(1)}}, {})
    assert not (tmp_path / "manifest.json").exists()


def test_a_full_disk_leaves_the_earlier_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        export.write(tmp_path, {"joined.npz": {"x": np.zeros(1)}}, {})
    assert {p.name for p in tmp_path.iterdir()} == {"joined.npz", "server.npz", "manifest.json"}
    assert export.read(tmp_path).keys() == ARRAYS.keys()


def test_a_manifest_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "web page"}')
    with pytest.raises(UserError, match="manifest.json: not the manifest of an export"):
        make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_no_name_in_a_manifest_removes_a_file_that_is_not_the_exports(tmp_path: Path) -> None:
    folder, foreign = make(tmp_path / "export"), tmp_path / "foreign.txt"
    for path in (foreign, folder / "notes.txt", folder / "config.json"):
        path.write_text("kept")
    (folder / "client_masks.npz").symlink_to(foreign)
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [
        str(foreign), "../foreign.txt", "x/../../foreign.txt", "notes.txt", "config.json", "",
        ".", "..", "manifest.json", "client_masks.npz", "a\0b", "~/x", "x" * 300,
    ]  # fmt: skip
    manifest["files"] |= dict.fromkeys(names)
    (folder / "manifest.json").write_text(json.dumps(signed(manifest)))
    export.write(folder, {"joined.npz": {"x": np.zeros(1)}}, {})
    assert {p.name for p in tmp_path.iterdir()} == {"export", "foreign.txt"}
    here = {"joined.npz", "manifest.json", "notes.txt", "config.json"}
    assert {p.name for p in folder.iterdir()} == here
    assert foreign.read_text() == "kept"


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda folder: damage(folder / "joined.npz"), "joined.npz: damaged"),
        (lambda folder: (folder / "joined.npz").unlink(), "joined.npz: cannot be read: .*No such"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: not the"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: not the"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "manifest.json: not"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff"), "manifest.json: not the"),
        (
            lambda folder: edit(folder / "manifest.json", '"sha256": "', '"sha256": "0'),
            "manifest.json: not the manifest of an export .*its checksum differs",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text('{"format": "2"}'),
            "manifest.json: not the manifest of an export .jfedsl export 2",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, harm: object, text: str) -> None:
    harm(make(tmp_path))  # type: ignore[operator]
    with pytest.raises(UserError, match=text) as error:
        export.read(tmp_path)
    assert "\n" not in str(error.value)


def test_names_tell_the_layer() -> None:
    model = (blocks.dense("first", 4, "batch"), blocks.flatten(), blocks.logits(2))
    params = ({"Dense_0": {"kernel": 1}}, {}, {"bias": 2, "kernel": 3})
    variables = Variables(params, ({"BatchNorm_0": {"mean": 4}}, {}, {}))
    assert export.named(model, variables) == {
        "params.first.Dense_0.kernel": 1,
        "params.logits.bias": 2,
        "params.logits.kernel": 3,
        "stats.first.BatchNorm_0.mean": 4,
    }
