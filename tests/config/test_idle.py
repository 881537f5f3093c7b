"""Settings without effect: every flag that only some algorithms use is known to be one."""

import dataclasses

import pytest
from helpers import plain

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.config.canonical import canonical
from jfedsl.config.idle import idle
from jfedsl.config.wireless_fields import WirelessFields
from jfedsl.engine.algorithm import Option
from jfedsl.engine.streams import CUT_GRADIENT, DOWN, MODEL_UP, Stream
from jfedsl.errors import UserError
from jfedsl.run.assemble import build


def test_every_network_flag_is_in_a_set_of_flags_that_algorithms_use() -> None:
    used = set().union(*(algorithm.uses for algorithm in ALGORITHMS.values()))
    fields = {field.name for field in dataclasses.fields(WirelessFields)} - {"network"}
    assert fields <= used, "add to RADIO or another set in jfedsl/engine/algorithm.py"


def test_an_algorithm_without_messages_uses_no_flag_of_the_radio() -> None:
    reasons = idle(Config(algorithm="centralized"))
    fields = {field.name for field in dataclasses.fields(WirelessFields)}
    assert fields - set(reasons) == {"network", "server_flops"}


def test_an_algorithm_of_a_users_own_may_bring_options_and_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    option = Option("waits", 3, "Rounds to wait.", "a whole number", lambda value: value > 0)
    fedsl = ALGORITHMS["fedsl"]
    hint = CUT_GRADIENT._replace(name="hint", stage=20)
    streams = (*fedsl.streams, hint)
    mine = fedsl._replace(options=(option,), streams=streams, exchange=fedsl.exchange)
    monkeypatch.setitem(ALGORITHMS, "mine", mine)
    assert "waits" not in canonical(Config()) and "waits" in idle(Config())
    config = plain(algorithm="mine", dropout_rate=0.2)
    assert canonical(config)["algorithm"] == "mine"
    experiment = build(config)
    assert experiment.spec.options == {"waits": 3}
    assert set(experiment.init().clients.compressor_states) == {s.name for s in streams}


def test_a_stream_that_the_engine_would_never_send_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fedsl = ALGORITHMS["fedsl"]
    for stream in (Stream("hint", DOWN, of_batch=False), MODEL_UP._replace(labels=True)):
        mine = fedsl._replace(streams=(*fedsl.streams, stream))
        monkeypatch.setitem(ALGORITHMS, "mine", mine)
        text = f"^--algorithm=mine declares the stream {stream.name}, which is of no mini-batch; "
        with pytest.raises(UserError, match=text):
            Config(algorithm="mine")


def test_one_adapter_is_idle_where_clients_hold_all_layers() -> None:
    both = {"pretrained": "FOLDER", "client_adapter": "none"}
    assert "adapter" in idle(Config(algorithm="fedavg", **both))
    assert "adapter" not in idle(Config(**both))
    assert "client_adapter" in idle(Config(algorithm="centralized", **both))
