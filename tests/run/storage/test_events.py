"""TensorBoard events, read back record by record."""

import builtins
import struct

import pytest

from jfedsl.run.storage.events import Events

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def scalars(folder):
    """{(tag, step): value} of all event files, in order of writing."""
    scalars = {}
    for path in sorted(folder.iterdir()):
        data, offset = path.read_bytes(), 0
        while offset < len(data):
            (length,) = struct.unpack_from("<Q", data, offset)
            event = event_pb2.Event.FromString(data[offset + 12 : offset + 12 + length])
            scalars.update(((v.tag, event.step), v.simple_value) for v in event.summary.value)
            offset += length + 16
    return scalars


def test_every_number_of_a_row_is_a_scalar_at_its_round(tmp_path):
    events = Events(tmp_path / "tensorboard", 0)
    events.append([{"round": 1, "train_loss": 0.5, "test_loss": None}])
    events.append([{"round": 2, "train_loss": 0.25, "model_up_bytes": 12}])
    events.close()
    assert scalars(tmp_path / "tensorboard") == {
        ("train_loss", 1): 0.5, ("train_loss", 2): 0.25, ("model_up_bytes", 2): 12.0
    }  # fmt: skip


def test_without_the_extra_nothing_is_written(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "tensorboardX":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    events = Events(tmp_path / "tensorboard", 0)
    events.append([{"round": 1, "train_loss": 0.5}])
    events.close()
    assert not (tmp_path / "tensorboard").exists()
