"""TensorBoard events, read back record by record."""

import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import plain

from jfedsl.run.storage.metrics import known, read
from jfedsl.run.training import train

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """{(tag, step): value} of all event files, in order of writing."""
    return {k: v for path in sorted(folder.iterdir()) for k, v in of_file(path).items()}


def of_file(path: Path) -> dict[tuple[str, int], float]:
    """{(tag, step): value} of an event file."""
    scalars = {}
    data, offset = path.read_bytes(), 0
    while offset < len(data):
        (length,) = struct.unpack_from("<Q", data, offset)
        event = event_pb2.Event.FromString(data[offset + 12 : offset + 12 + length])
        scalars.update(((v.tag, event.step), v.simple_value) for v in event.summary.value)
        offset += length + 16
    return scalars


def written_by_last(folder: Path) -> set[int]:
    """Rounds in the newest file."""
    *_, newest = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return {step for _, step in of_file(newest)}


def run(folder: Path, **changes: Any) -> None:
    settings = {"rounds": 2, "eval_every": 1, "train_examples": 100, "test_examples": 20}
    train(plain(**{**settings, "loggers": "tensorboard", "workdir": str(folder), **changes}))


def test_every_number_of_a_row_is_a_scalar_at_its_round(tmp_path: Path) -> None:
    run(tmp_path, loggers="none")
    assert not (tmp_path / "tensorboard").exists()
    (tmp_path / "tensorboard").mkdir()  # as a kill before the first event leaves it
    run(tmp_path, rounds=3)  # the rounds before are written too
    run(tmp_path, rounds=4, loggers="none")
    run(tmp_path, rounds=5)  # and that without events
    events = scalars(tmp_path / "tensorboard")
    run(tmp_path, rounds=6)
    assert written_by_last(tmp_path / "tensorboard") == {6}, "the others are there"
    written = scalars(tmp_path / "tensorboard")
    assert events.items() <= written.items()
    rows = read(tmp_path / "metrics.csv")
    expected = {
        (column, row["round"]): value
        for row in rows
        for column, value in known(row).items()
        if column != "round"
    }
    assert written == pytest.approx(expected) and len(rows) == 6


def test_without_the_extra_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run(tmp_path)
    assert not (tmp_path / "tensorboard").exists()
