"""Errors are one line, whatever the value."""

import pytest

from jfedsl.errors import TrainingError, UserError, flag_error

VALUES = [
    "x" * 10_000,
    "two\nlines\r\nand\tmore",
    "\udcff",
    10**10_000,
    tuple(range(5000)),
    "\x1b[2J",
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_message_is_one_short_printable_line(value):
    text = str(flag_error("cut", value, "a layer"))
    assert text.isprintable() and len(text) < 300
    assert text.startswith("--cut must be a layer, not ")


@pytest.mark.parametrize("error", [UserError, TrainingError])
def test_a_librarys_error_text_becomes_one_line(error):
    text = str(error("cannot read:\n  bad\r\n" + "y" * 5000 + "; try again\n"))
    assert text.isprintable() and len(text) <= 1000
    assert text.startswith("cannot read: bad y") and text.endswith("; try again")
