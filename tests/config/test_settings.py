"""Every setting: flags, JSON, and one clear line for every wrong value."""

import dataclasses
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from helpers import parse

from jfedsl.config import Config, shown
from jfedsl.config.allowed import FOLDER
from jfedsl.config.flags import define_flags, from_flags
from jfedsl.config.values import kinds
from jfedsl.errors import UserError
from jfedsl.run.storage.workdir import differences

WRONG = [
    ({"clients": -1}, "--clients must be a whole number from 1 to 2147483647, or 0 with --part"),
    ({"dataset": "cats"}, "--dataset must be one of digits"),
    ({"model": "cnm"}, "must be one of cnn, mlp"),
    ({"model": "cnm"}, "; did you mean cnn?"),
    ({"model": "gpt"}, "--model must be one of cnn, mlp"),
    ({"train_examples": 0}, "--train_examples must be a whole number from 1"),
    ({"augment": "rotate"}, "--augment must be one of none, crop_flip"),
    ({"algorithm": "fedprox"}, "--algorithm must be one of fedsl, sfl_v1, sfl_v2, sl"),
    ({"algorithm": "fedavg", "cut": "conv1"}, "--cut=conv1 has no effect with --algorithm=f"),
    ({"algorithm": "fedavg", "dropout_rate": 0.2}, "--dropout_rate=0.2 has no effect with"),
    ({"algorithm": "fedavg", "smashed": "topk(0.5)"}, "--smashed=topk(0.5) has no effect"),
    ({"algorithm": "centralized", "model_bits": 8}, "--model_bits=8 has no effect with"),
    ({"algorithm": "centralized", "prune_kind": "mask"}, "--prune_kind=mask has no effect"),
    ({"algorithm": "sl", "outage_snr_db": 0.0}, "--outage_snr_db=0.0 has no effect with"),
    (
        {"algorithm": "sl", "measure_constants_every": 5},
        "--measure_constants_every=5 has no effect with --algorithm=sl; remove it",
    ),
    ({"norm": "layer"}, "--norm must be one of none, group, batch"),
    ({"partition": "alphabetical"}, "--partition must be one of iid, dirichlet"),
    ({"prune_kind": "filter"}, "--prune_kind must be one of none, mask, channel"),
    ({"prune_ladder": (1.0, 0.0)}, "--prune_ladder must be distinct fractions in (0, 1]"),
    ({"prune_ladder": (0.5, 0.5)}, "--prune_ladder must be distinct fractions"),
    (
        {"prune_policy": "by_resource", "network": "none"},
        "separated by commas, or a range such as 0.25-1) with --prune_policy=by_resource",
    ),
    ({"network": "mars"}, "--network must be one of macro_cell, wideband, small_cell"),
    ({"bandwidth_hz": 0.0}, "--bandwidth_hz must be a number from 1 to 1e+12"),
    ({"bandwidth_hz": -1.0}, "--bandwidth_hz must be a number from 1"),
    ({"cell_radius_m": 0.0}, "--cell_radius_m must be a number above 35"),
    ({"device_power_dbm": "-5"}, "--device_power_dbm must be a number from 0 to 100"),
    ({"server_power_dbm": float("nan")}, "--server_power_dbm must be a number"),
    ({"device_flops": "0"}, "--device_flops must be a number from 1 to 1e15"),
    ({"device_flops": "1e9,2e9"}, "--device_flops must be one value, --clients=10 values"),
    ({"fading": "nakagami"}, "--fading must be one of rayleigh, rician, none"),
    ({"fading_memory": 1.0}, "--fading_memory must be a number from 0 to 0.999999, not 1.0"),
    ({"fading_memory": -0.1}, "--fading_memory must be a number from 0"),
    ({"device_speed": -1.0}, "--device_speed must be a number from 0 to 1000"),
    ({"mobility_step_s": 0.0}, "--mobility_step_s must be a number from 0.001 to 1e+06"),
    ({"network": "none", "device_speed": 1.0}, "--device_speed=1.0 has no effect with --network"),
    ({"network": "none", "network_seed": 0}, "--network_seed=0 has no effect with --network=none"),
    ({"network_seed": -1}, "--network_seed must be a whole number from 0 to 4294967295"),
    ({"network": "none", "deadline_s": 1.0}, "--deadline_s=1.0 has no effect with --network"),
    ({"network": "none", "allocation": "minmax"}, "--allocation=minmax has no effect with"),
    (
        {"device_classes": "10*phone", "device_flops": "1e9"},
        "--device_flops=1e9 has no effect with --device_classes",
    ),
    ({"device_classes": "10*phnoe"}, "such as 6*phone,4*sensor, not 10*phnoe; did you mean phone?"),
    ({"coordinator": "host:65536"}, "--coordinator must be HOST:PORT, a port from"),
    ({"coordinator": "host:0"}, "--coordinator must be HOST:PORT, a port from 1 to"),
    ({"outage_timeout_s": 1.0}, "--outage_timeout_s=1.0 has no effect without --outage_snr"),
    (
        {"outage_snr_db": 1.0, "norm": "batch"},
        "--outage_snr_db=1.0 cannot be combined with --norm=batch",
    ),
    (
        {"client_capacity": "0.5"},
        "--client_capacity=0.5 has no effect with --prune_policy=un",
    ),
    (
        {"prune_policy": "by_resource", "client_capacity": "0.5,1"},
        "--client_capacity must be one value, --clients=10 values or a range",
    ),
    ({"client_capacity": "2"}, "--client_capacity must be relative compute in (0, 1]"),
    (
        {"prune_policy": "by_resource", "client_capacity": "0.5", "prune_kind": "none"},
        "--prune_policy must be uniform with --prune_kind=none",
    ),
    ({"prune_rate": (1.0,)}, "--prune_rate must be a rate in [0, 1)"),
    ({"prune_rate": (-0.1,)}, "--prune_rate must be a rate in [0, 1)"),
    ({"prune_rate": (0.1, 0.2)}, "--prune_rate must be one rate or --clients=10 rates"),
    ({"prune_rate": ()}, "--prune_rate must be a rate"),
    ({"dropout_rate": 1.0}, "--dropout_rate must be a rate in [0, 1)"),
    ({"dropout_rate": float("nan")}, "--dropout_rate must be a rate in [0, 1)"),
    ({"cut_gradient_bits": 0}, "--cut_gradient_bits must be 1 (qsgd: 2) to 16"),
    ({"smashed_bits": 17}, "--smashed_bits must be 1 (qsgd: 2) to 16"),
    (
        {"quantizer": "qsgd", "model_bits": 1},
        "--model_bits must be 2 or more with --quantizer=qsgd",
    ),
    ({"client_gradient_bits": 24}, "or 32 for off"),
    ({"smashed_bits": "4,8"}, "--smashed_bits must be one value, --clients=10 values"),
    ({"smashed_bits": "4-32"}, "--smashed_bits must be 1 (qsgd: 2) to 16, or 32 for off"),
    ({"smashed_bits": "much"}, "--smashed_bits must be 1 (qsgd: 2) to 16"),
    ({"dropout_rate": "0.1-1.5"}, "--dropout_rate must be a rate in [0, 1) (or one"),
    (
        {"smashed": "topk(0.1)", "dropout_rate": 0.1},
        "--dropout_rate=0.1 has no effect with --smashed",
    ),
    (
        {"model_up": "topk(0.1)", "model_bits": 8},
        "--model_bits=8 has no effect with --model_up",
    ),
    (
        {"cut_gradient": "uniform(0)"},
        "--cut_gradient=uniform(0): bits at character 9 must be a whole number from 1 to 16, or 32 "
        "for off, not 0",
    ),
    (
        {"model_down": "splitfc(0.1)"},
        "--model_down=splitfc(0.1): splitfc(0.1) at character 1 is for a",
    ),
    (
        {"smashed": "uniform([4,8])"},
        "bits at character 9 must be one number, or 10, one for each client",
    ),
    ({"model_down": "feedback(sign)"}, "feedback(sign) at character 1 is of no use"),
    ({"smashed": "unifrom(8)"}, "or none alone; did you mean uniform?"),
    ({"client_backward": "int4"}, "--client_backward must be one of float, int8"),
    ({"participants": 11}, "--participants must be at most --clients=10"),
    ({"participants": 0}, "--participants must be a whole number from 1 to 2147483647"),
    ({"clients": 0}, "--partition=dirichlet needs --clients, a whole number from 1 to 2147483647"),
    ({"clients": 0, "partition": "iid"}, "was left to the data, as only --partition=natural"),
    ({"bucket_size": -1}, "--bucket_size must be a whole number from 0"),
    ({"dirichlet_alpha": 0.0}, "--dirichlet_alpha must be a number above 0"),
    ({"client_learning_rate": float("inf")}, "--client_learning_rate must be a number"),
    ({"optimizer": "lion"}, "--optimizer must be one of sgd, adam, adamw"),
    ({"rounds": 3_000_000_000}, "--rounds must be a whole number from 1 to 21474"),
    ({"rounds": 2**30, "local_steps": 2}, "must be at most 1073741823 with --local_steps=2"),
    ({"prune_ramp_rounds": 10**9}, "--prune_ramp_rounds must be a whole number"),
    ({"model": None}, "--model must be one of"),
    ({"seed": -1}, "--seed must be a whole number from 0"),
    ({"progress": "loud"}, "--progress must be one of auto, bar, lines, none"),
    ({"loggers": "wandd"}, "--loggers must be some of tensorboard, jsonl, wandb (--plugin adds"),
    ({"loggers": "wandd"}, "; did you mean wandb?"),
    ({"loggers": "none,jsonl"}, "separated by commas, or none, not none,jsonl"),
    ({"loggers": "jsonl,jsonl"}, "--loggers must be some of"),
    ({"loggers": ""}, "or none; it is not set"),
    ({"patience": -1}, "--patience must be a whole number from 0"),
    ({"stop_at_target": "maybe"}, "--stop_at_target must be true or false"),
]


@pytest.mark.parametrize(("change", "text"), WRONG)
def test_wrong_values_get_one_line_with_flag_value_and_what_is_allowed(change, text):
    with pytest.raises(UserError) as error:
        Config(**change)
    assert text in str(error.value) and "\n" not in str(error.value)
    if named := re.match(r"--(\w+) must be", text):
        value = change.get(named[1])
        given = "; it is not set" if value in (None, "", ()) else f", not {shown(value)}"
        assert given in str(error.value)


def test_every_field_is_a_flag_with_help_and_default():
    values = flags.FlagValues()
    define_flags(values)
    fields = {field.name for field in dataclasses.fields(Config)}
    assert fields <= set(values)
    assert all(values[name].help for name in fields)
    values(["program"])
    assert from_flags(values) == Config()


def test_flags_reach_the_config():
    values = flags.FlagValues()
    define_flags(values)
    values(["program", "--clients=2", "--prune_rate=0.1,0.25", "--cut=pool2", "--momentum=0.5"])
    expected = Config(clients=2, prune_rate=(0.1, 0.25), cut="pool2", momentum=0.5)
    assert from_flags(values) == expected


def test_flag_of_numbers_refuses_words():
    for flag, allowed in (("prune_rate", "a rate"), ("clients", "a whole number from 1")):
        with pytest.raises(UserError, match=f"--{flag} must be {allowed}.*, not much$"):
            parse([f"--{flag}=much"])


def test_flag_of_truth_refuses_words():
    assert parse(["--remat_clients"]).remat_clients
    assert not parse(["--noremat_clients"]).remat_clients
    with pytest.raises(flags.Error, match="--remat_clients=maybe: must be true or false"):
        parse(["--remat_clients=maybe"])


MEANT: list[tuple[str, Any, Any]] = [
    ("workdir", Path("runs/a"), "runs/a"),
    ("workdir", "~/a", "/home/me/a"),
    ("init_from", Path("~"), "/home/me"),
    ("compilation_cache", "~/b", "/home/me/b"),
    ("clients", np.int64(7), 7),
    ("clients", "7", 7),
    ("rounds", 4.0, 4),
    ("seed", np.arange(3)[1], 1),
    ("client_learning_rate", np.float32(0.1), 0.1),
    ("client_learning_rate", jnp.float32(0.1), 0.1),
    ("client_learning_rate", jnp.bfloat16(0.5), 0.5),
    ("momentum", 0, 0.0),
    ("momentum", Fraction(1, 2), 0.5),
    ("remat_clients", np.bool_(True), True),
    ("prune_rate", 0.3, (0.3,)),
    ("prune_rate", [0.3], (0.3,)),
    ("prune_rate", np.linspace(0.0, 0.5, 10), tuple(np.linspace(0.0, 0.5, 10).tolist())),
    ("prune_ladder", "1,0.5", (1.0, 0.5)),
    ("cut", 2, "2"),
    ("cut", np.int32(2), "2"),
    ("model", np.str_("mlp"), "mlp"),
    ("dropout_rate", np.float32(0.1), "0.1"),
    ("smashed_bits", [8] * 10, "8,8,8,8,8,8,8,8,8,8"),
    ("device_flops", 1e9, "1000000000.0"),
    ("bandwidth_hz", 1_000_000, 1e6),
]


@pytest.mark.parametrize(("name", "given", "meant"), MEANT)
def test_values_of_scripts_become_the_plain_ones_they_mean(name, given, meant, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = Config(**{name: given})
    assert getattr(config, name) == meant and type(getattr(config, name)) is type(meant)
    assert differences(Config.from_json(config.to_json()), config) == []
    assert Config.from_json(config.to_json()) == config


STRANGE: list[Any] = [
    True, b"x", {}, object(), [[1]], np.zeros((2, 2)), float("nan"), 1j, 10**5000, "9" * 100_000,
    "a\udcff", "gs://bucket/x", Path("s3://bucket/x"), "~nobody-has-this-name/x", "a\0b", "x" * 300,
    "y/" * 4000, None, 1.5, -1, (), [None], jnp.ones(2), np.datetime64("2020-01-01"),
]  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Config)])
def test_every_field_takes_a_strange_value_as_a_plain_one_or_refuses_it_in_one_line(name):
    for value in STRANGE:
        try:
            config = Config(**{name: value})
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) <= 1000
        else:
            assert Config.from_json(config.to_json()) == config
    field = Config.__dataclass_fields__[name]
    if field.metadata["allowed"] is FOLDER:
        for value in STRANGE[10:17]:
            with pytest.raises(UserError, match=f"--{name} must be"):
                Config(**{name: value})
    elif kinds(Config)[name].of in (int, float):
        with pytest.raises(UserError, match=f"--{name} must be .*, not True"):
            Config(**{name: True})


def test_a_field_of_another_kind_is_a_mistake_of_the_program():
    @dataclasses.dataclass
    class Odd:
        table: dict[str, int]

    with pytest.raises(TypeError, match="a setting cannot be dict"):
        kinds(Odd)


def test_shorthands_stand_for_expressions():
    assert Config().expressions == {
        "smashed": "uniform(8,bucket=512)",
        "cut_gradient": "uniform(8,bucket=512)",
        "client_gradient": "uniform(8,bucket=512)",
        "model_up": "none",
        "model_down": "none",
        "tail_input": "none",
        "tail_gradient": "none",
    }
    other = Config(
        dropout_rate=0, smashed_bits="4,8", model_bits="2-6", cut_gradient="topk(0.1)",
        client_gradient_bits=32, quantizer="qsgd", bucket_size=64, clients=2,
    )  # fmt: skip
    assert other.expressions == {
        "smashed": "qsgd([4,8],bucket=64)",
        "cut_gradient": "topk(0.1)",
        "client_gradient": "none",
        "model_up": "qsgd(2-6,bucket=64)",
        "model_down": "none",
        "tail_input": "none",
        "tail_gradient": "none",
    }
    off = Config(dropout_rate="0,0", model_bits="32.0", smashed_bits="32,32", clients=2)
    assert [off.expressions[place] for place in ("smashed", "model_up")] == ["none", "none"]
    odd = Config(smashed_bits="08", model_bits="+4", dropout_rate="-0")
    assert odd.expressions["smashed"] == "uniform(8,bucket=512)"
    assert odd.expressions["model_up"] == "uniform(4,bucket=512)"
    both = Config(dropout_rate="0.1-0.5", smashed_bits=8)
    assert both.expressions["smashed"] == "dropout(0.1-0.5)|uniform(8,bucket=512)"


def test_numbers_and_texts_of_shorthands_are_the_same():
    assert Config(dropout_rate=0.3, smashed_bits=8) == Config(dropout_rate="0.3", smashed_bits="8")
    older = Config().to_json().replace('"dropout_rate": null', '"dropout_rate": 0.25')
    assert Config.from_json(older).dropout_rate == "0.25"


def test_json_round_trip():
    settings = Config(
        clients=3, prune_rate=(0.1, 0.2, 0.3), cut="2", participants=2, smashed="uniform([4,8,8])"
    )
    assert Config.from_json(settings.to_json()) == settings


def test_an_unknown_setting_in_json_is_named():
    with pytest.raises(UserError, match="no setting round; did you mean rounds"):
        Config.from_json('{"round": 1}')


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rounds": 1, "nonsense": 2}'])
def test_json_that_is_no_config_is_refused(text):
    with pytest.raises(UserError, match="not a config"):
        Config.from_json(text)


def test_what_may_change_on_resume():
    old = Config()
    free = Config(rounds=100, eval_every=7, checkpoint_every=3, progress="none", workdir="x")
    assert differences(old, free) == []
    changed = Config(clients=12, seed=1, prune_rate=(0.5,))
    assert differences(old, changed) == [
        "prune_rate (0.3 -> 0.5)", "clients (10 -> 12)", "seed (0 -> 1)"
    ]  # fmt: skip
    same = Config(smashed="uniform(bits=8, bucket=512)", cut_gradient="uniform(bucket=512, bits=8)")
    assert differences(old, same) == [], "the same compressors, asked for otherwise"
    other = Config(network_seed=3)
    assert differences(old, other) == ["network_seed (None -> 3)"]
    assert differences(old, Config(smashed="dropout(0.3)")) == ["smashed ( -> dropout(0.3))"]
    cosine = Config(learning_rate_schedule="cosine")
    longer = Config(learning_rate_schedule="cosine", rounds=100)
    assert differences(cosine, longer) == ["rounds (60 -> 100)"]
