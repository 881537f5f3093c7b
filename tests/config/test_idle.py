"""Settings without effect: every flag that only some algorithms use is known to be one."""

import dataclasses
from typing import Any

import jax
import pytest
from helpers import exchange_of, plain

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.config.canonical import canonical
from jfedsl.config.idle import idle
from jfedsl.config.wireless_fields import WirelessFields
from jfedsl.engine.algorithm import Option
from jfedsl.engine.exchanges import one_exchange
from jfedsl.engine.streams import (
    CUT_GRADIENT,
    DOWN,
    MODEL_DOWN,
    MODEL_UP,
    SMASHED,
    SPLIT_STREAMS,
    UP,
    Stream,
)
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


TAIL_DOWN = Stream("hint_input", DOWN, of_batch=True, at_tail=True)
TAIL_UP = Stream("hint_gradient", UP, of_batch=True, at_tail=True)
MODEL = (MODEL_UP, MODEL_DOWN)


@pytest.mark.parametrize(
    ("declared", "config", "text"),
    [
        (
            {"streams": (SMASHED._replace(name="features"), *MODEL)},
            {},
            "declares the uplink features without SMASHED; one uplink must have its name",
        ),
        (
            {"streams": MODEL},
            {"allocation": "minmax"},
            "declares no uplink, whose bits --allocation=minmax needs; add SMASHED to its streams",
        ),
        (
            {"tail": lambda options: 2},
            {},
            "declares a tail of 2 layers, which takes one stream down and one up at_tail, not none",
        ),
        (
            {"streams": (*SPLIT_STREAMS, TAIL_UP)},
            {},
            "declares streams at the tail, which takes one stream down and one up at_tail, not up",
        ),
        ({"streams": (*SPLIT_STREAMS, TAIL_UP, TAIL_DOWN, TAIL_UP)}, {}, "not up, down, up"),
    ],
)
def test_an_algorithm_with_a_stream_too_few_is_refused(
    monkeypatch: pytest.MonkeyPatch, declared: dict[str, Any], config: dict[str, Any], text: str
) -> None:
    monkeypatch.setitem(ALGORITHMS, "mine", ALGORITHMS["fedsl"]._replace(**declared))
    with pytest.raises(UserError, match=f"^--algorithm=mine .*{text}") as error:
        Config(algorithm="mine", **config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ({"streams": (*SPLIT_STREAMS, CUT_GRADIENT._replace(name="hint"))}, "hint_down"),
        ({"reports": ("spread",)}, "spread"),
    ],
)
def test_an_exchange_that_leaves_out_what_is_declared_is_refused(
    monkeypatch: pytest.MonkeyPatch, declared: dict[str, Any], text: str
) -> None:
    monkeypatch.setitem(ALGORITHMS, "mine", ALGORITHMS["fedsl"]._replace(**declared))
    experiment = build(plain(algorithm="mine"))
    x, state = exchange_of(experiment, experiment.init()), experiment.init()
    line = rf"^the Outcome of an exchange must have .*\b{text}\b.*, as its algorithm declares, not"
    with pytest.raises(UserError, match=line):
        jax.eval_shape(lambda state: one_exchange(x, state.server, state.clients), state)


def test_one_adapter_is_idle_where_clients_hold_all_layers() -> None:
    both = {"pretrained": "FOLDER", "client_adapter": "none"}
    assert "adapter" in idle(Config(algorithm="fedavg", **both))
    assert "adapter" not in idle(Config(**both))
    assert "client_adapter" in idle(Config(algorithm="centralized", **both))
