"""How one of several processes ends, in this process alone; tests/test_scale.py starts several."""

import os
import sys
from unittest.mock import Mock

import jax
import pytest

from jfedsl.errors import Stopped, UserError
from jfedsl.run.processes import distributed


@pytest.fixture
def of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the first of two processes, which `os._exit` does not end."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", Mock(side_effect=SystemExit))


def ended(error: BaseException) -> int:
    """The exit status of a process that fails so."""
    with pytest.raises(SystemExit), distributed.ending_together():
        raise error
    status: int = os._exit.call_args[0][0]  # type: ignore[attr-defined]
    return status


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no such flag"), 2, "no such flag"),
        (Stopped("interrupted after round 3", 1), 129, "interrupted after round 3; the same comm"),
        (OSError(28, "No space left"), 1, "[Errno 28] No space left; the same commands resume"),
        (RuntimeError("Gloo\nclosed"), 1, "process 0 of 2 stops: another one of the run is lost"),
    ],
    ids=str,
)
def test_one_line_and_the_exit_status(
    of_two: None, capsys: pytest.CaptureFixture[str], error: Exception, status: int, line: str
) -> None:
    assert ended(error) == status
    text = capsys.readouterr().err
    assert text.startswith(f"error: {line}") and text.count("\n") == 1


def test_a_fault_of_the_program_leaves_its_traceback(
    of_two: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(ZeroDivisionError("a fault")) == 1
    text = capsys.readouterr().err
    assert text.startswith("Traceback") and text.endswith("error: a fault\n")


def test_it_ends_where_nothing_can_be_shown(of_two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Mock(side_effect=OSError(5, "Input/output error"))
    monkeypatch.setattr(sys, "stderr", Mock(write=gone))
    assert ended(Stopped("interrupted", 1)) == 129
    assert gone.called


def test_a_platform_that_was_asked_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", Mock(side_effect=RuntimeError("Unable to\ninitialize")))
    reason = r"\(Unable to initialize\)$"
    monkeypatch.setattr(distributed.jax, "config", Mock(jax_platforms="rocm"))
    with pytest.raises(UserError, match=f"^JAX_PLATFORMS=rocm cannot start here; .*{reason}"):
        distributed.start_devices()
    monkeypatch.setattr(distributed.jax, "config", Mock(jax_platforms=None))
    with pytest.raises(UserError, match=f"^no device can start here {reason}"):
        distributed.start_devices()
