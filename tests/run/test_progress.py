"""Progress as lines, as a bar, and not at all."""

import contextlib
import os
import re
import sys
import threading

import pytest

from jfedsl.run.hooks import Point
from jfedsl.run.progress import Progress
from jfedsl.terminal import download_bar


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


def test_without_a_console_there_are_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    show("auto")
    assert capsys.readouterr().out.startswith("compiling\nround 4/6")


def test_time_left_leaves_out_what_came_before_the_start(capsys, monkeypatch):
    now = iter([500.0, 507.0])  # 7 s for one round, after 500 that compiled and did two
    monkeypatch.setattr("jfedsl.run.progress.time.monotonic", lambda: next(now))
    show("lines")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "round 5/6: loss 0.2500, accuracy 0.7500, 7 s left"


def test_an_accuracy_not_known_yet_is_a_dash(capsys):
    Progress("lines", 0, 6).update(1, None, None)
    assert capsys.readouterr().out == "round 1/6: loss -, accuracy -\n"


@contextlib.contextmanager
def terminal(monkeypatch):
    """A context in which standard error is a terminal of 80 columns; yields what it is sent."""
    reading, writing = os.openpty()
    sent = []

    def read():
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(reading, 1 << 16):
                sent.append(part.decode())

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    with open(writing, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield sent
    reader.join()
    os.close(reading)


def test_a_bar_on_a_terminal_shows_rounds_text_and_time_left(monkeypatch):
    now = iter([500.0, 500.0, 507.0, 507.0])
    monkeypatch.setattr("jfedsl.run.progress.time.monotonic", lambda: next(now))
    with terminal(monkeypatch) as sent:
        threads, streams = threading.active_count(), (sys.stdout, sys.stderr)
        show("auto")
        assert threads == threading.active_count() and streams == (sys.stdout, sys.stderr)
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", "".join(sent)).split("\r")
    assert any(line.startswith("round 2/6: compiling ") for line in lines)
    assert lines[-2].startswith("round 5/6: loss 0.2500, accuracy 0.7500, 7 s left ")
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("kind", ["dumb", "unknown"])
def test_a_terminal_that_moves_no_cursor_gets_lines(monkeypatch, capsys, kind):
    with terminal(monkeypatch) as sent:
        monkeypatch.setenv("TERM", kind)
        show("auto")
    assert "round 5/6: loss" in capsys.readouterr().out and not sent


def test_colours_are_left_out_on_request(monkeypatch):
    colour = re.compile(r"\x1b\[[\d;]*3[0-8]")
    for no_colour in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_colour)
        with terminal(monkeypatch) as sent:
            show("bar")
        assert bool(colour.search("".join(sent))) != bool(no_colour)


def test_a_terminal_that_is_gone_interrupts_once_rounds_are_done(monkeypatch):
    reading, writing = os.pipe()
    stream = open(writing, "w")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        progress = Progress("bar", 0, 6)
        progress.announce("compiling")
        os.close(reading)
        row = {"train_loss": 1.0, "test_accuracy": None}
        progress.between_calls(Point(1, None, [row], None))
        assert isinstance(progress.interruption(), BrokenPipeError)
        progress.close()
        assert sys.stderr is stream
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def test_a_download_is_shown_on_a_terminal_alone(monkeypatch, capsys):
    with terminal(monkeypatch) as sent, download_bar("images.gz", 2 << 20) as advance:
        advance(1 << 20)
    assert "images.gz" in "".join(sent) and "1.0/2.1 MB" in "".join(sent)
    with download_bar("images.gz", 2 << 20) as advance:
        advance(1 << 20)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("style", "shown"), [("none", False), ("auto", True)])
def test_none_is_silent_and_auto_is_lines_off_a_terminal(capsys, style, shown):
    show(style)
    captured = capsys.readouterr()
    assert bool(captured.out) == shown and not captured.err
