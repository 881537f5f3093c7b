"""The folder of a run."""

import errno
import fcntl
import importlib
import os
import stat
import sys
from pathlib import Path

import pytest

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run.storage import workdir


def test_a_new_folder_gets_its_config_and_an_old_one_keeps_it(tmp_path):
    first = Config(workdir=str(tmp_path / "run"), rounds=3)
    with workdir.hold(first) as path:
        assert workdir.read_config(path) == first
    longer = Config(workdir=str(tmp_path / "run"), rounds=9)
    with workdir.hold(longer) as path:
        assert workdir.read_config(path) == first


def test_the_hold_ends_with_the_block_also_after_an_error(tmp_path):
    config = Config(workdir=str(tmp_path / "run"))
    with pytest.raises(RuntimeError), workdir.hold(config):
        raise RuntimeError
    with workdir.hold(config), pytest.raises(UserError, match="no other run"), workdir.hold(config):
        pass


def test_a_deleted_lock_lets_nobody_in(tmp_path):
    config = Config(workdir=str(tmp_path / "run"))
    with workdir.hold(config) as path:
        (path / ".lock").unlink()
        with pytest.raises(UserError, match="no other run"), workdir.hold(config):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_run_says_so_and_goes_on(tmp_path, monkeypatch, capsys, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with workdir.hold(Config(workdir=str(tmp_path / "run"))) as path:
        assert (path / "config.json").exists()
    assert capsys.readouterr().err.startswith(f"note: {path}: no locks on this file system")


def test_nfs_has_locks_on_files_alone(tmp_path, monkeypatch, capsys):
    real = fcntl.flock

    def flock(descriptor, kind):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "no folder can be written to")
        real(descriptor, kind)

    monkeypatch.setattr("fcntl.flock", flock)
    config = Config(workdir=str(tmp_path / "run"))
    with workdir.hold(config), pytest.raises(UserError, match="no other run"), workdir.hold(config):
        pass
    assert capsys.readouterr().err == ""


def test_without_fcntl_as_on_windows(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delitem(sys.modules, "jfedsl.files.locks")
    assert not importlib.import_module("jfedsl.files.locks").lock(0)


def test_a_folder_that_cannot_be_looked_into(tmp_path, monkeypatch):
    def fail(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", fail)
    with pytest.raises(UserError, match="--workdir must be a folder to read and write"):
        workdir.check(Config(workdir=str(tmp_path)))


def test_a_folder_left_by_a_kill_before_the_config_is_taken(tmp_path):
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".config.json.tmp").write_text("{")
    with workdir.hold(Config(workdir=str(tmp_path))) as path:
        assert workdir.read_config(path) is not None


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"rounds": ')
    with pytest.raises(UserError, match="config.json: not a config of this program"):
        workdir.check(Config(workdir=str(tmp_path)))


def test_dated_folders_never_clash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = {workdir._dated(Config()) for _ in range(5)}
    assert len(made) == 5 and all(path.parent == tmp_path / "runs" for path in made)
    assert all("_digits_cnn" in path.name for path in made)
    tuned = workdir._dated(Config(pretrained="package:a_package"))
    assert tuned.name.endswith("_digits_a_package")


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    workdir.write_atomically(path, "old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        workdir.write_atomically(path, "new")
    assert path.read_text() == "old"
