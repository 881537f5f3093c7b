"""How a process was started, for messages."""

import sys

import pytest

from jfedsl.files.program import other_program, this_program


@pytest.mark.parametrize(
    ("started", "this", "other"),
    [
        ("experiments/train.py", ["python", "experiments/train.py"], "experiments/plan_b.py"),
        ("/a/experiments/train.py", ["python", "/a/experiments/train.py"], "experiments/plan_b.py"),
        ("jfedsl study paper", ["jfedsl", "study", "paper"], "jfedsl plan-b"),
        ("mine.py", ["python", "mine.py"], "jfedsl plan-b"),
    ],
)
def test_messages_name_the_program_as_it_was_started(
    started: str, this: list[str], other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started, "--rounds=3"])
    assert this_program() == this
    assert " ".join(other_program("plan_b")).removeprefix("python ") == other
