"""How scripts end."""

import os
from collections.abc import Callable

import jax
import pytest
from absl import app

from jfedsl.errors import UserError
from jfedsl.runtime import script


def test_a_command_line_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(UserError, match=r"--title=.udcff: allowed is text in UTF-8"):
        script._parse(["train.py", os.fsdecode(b"--title=\xff")], False, lambda _: None)


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
        script.start(fail, "")
    text = capsys.readouterr().err
    assert exit_.value.code == 1 and text.startswith("error: not enough memory")
    assert text.count("\n") == 1
