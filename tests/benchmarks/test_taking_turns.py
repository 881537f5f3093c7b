"""Alternatives that are timed in turn, each in a process of its own."""

import functools
import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("taking_turns")


class Counter:
    """A work that takes as many seconds as it has run."""

    def __init__(self) -> None:
        self.runs = 0

    @property
    def facts(self) -> dict[str, Any]:
        return {"runs": self.runs}

    def run(self) -> float:
        self.runs += 1
        return float(self.runs)


def fails() -> Counter:
    raise SystemExit("no memory")


def marked(path: str) -> Counter:
    Path(path).touch()
    return Counter()


def test_the_first_run_is_not_timed_and_others_run_less_often(turns: Any) -> None:
    of_each = turns.take_turns([Counter(), Counter()], 3, of_others=1)
    assert of_each == [{"runs": 4, "times": [2, 3, 4]}, {"runs": 2, "times": [2]}]
    assert [each["runs"] for each in turns.take_turns([Counter(), Counter()], 3)] == [4, 4]


def test_a_process_prepares_its_work_when_it_is_asked(turns: Any, tmp_path: Path) -> None:
    made = tmp_path / "made"
    remote = turns.Remote(functools.partial(marked, str(made)), ["colorsys"])
    assert not made.exists()
    remote.prepare()
    assert made.exists()
    (result,) = turns.take_turns([remote], 1)
    remote.close()
    assert result == {"runs": 2, "times": [2]}
    assert turns.alternate([Counter], 1) == [result]


@pytest.mark.parametrize(("make", "imports"), [(fails, []), (Counter, ["no_such_module"])])
def test_a_work_that_cannot_be_prepared_is_an_error(turns: Any, make: Any, imports: Any) -> None:
    with pytest.raises(RuntimeError, match="ended early"):
        turns.Remote(make, imports).prepare()
