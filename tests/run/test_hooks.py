"""When hooks are called, what they may change, and how they resume."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import assert_equal, plain

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run.hooks import Hook, Saved
from jfedsl.run.restore import restore_run
from jfedsl.run.storage.metrics import known
from jfedsl.run.training import train


def short(workdir: Path, **changes: Any) -> Config:
    settings = {"rounds": 4, "eval_every": 2, "checkpoint_every": 2, "train_examples": 100}
    return plain(**{**settings, "test_examples": 20, "workdir": str(workdir), **changes})


class Diary(Hook):
    """Writes down its moments."""

    def __init__(self) -> None:
        self.moments: list[str] = []

    def begin(self, start: Any) -> None:
        self.moments.append(f"begin at {start.round} in {start.folder.name}")

    def announce(self, text: str) -> None:
        self.moments.append(text)

    def before_call(self, round_: int, state: Any) -> Any:
        assert int(state.round) == round_
        self.moments.append(f"before {round_}")
        return state

    def during_call(self, round_: int, state: Any) -> None:
        assert int(state.round) == round_
        self.moments.append(f"during {round_}")

    def on_rows(self, rows: Any) -> None:
        self.moments.append(f"rows {[row['round'] for row in rows]}")

    def between_calls(self, point: Any) -> None:
        assert int(point.state.round) == point.round
        self.moments.append(f"at {point.round} after {len(point.rows)} rows")

    def should_end(self) -> bool:
        self.moments.append("end?")
        return False

    def on_checkpoint(self) -> Saved:
        self.moments.append("checkpoint")
        return Saved()

    def interruption(self) -> None:
        self.moments.append("interruption?")

    def on_error(self, error: BaseException) -> None:
        self.moments.append(f"error: {error}")

    def close(self) -> None:
        self.moments.append("close")

    def finish(self, entries: dict[str, Any]) -> dict[str, Any]:
        self.moments.append("finish")
        return entries


def test_moments_come_in_their_order(tmp_path: Path) -> None:
    diary = Diary()
    train(short(tmp_path / "run", rounds=2, eval_every=1), [diary])
    assert diary.moments == [
        "begin at 0 in run", "checkpoint",
        "compiling the round (once)", "compiling the evaluation (once)",
        "at 0 after 0 rows", "training",
        "before 0", "during 1", "rows [1]", "at 1 after 1 rows", "end?", "interruption?",
        "before 1", "during 2", "rows [2]", "at 2 after 1 rows", "checkpoint", "interruption?",
        "close", "finish",
    ]  # fmt: skip
    later = Diary()
    train(short(tmp_path / "run", rounds=2, eval_every=1), [later])
    assert later.moments == [], "a finished run is not opened again"


class Calls(Hook):
    """Ends calls after rounds 3, 6, ... and after round 4."""

    every = 3

    def __init__(self) -> None:
        self.ends = [0]

    def next_due(self, round_: int) -> int | None:
        return 4 if round_ < 4 else None

    def during_call(self, round_: int, state: Any) -> None:
        self.ends.append(round_)


def test_no_call_crosses_what_a_hook_waits_for(tmp_path: Path) -> None:
    calls = Calls()
    train(short(tmp_path, rounds=9, eval_every=9, checkpoint_every=9), [calls])
    assert {3, 4, 6, 9} <= set(calls.ends)
    assert max(np.diff(calls.ends)) <= 3


class Count(Hook):
    """Counts rounds, adds up the bytes of the rows, and keeps a running mean of the weights."""

    def __init__(self) -> None:
        self.bytes, self.sums = 0, np.zeros(1)

    def begin(self, start: Any) -> None:
        self.bytes = start.saved.values.get("count: bytes", 0)
        self.sums = start.saved.arrays.get("count: sums", self.sums)

    def between_calls(self, point: Any) -> None:
        self.bytes += sum(row["model_up_bytes"] for row in point.rows)
        if point.rows:
            leaves = jax.tree.leaves(jax.device_get(point.state.server.params))
            self.sums = np.append(self.sums, sum(float(leaf.sum()) for leaf in leaves))

    def on_checkpoint(self) -> Saved:
        return Saved({"count: bytes": self.bytes}, arrays={"count: sums": self.sums})

    def finish(self, entries: dict[str, Any]) -> dict[str, Any]:
        return {**entries, "counted": self.bytes}


class Rows(Hook):
    """Keeps the rows before the start, and those after it."""

    def begin(self, start: Any) -> None:
        self.before, self.after = list(start.rows), list[Any]()

    def on_rows(self, rows: list[Any]) -> None:
        self.after += rows


def test_a_resumed_run_has_the_rows_that_hooks_had_before(tmp_path: Path) -> None:
    first, second = Rows(), Rows()
    train(short(tmp_path, rounds=2, eval_every=1), [first])
    train(short(tmp_path, rounds=3, eval_every=1), [second])
    assert not first.before and [row["round"] for row in second.after] == [3]
    assert [known(row) for row in second.before] == [known(row) for row in first.after]


def test_what_a_hook_saves_comes_back_and_its_entries_are_in_the_summary(tmp_path: Path) -> None:
    one_each = {"eval_every": 1}
    straight, stopped = Count(), Count()
    whole = train(short(tmp_path / "straight", **one_each), [straight])
    train(short(tmp_path / "stopped", rounds=2, **one_each), [Count()])
    summary = train(short(tmp_path / "stopped", **one_each), [stopped])
    np.testing.assert_array_equal(stopped.sums, straight.sums)
    assert len(stopped.sums) == 5 and len(set(stopped.sums)) == 5
    assert summary["counted"] == summary["bytes"]["model_up"] == whole["counted"] > 0
    written = json.loads((tmp_path / "stopped" / "summary.json").read_text())
    assert written["counted"] == summary["counted"]
    # What is saved beside it changes nothing of the state.
    train(short(tmp_path / "without", **one_each))
    states = [restore_run(tmp_path / name).state for name in ("straight", "stopped", "without")]
    assert_equal(states[0], states[1])
    assert_equal(states[0], states[2])


@pytest.mark.parametrize("names", [("a", "a"), ("cumulative_bytes",), ("round",)])
def test_hooks_that_save_under_one_name_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    class Saves(Hook):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_checkpoint(self) -> Saved:
            return Saved({self.name: 1})

    diary = Diary()
    match = f"two parts of a run save '{names[0]}' in a checkpoint: .* and Saves; leave one out"
    with pytest.raises(UserError, match=match):
        train(short(tmp_path), [*map(Saves, names), diary])
    began, checkpoint, error, close = diary.moments
    assert (began, checkpoint) == (f"begin at 0 in {tmp_path.name}", "checkpoint")
    assert error.startswith("error: two parts") and close == "close"


def test_a_hook_that_interrupts_leaves_a_checkpoint(tmp_path: Path) -> None:
    class Full(Hook):
        def __init__(self) -> None:
            self.round = 0

        def between_calls(self, point: Any) -> None:
            self.round = point.round

        def interruption(self) -> BaseException | None:
            return OSError("no room") if self.round == 1 else None

    with pytest.raises(OSError, match="no room") as error:
        train(short(tmp_path), [Full()])
    assert error.value.folder == str(tmp_path)  # type: ignore[attr-defined]
    assert restore_run(tmp_path).state.round == 1
    assert train(short(tmp_path))["rounds"] == 4


def test_every_hook_is_closed_though_one_fails(tmp_path: Path) -> None:
    class Fails(Hook):
        def begin(self, start: Any) -> None:
            raise RuntimeError("no luck")

    first, second = Diary(), Diary()
    with pytest.raises(RuntimeError, match="no luck"):
        train(short(tmp_path), [first, Fails(), second])
    assert first.moments == [f"begin at 0 in {tmp_path.name}", "error: no luck", "close"]
    assert not second.moments
