"""The command `jfedsl`: it finds its subcommands and starts them."""

import importlib
import sys
from types import SimpleNamespace

import pytest

import jfedsl
from jfedsl.commands.main import find, main
from jfedsl.commands.registry import COMMANDS, STUDIES
from jfedsl.errors import UserError


@pytest.fixture(autouse=True)
def no_startup(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that takes the signals of the process is not imported."""
    monkeypatch.setitem(sys.modules, "jfedsl.run.startup", SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*COMMANDS, *(f"study {name}" for name in STUDIES)])
def test_every_subcommand_can_be_started(name: str) -> None:
    if name != "study":
        call = find([*name.split(), "--flag=1"])
        assert call.arguments == [f"jfedsl {name}", "--flag=1"]
        assert callable(importlib.import_module(f"jfedsl.commands.{call.module}").start)


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("resume runs/a --rounds=9", ["jfedsl resume", "--resume=runs/a", "--rounds=9"]),
        ("evaluate runs/a", ["jfedsl evaluate", "--workdir=runs/a"]),
        ("prepare-data mnist", ["jfedsl prepare-data", "--dataset=mnist"]),
        ("report runs/a runs/b", ["jfedsl report", "runs/a", "runs/b"]),
        ("train rounds=3", ["jfedsl train", "rounds=3"]),
    ],
)
def test_a_folder_or_a_name_is_the_value_of_a_flag(words: str, arguments: list[str]) -> None:
    assert find(words.split()).arguments == arguments


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trian"], "there is no command trian; did you mean train?"),
        (["xyzzy"], "there is no command xyzzy; one of train, resume"),
        (["study", "case"], "there is no study case; did you mean cases?"),
    ],
)
def test_what_there_is_not_is_told_what_is_close(words: list[str], text: str) -> None:
    with pytest.raises(UserError) as error:
        find(words)
    assert str(error.value).startswith(text)


def called(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of the command with these words."""
    monkeypatch.setattr(sys, "argv", ["/some/where/jfedsl", *words])
    try:
        main()
    except SystemExit as ended:
        assert isinstance(ended.code, int)
        return ended.code
    return 0


def test_version_and_lists(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called("--version", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == f"jfedsl {jfedsl.__version__}\n"
    for words, status in ((["--help"], 0), ([], 2)):
        assert called(*words, monkeypatch=monkeypatch) == status
        assert all(f"\n  {name} " in capsys.readouterr().out for name in list(COMMANDS)[:1])
    assert called("study", "--help", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in STUDIES)
    assert called("trian", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err == "error: there is no command trian; did you mean train?\n"


def test_a_subcommand_is_started_with_its_own_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    module = SimpleNamespace(start=lambda: seen.append(sys.argv))
    monkeypatch.setitem(sys.modules, "jfedsl.commands.train", module)  # type: ignore[arg-type]
    assert called("train", "--rounds=3", monkeypatch=monkeypatch) == 0
    assert seen == [["jfedsl train", "--rounds=3"]]
