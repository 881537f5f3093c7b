"""Signals that ask to stop, Ctrl-C while a script imports, output that goes nowhere."""

import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jfedsl.errors import Stopped
from jfedsl.run.processes.stopping import Stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_waits_where_it_may_and_the_second_does_not(number: int) -> None:
    before = signal.getsignal(number)
    with Stop() as stop:
        with pytest.raises(Stopped), stop.later():
            signal.raise_signal(number)
            assert stop.asked == number
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt) as raised, Stop():
            signal.raise_signal(number)
        assert raised.value.number == number  # type: ignore[attr-defined]
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_and_another_thread_s_stay(capfd: pytest.CaptureFixture) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Stop() as stop, stop.later():
            signal.raise_signal(signal.SIGTERM)
            assert stop.asked == 0
        thread = threading.Thread(target=lambda: Stop().__enter__().__exit__())
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == ""


def test_a_signal_that_a_destructor_swallows_is_obeyed_at_the_next_step() -> None:
    with Stop() as stop:
        with contextlib.suppress(Stopped):  # as Python does there
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped), stop.later():
            pytest.fail("went on")


def test_closed_streams_are_empty_and_unreadable_settings_are_one_line() -> None:
    script = Path(__file__).parents[3] / "experiments" / "report.py"
    command = f"{sys.executable} {script}"
    closed = subprocess.run(["bash", "-c", f"{command} --help <&- >&- 2>&-"], timeout=60)
    assert closed.returncode == 0
    full = subprocess.run(
        ["bash", "-c", f"{command} --help > /dev/full; JAX_ENABLE_X64=maybe {command} x"],
        stderr=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    first, second = full.stderr.splitlines()
    assert "No space left" in first and "JAX_ENABLE_X64" in second and full.returncode == 2


def test_an_interruption_of_imports_is_one_line() -> None:
    script = Path(__file__).parents[3] / "experiments" / "train.py"
    code = f"""
import signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "jfedsl.config":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
signal.signal(signal.SIGINT, signal.default_int_handler)
import runpy
runpy.run_path({str(script)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "error: interrupted before anything was done\n")


def test_full_standard_output_is_one_line() -> None:
    code = "from jfedsl.run.script import start; start(lambda _: print('text'))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    line = "error: [Errno 28] No space left on device; the same command starts again\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_an_error_that_cannot_be_shown_keeps_its_exit_status() -> None:
    code = "from jfedsl.run import script; script.start(lambda _: script._stop(1, None))"
    with open("/dev/full", "w") as full:  # as where the terminal is gone
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=full, timeout=60)
    assert done.returncode == 129
