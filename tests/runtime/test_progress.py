"""Progress as lines, as a bar, and not at all."""

import pytest

from jfedsl.runtime.progress import Progress


def show(style):
    progress = Progress(style, 2, 6)
    progress.note("compiling")
    progress.update(4, 0.5, 0.75)
    progress.update(5, 0.25, None)
    progress.close()


def test_lines_name_round_loss_and_the_last_accuracy(capsys):
    show("lines")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "compiling"
    assert lines[1].startswith("round 4/6: loss 0.5000, accuracy 0.7500, ")
    assert lines[2].startswith("round 5/6: loss 0.2500, accuracy 0.7500, ")


def test_bar_counts_rounds(capsys):
    show("bar")
    error = capsys.readouterr().err
    assert "5/6" in error and "loss 0.2500, accuracy 0.7500" in error


@pytest.mark.parametrize(("style", "shown"), [("none", False), ("auto", True)])
def test_none_is_silent_and_auto_is_lines_off_a_terminal(capsys, style, shown):
    show(style)
    captured = capsys.readouterr()
    assert bool(captured.out) == shown and not captured.err
