"""Paths that users name, in every function that takes one."""

import os
from pathlib import Path
from typing import Any

import pytest

from jfedsl.config import Config
from jfedsl.data import preparation
from jfedsl.errors import UserError
from jfedsl.files.paths import local, path_error
from jfedsl.planner.plan import Goal, source_of
from jfedsl.run import constants_recorder
from jfedsl.run.constants_recorder import measure_run
from jfedsl.run.evaluate import evaluate_run
from jfedsl.run.load import load
from jfedsl.run.restore import restore_run, weights_of
from jfedsl.run.storage import export, metrics
from jfedsl.run.storage.workdir import read_config
from jfedsl.studies import report
from jfedsl.theory.measure import DEFAULT_EFFORT

BUCKET = "gs://bucket/x"


def test_a_tilde_is_a_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert (
        local("workdir", "~/runs/a")
        == local("workdir", Path("~/runs/a"))
        == Path("/home/me/runs/a")
    )
    assert local("workdir", "runs/~") == Path("runs/~") and local("workdir", "c:x") == Path("c:x")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        (BUCKET, "this is a URL"),
        (Path(BUCKET), "this is a URL"),
        ("~nobody-has-this-name/x", "this home folder is unknown"),
        (os.fsdecode(b"runs/\xff"), "a path in UTF-8"),
        ("x" * 256, "names up to 255 bytes"),
        ("x/" * 3001, "3000 in all"),
        ("a\0b", "without a zero byte"),
    ],
)
def test_names_that_no_folder_can_have_are_refused(name, allowed):
    with pytest.raises(UserError, match=f"--output must be .*{allowed}") as error:
        local("output", name)
    assert str(error.value).isprintable()


def test_the_error_for_a_misspelt_path_proposes_a_similar_name(tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    text = str(path_error("config", tmp_path / "frist", "a file", "no such file"))
    assert text.endswith(f"frist; no such file; did you mean {tmp_path}/first?")
    for path in (tmp_path / "first", tmp_path / "other", tmp_path / "no" / "first"):
        assert "did you mean" not in str(path_error("config", path, "a file"))


def plan(constants: str, table: str, output: str) -> Any:
    return source_of(Config(), Goal(seconds=1.0), constants, table, output)


@pytest.mark.parametrize(
    ("flag", "function", "arguments"),
    [
        ("workdir", evaluate_run, (BUCKET, "x")),
        ("export_dir", evaluate_run, ("x", BUCKET)),
        ("workdir", measure_run, (BUCKET, DEFAULT_EFFORT)),
        ("workdir", restore_run, (BUCKET,)),
        ("init_from", weights_of, (BUCKET, "data", (), None)),
        ("workdir", read_config, (BUCKET,)),
        ("metrics", metrics.read, (BUCKET,)),
        ("measurements", constants_recorder.read, (BUCKET,)),
        ("export", export.read, (BUCKET,)),
        ("folder", load, (BUCKET,)),
        ("folder", report.write, ([BUCKET], "x", "", None)),
        ("data_dir", preparation.prepare, ("mnist", BUCKET)),
        ("manual_dir", preparation.prepare, ("mnist", "x", BUCKET)),
        ("constants", plan, (BUCKET, "", "x")),
        ("rounds_table", plan, ("", BUCKET, "x")),
        ("output", plan, ("x", "", BUCKET)),
    ],
)
def test_every_function_takes_text_and_refuses_urls(
    flag, function, arguments, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=f"--{flag} must be a folder on this machine .*, not {BUCKET}"
    ):
        function(*arguments)
    assert not any(tmp_path.iterdir())


def test_a_folder_without_a_run_is_named_as_text(tmp_path):
    with pytest.raises(UserError, match="the workdir of a run with a checkpoint"):
        evaluate_run(str(tmp_path), str(tmp_path / "export"))
