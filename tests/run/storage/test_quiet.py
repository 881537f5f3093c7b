"""What is held back while a checkpoint is saved, and what is not."""

import logging
import sys
import threading
from unittest.mock import Mock

import pytest

from jfedsl.run.storage.quiet import without_tracebacks


def test_only_what_libraries_say_of_a_failed_save_is_held_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook, absl = Mock(), logging.getLogger("absl")
    monkeypatch.setattr(sys, "unraisablehook", hook)
    level = absl.level
    with without_tracebacks():
        late, other = (
            Mock(exc_value=RuntimeError(text)) for text in ("Event loop is closed", "another")
        )
        for raised in (late, other):
            sys.unraisablehook(raised)  # as the interpreter does
        thread = threading.Thread(target=lambda: print("of another thread", file=sys.stderr))
        thread.start()
        thread.join()
        assert not absl.isEnabledFor(logging.ERROR)
    hook.assert_called_once_with(other)
    assert capsys.readouterr().err == "of another thread\n"
    assert sys.unraisablehook is hook and absl.level == level
