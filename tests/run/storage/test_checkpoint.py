"""Checkpoints: which are damaged, which are others', and which cannot be read for the moment."""

import dataclasses
import errno
import json
import shutil
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run.storage import checkpoint, fingerprints, kept, workdir
from jfedsl.run.storage.checkpoint import Checkpoints
from jfedsl.run.storage.damage import means_damage

CONFIG = Config()
SPLIT = {"examples": 9, "inputs": "float32 [4]", "label_counts": [5, 4], "label_checksum": 1}
SPLIT["input_checksum"] = 2
DATA = {"train": SPLIT, "test": SPLIT, "partition": 3, "plugins": {}}
OTHER = DATA | {"train": SPLIT | {"examples": 8}}
STATE = {"a": jnp.arange(100.0), "b": jnp.ones(3)}
# Orbax leaves coroutines behind when reading fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / kept.CHECKPOINTS
    checkpoints = Checkpoints(folder, CONFIG, DATA)
    for round_ in (1, 2):
        checkpoints.save(round_, STATE, {"cumulative_bytes": 12345 * round_})
    checkpoints.close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / kept.CHECKPOINTS)


def restored(folder, config=CONFIG, data=None):
    checkpoints = Checkpoints(folder, config, data)
    try:
        return checkpoints.restore(STATE)
    finally:
        checkpoints.close()


def counters(folder):
    return folder / "2" / "counters" / "metadata"


def test_one_of_the_same_run_comes_back_as_it_was(folder):
    round_, state, more, plain = restored(folder, dataclasses.replace(CONFIG, progress="none"))
    assert round_ == 2 and more == {} and plain == {"cumulative_bytes": 24690}
    np.testing.assert_array_equal(state["a"], STATE["a"])
    assert kept.newest(folder.parent)["cumulative_bytes"] == 24690


@pytest.mark.parametrize(
    ("config", "data", "differing"),
    [
        (dataclasses.replace(CONFIG, seed=7), DATA, r"seed \(0 -> 7\)"),
        (CONFIG, OTHER, "the training split has 8 examples"),
    ],
)
def test_one_of_another_run_is_refused_and_stays(folder, config, data, differing):
    with pytest.raises(UserError, match=f"checkpoints/2 is of another run; differing: {differing}"):
        restored(folder, config, data)
    assert kept.newest(folder.parent) is not None and not list(folder.parent.glob("*damaged"))


def test_no_plugin_that_a_checkpoint_names_is_run(folder, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    other = dataclasses.replace(CONFIG, seed=7)
    object.__setattr__(other, "plugin", str(tmp_path / "evil.py"))  # as another's config says
    checkpoints = Checkpoints(folder, other)
    checkpoints.save(3, STATE, {})
    checkpoints.close()
    with pytest.raises(UserError, match=r"is of another run; differing: seed \(7 -> 0\)"):
        restored(folder)
    workdir.record(CONFIG, folder.parent)
    with pytest.raises(UserError, match=r"are of different runs; differing: seed \(7 -> 0\)"):
        workdir.read_config(folder.parent)


def test_a_fingerprint_that_is_gone_is_taken_from_the_checkpoint(folder):
    with pytest.raises(UserError, match="cannot go on: the training split has 8 examples, 9 when"):
        fingerprints.keep(folder.parent, OTHER)
    assert not (folder.parent / fingerprints.FINGERPRINT).exists()
    fingerprints.keep(folder.parent, DATA)
    assert fingerprints.changes(folder.parent, DATA) == []


def test_one_in_the_folder_of_another_round_is_passed_over(folder):
    shutil.copytree(folder / "2", folder / "5")
    with pytest.warns(match="is of another round"):
        assert restored(folder)[0] == 2


@pytest.mark.parametrize(("number", "age"), [(2, "an earlier"), (99, "a later")])
def test_one_of_another_version_is_refused_and_stays(folder, monkeypatch, number, age):
    monkeypatch.setattr(checkpoint, "VERSION", number)
    checkpoints = Checkpoints(folder, CONFIG)
    checkpoints.save(3, STATE, {})
    checkpoints.close()
    monkeypatch.undo()
    with pytest.raises(UserError, match=rf"checkpoints/3 is of {age} version \(layout {number}; "):
        restored(folder)
    assert (folder / "3").is_dir()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b"24690", b"24691"),
        lambda data: data.replace(b'"version"', b'"versiom"'),
        lambda data: data.replace(b'"crc32"', b'"crc33"'),
        lambda data: data.replace(b'"seed', b'"s\xffed'),
        lambda data: b"[" * 100_000,
        lambda data: b"[1]",
        lambda data: b"",
    ],
)
def test_damaged_plain_values_are_passed_over(folder, damage):
    data = counters(folder).read_bytes()
    counters(folder).write_bytes(damage(data))
    assert counters(folder).read_bytes() != data
    assert kept.newest(folder.parent)["cumulative_bytes"] == 12345
    with pytest.warns(UserWarning, match="checkpoints/2 is damaged.*going back to round 1"):
        assert restored(folder)[3] == {"cumulative_bytes": 12345}


def test_one_that_cannot_be_read_now_stops_the_run_and_stays(folder, monkeypatch):
    read = Checkpoints._read

    def failing(self, round_, template):
        if round_ == 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return read(self, round_, template)

    monkeypatch.setattr(Checkpoints, "_read", failing)
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(UserError, match="checkpoints/2 cannot be read now .*open files.*try again"),
    ):
        restored(folder)
    assert (folder / "2").is_dir()
    monkeypatch.undo()
    assert restored(folder)[0] == 2


def test_of_several_processes_all_stop_where_one_cannot_read(folder, monkeypatch):
    theirs = json.dumps([True, "cannot be read now (theirs)"])

    def texts(here):
        return [here, theirs if here == "null" else here]

    monkeypatch.setattr(checkpoint.distributed, "texts", texts)
    with pytest.raises(UserError, match=r"checkpoints/2 cannot be read now \(theirs\)"):
        restored(folder)


def test_what_tensorstore_cannot_open_now_is_not_damaged(folder):
    manifest = folder / "2" / "state" / "manifest.ocdbt"
    manifest.unlink()
    manifest.symlink_to(manifest)  # as root may open any file
    with pytest.raises(UserError, match="checkpoints/2 cannot be read now .*try again"):
        restored(folder)


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "damage"),
    [
        (ValueError("checksum of a differs"), True),
        (json.JSONDecodeError("Expecting", "", 0), True),
        (KeyError("version"), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), True),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), True),
        (ValueError("DATA_LOSS: Error decoding manifest: CRC-32C checksum"), True),
        (ValueError('NOT_FOUND: Failed to open: "x": No such file'), True),
        (ValueError('RESOURCE_EXHAUSTED: Failed to open: "x": Too many open files'), False),
        (ValueError('UNKNOWN: Failed to read: "x": Input/output error'), False),
        (ValueError('ABORTED: Failed to read: "x": Stale file handle'), False),
        (ValueError('PERMISSION_DENIED: Failed to open: "x": Permission denied'), False),
        (caused(ValueError("cannot be decoded"), OSError(errno.EIO, "Input/output error")), False),
        (OSError(errno.ESTALE, "Stale file handle"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (MemoryError(), False),
        (RuntimeError("can't start new thread"), False),
    ],
)
def test_what_means_damage(error, damage):
    assert means_damage(error) == damage


def test_folders_that_only_look_like_checkpoints_are_none(tmp_path):
    folder = tmp_path / "checkpoints"
    for name in ("\u00b2", "\u0663", "007", "1e3", "-1"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("")
    (folder / "5").write_text("no folder")
    assert kept.steps(folder) == [] and not checkpoint.any_in(folder)
    assert kept.newest(tmp_path) is None
