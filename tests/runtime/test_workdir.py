"""The folder of a run."""

import os

import pytest

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.runtime import workdir


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


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    workdir.write_atomically(path, "old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        workdir.write_atomically(path, "new")
    assert path.read_text() == "old"
