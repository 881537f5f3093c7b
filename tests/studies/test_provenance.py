"""What made a study: its command, and commits and versions of tables and runs."""

import sys

import numpy as np
import pytest
import scipy

from jfedsl.files import checkout
from jfedsl.run import summary
from jfedsl.studies.provenance import made_by


def test_command_commit_and_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["jfedsl study cases", "--case=a*: --cut=pool1"])
    monkeypatch.setattr(summary, "commit", lambda: "abc dirty")
    old, new = {"jfedsl": "0.1", "cores": 2}, {"commit": "def", "jfedsl": "0.2"}
    runs = [{"environment": new}, None, {"environment": old}, {"environment": new}, {"rounds": 1}]
    command, tables, *others = made_by(runs).splitlines()
    assert command == "- Command: jfedsl study cases '--case=a&#42;: --cut=pool1'"
    assert tables.startswith("- Tables: commit abc dirty, jfedsl ")
    assert f", numpy {np.__version__}, scipy {scipy.__version__}" in tables
    assert others == [
        "- 2 runs: commit def, jfedsl 0.2",
        "- 1 run: commit not known, jfedsl 0.1, cores 2",
    ]
    assert checkout.commit() is checkout.commit(), "asked once in a process"
