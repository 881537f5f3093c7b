"""How scripts end."""

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from absl import app, logging

from jfedsl.errors import UserError
from jfedsl.run import script
from jfedsl.run.processes.stopping import SIGNALS


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Starting a script changes signals, warnings and logs of the whole process."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    formatted, verbosity = warnings.formatwarning, logging.get_verbosity()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    warnings.formatwarning = formatted
    logging.set_verbosity(verbosity)


def test_a_command_line_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(UserError, match=r"--title=.udcff must be text in UTF-8"):
        script._parse(["train.py", os.fsdecode(b"--title=\xff")], False, lambda given: given)


def test_a_misspelt_flag_file_is_told_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "heavy.flags").touch()
    arguments = ["train.py", f"--flagfile={tmp_path / 'hevy.flags'}"]
    with pytest.raises(UserError, match=r"--flagfile must be .*; did you mean .*/heavy.flags\?$"):
        script._parse(arguments, False, lambda given: given)


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory")]
)
def test_too_little_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> None:
        raise error

    def run(main: Callable[[list[str]], None], flags_parser: object) -> None:
        main(["train.py"])

    monkeypatch.setattr(app, "run", run)
    with pytest.raises(SystemExit) as exit_:
        script.start(fail)
    text = capsys.readouterr().err
    assert exit_.value.code == 1 and text.startswith("error: not enough memory")
    assert text.count("\n") == 1
