"""Presets by name."""

import pytest

from jfedsl.errors import UserError
from jfedsl.run.presets import presets, with_preset


def test_names_are_those_of_runs_or_of_studies_as_well() -> None:
    runs, every = presets(one_run=True), presets(one_run=False)
    assert "fashion_mnist_cnn" in runs and "source_claims" not in runs
    assert set(runs) < set(every) and "source_claims" in every
    assert all(path.is_file() for path in every.values())


def test_the_flags_of_a_preset_come_before_those_of_the_command_line() -> None:
    path = presets(one_run=True)["digits_heavy"]
    for words in (["--preset=digits_heavy"], ["--preset", "digits_heavy"]):
        command = ["program", "--rounds", "3", *words]
        assert with_preset(command, True) == ["program", f"--flagfile={path}", *command[1:]]
    assert with_preset(["program", "--rounds=3"], True) == ["program", "--rounds=3"]


def test_a_misspelt_preset_is_told_which_is_close() -> None:
    with pytest.raises(UserError, match=r"--preset must be one of .*; did you mean digits_heavy\?"):
        with_preset(["program", "--preset=digits_hevy"], True)
    with pytest.raises(UserError, match=r"not source_claims"):
        with_preset(["program", "--preset=source_claims"], True)
