"""Weights & Biases: a package that is missing, what is sent, and how a run goes on."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from helpers import plain

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run.early_stopping import EarlyStopping
from jfedsl.run.storage.metrics import read
from jfedsl.run.training import train


def short(folder: Path, **changes: Any) -> Config:
    settings = {"rounds": 2, "eval_every": 1, "train_examples": 100, "test_examples": 20}
    return plain(**{**settings, "loggers": "wandb", "workdir": str(folder), **changes})


@pytest.mark.parametrize("found", [None, ModuleSpec("wandb", None)])
def test_a_missing_package_is_named_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: ModuleSpec | None
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(UserError, match=r"--loggers=wandb: .* pip install 'jfedsl\[wandb\]'"):
        train(short(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


class Library(ModuleType):
    """Stands in for the library: keeps what its runs are sent."""

    errors = SimpleNamespace(Error=type("Error", (Exception,), {}))

    def __init__(self) -> None:
        super().__init__("wandb")
        self.opened: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.exits: list[int] = []
        self.failure = ""
        self.unknown = ""  # why there is no account
        self.mode = "online"
        self.starting_step = 0

    def setup(self) -> SimpleNamespace:
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    def login(self) -> None:
        if self.unknown:
            raise self.errors.Error(self.unknown)

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **arguments: Any) -> "Library":
        if self.failure:
            raise self.errors.Error(self.failure)
        self.opened.append(arguments)
        self.id = arguments["id"] or "made"
        return self

    def define_metric(self, name: str, summary: str) -> None:
        self.summary = (name, summary)

    def log(self, values: dict[str, Any], step: int, commit: bool) -> None:
        assert commit, "a kill would lose the last row"
        self.logged.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.exits.append(exit_code)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made = Library()
    monkeypatch.setitem(sys.modules, "wandb", made)
    here = ModuleSpec("wandb", None, origin="here")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: here)
    for name in ("WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    return made


def test_a_resumed_run_continues_its_run_there(tmp_path: Path, library: Library) -> None:
    train(short(tmp_path, rounds=1, loggers="none"))
    train(short(tmp_path))
    train(short(tmp_path, rounds=3))
    first, second = library.opened
    assert (first["id"], second["id"]) == (None, "made")
    assert first["resume"] == "allow" and first["dir"] == str(tmp_path)
    assert first["project"] == "jfedsl" and first["name"] == tmp_path.name
    assert first["config"]["rounds"] == 2 and first["settings"]["silent"]
    assert library.summary == ("test_accuracy", "max") and library.exits == [0, 0]
    # The round without the logger is sent too, and none twice.
    assert [step for step, _ in library.logged] == [1, 2, 3]
    losses = [row["train_loss"] for row in read(tmp_path / "metrics.csv")]
    assert [values["train_loss"] for _, values in library.logged] == pytest.approx(losses)
    assert "round" not in library.logged[0][1]


def test_rounds_that_were_not_sent_are_sent_later(tmp_path: Path, library: Library) -> None:
    train(short(tmp_path / "run", rounds=1, loggers="none"))
    (tmp_path / "run" / "wandb").mkdir()
    (tmp_path / "run" / "wandb" / "run_id").write_text("made")  # and then came a kill
    train(short(tmp_path / "run"))
    assert [step for step, _ in library.logged] == [1, 2]
    train(short(tmp_path / "run", rounds=3, loggers="none"))
    library.logged, library.starting_step = [], 2  # W&B has round 1 alone
    train(short(tmp_path / "run", rounds=4))
    assert [step for step, _ in library.logged] == [2, 3, 4]


def test_a_run_inside_of_the_handling_of_an_error_has_not_failed(
    tmp_path: Path, library: Library
) -> None:
    try:
        raise ValueError
    except ValueError:
        train(short(tmp_path, rounds=1))
    assert library.exits == [0]


def test_an_unknown_account_is_an_error_before_a_folder_is_made(
    tmp_path: Path, library: Library
) -> None:
    library.unknown = "No API key configured."
    with pytest.raises(UserError, match="--loggers=wandb: No API key configured.; WANDB_MODE=offl"):
        train(short(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    library.mode = "offline"
    train(short(tmp_path / "run", rounds=1))


def test_errors_of_the_library_and_of_the_run(tmp_path: Path, library: Library) -> None:
    library.failure = "api_key not configured\n(no-tty)"
    with pytest.raises(UserError, match="--loggers=wandb: api_key .*; WANDB_MODE=offline needs"):
        train(short(tmp_path))
    library.failure = ""
    with pytest.raises(UserError):  # at the first evaluation
        train(short(tmp_path), [EarlyStopping(1, "test_acuracy")])
    assert library.exits == [1]


def test_offline_with_the_library_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(short(tmp_path))
    id_ = (tmp_path / "wandb" / "run_id").read_text().strip()
    train(short(tmp_path, rounds=3))
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{id_}/run-{id_}.wandb"))
    assert len(files) == 2 and all(b"train_loss" in file.read_bytes() for file in files)
