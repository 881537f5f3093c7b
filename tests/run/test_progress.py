"""Progress as lines, as a bar, and not at all."""

import pytest
from tqdm import tqdm

from jfedsl.run.progress import Progress


def show(style):
    progress = Progress(style, 2, 6)
    progress.announce("compiling")
    for round_, loss, accuracy in ((4, 0.5, 0.75), (5, 0.25, None)):
        progress.update(round_, loss, accuracy)
        progress.start(round_)
    progress.close()


def test_lines_name_round_loss_and_the_last_accuracy(capsys):
    show("lines")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "compiling"
    assert lines[1] == "round 4/6: loss 0.5000, accuracy 0.7500"
    assert lines[2].startswith("round 5/6: loss 0.2500, accuracy 0.7500, ")


def test_time_left_leaves_out_what_came_before_the_start(capsys, monkeypatch):
    now = iter([500.0, 507.0])  # 7 s for one round, after 500 that compiled and did two
    monkeypatch.setattr("jfedsl.run.progress.time.monotonic", lambda: next(now))
    show("lines")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "round 5/6: loss 0.2500, accuracy 0.7500, 7 s left"


def test_an_accuracy_not_known_yet_is_a_dash(capsys):
    Progress("lines", 0, 6).update(1, None, None)
    assert capsys.readouterr().out == "round 1/6: loss -, accuracy -\n"


def test_a_bar_counts_from_the_start(monkeypatch):
    bars = []
    monkeypatch.setattr(
        "jfedsl.run.progress.tqdm",
        lambda *args, **kwargs: bars.append(tqdm(*args, **kwargs)) or bars[-1],
    )
    show("bar")
    assert [bar.initial for bar in bars] == [2, 4]


def test_bar_counts_rounds(capsys):
    show("bar")
    error = capsys.readouterr().err
    assert "5/6" in error and "loss 0.2500, accuracy 0.7500" in error


@pytest.mark.parametrize(("style", "shown"), [("none", False), ("auto", True)])
def test_none_is_silent_and_auto_is_lines_off_a_terminal(capsys, style, shown):
    show(style)
    captured = capsys.readouterr()
    assert bool(captured.out) == shown and not captured.err
