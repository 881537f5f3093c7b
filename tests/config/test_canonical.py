"""What configs come to."""

import re
from typing import Any

import pytest
from helpers import plain

from jfedsl.config import Config
from jfedsl.config.canonical import canonical, cut_name, idle, recorded, refuse_idle
from jfedsl.errors import UserError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prune_kind": "mask"}, {"prune_kind": None}),
        ({"cut": "pool1"}, {"cut": None}),
        ({"cut": "pool2"}, {"cut": "4"}),
        ({"dropout_rate": "0.2"}, {"dropout_rate": "0.20"}),
        ({"cut_gradient": "uniform(8,bucket=512)"}, {"cut_gradient_bits": "8"}),
        ({"prune_kind": "none", "prune_rate": (0.1,)}, {"prune_kind": "none"}),
        ({"partition": "iid", "dirichlet_alpha": 0.1}, {"partition": "iid"}),
        ({"algorithm": "fedavg", "server_learning_rate": 1.0}, {"algorithm": "fedavg"}),
        ({"optimizer": "adam", "momentum": 0.5}, {"optimizer": "adam"}),
        ({"client_state": "host", "collective_bits": 8}, {}),
        ({"server_order": "exchange"}, {}),
        (
            {"algorithm": "sfl_v2", "local_steps": 1, "server_order": "exchange"},
            {"algorithm": "sfl_v2", "local_steps": 1},
        ),
    ],
)
def test_what_is_one_setting(one: dict[str, Any], other: dict[str, Any]):
    assert canonical(Config(**one)) == canonical(Config(**other))


@pytest.mark.parametrize(
    "change",
    [
        {"prune_rate": (0.1,)}, {"cut": "conv1"}, {"dropout_rate": "0.3"}, {"algorithm": "sl"},
        {"dirichlet_alpha": 0.1}, {"server_learning_rate": 1.0}, {"momentum": 0.5},
        {"outage_snr_db": 3.0}, {"fading_memory": 0.5}, {"device_speed": 1.0}, {"rounds": 3},
        {"client_state": "stateless"}, {"network_seed": 0},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_another(change: dict[str, Any]):
    assert canonical(Config(**change)) != canonical(Config())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prune_kind": "none", "prune_rate": (0.5,)}, "prune_rate=0.5 .*--prune_kind=none"),
        ({"algorithm": "sl", "prune_score": "taylor"}, "prune_score=taylor .*=sl, which prunes n"),
        ({"prune_kind": "channel", "prune_scope": "layer"}, "prune_scope=layer .*=channel"),
        ({"prune_ladder": (1.0, 0.5)}, "prune_ladder=1,0.5 .*--prune_kind=mask"),
        ({"prune_policy": "by_resource", "prune_rate": (0.5,)}, "prune_rate=0.5 .*--prune_p"),
        ({"partition": "iid", "dirichlet_alpha": 0.1}, "dirichlet_alpha=0.1 .*--partition=iid"),
        ({"classes_per_client": 3}, "classes_per_client=3 .*--partition=dirichlet"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum=0.5 .*--optimizer=adam"),
        ({"momentum": 0, "client_optimizer_state": "reset"}, "client_optimizer_state=reset .*=0"),
        ({"algorithm": "fedavg", "allocation": "minmax"}, "allocation=minmax .*=fedavg"),
        ({"algorithm": "fedavg", "server_flops": 1e12}, "server_flops=1000.* .*=fedavg"),
        ({"batch_norm_statistics": "local"}, "batch_norm_statistics=local .*--norm=group"),
        ({"client_state": "host"}, "client_state=host .*where all clients take part"),
        ({"collective_bits": 8}, "collective_bits=8 .*without --coordinator"),
        ({"algorithm": "fedavg", "server_learning_rate": 1.0}, "server_learning_rate=1.0 .*=fed"),
        ({"algorithm": "centralized", "aggregate_every": 1}, "aggregate_every=1 .*=centralized"),
        ({"algorithm": "centralized", "network_seed": 0}, "network_seed=0 .*=centralized"),
        ({"algorithm": "centralized", "fading": "none"}, "fading=none .*=centralized"),
        ({"fading": "none", "fading_memory": 0.5}, "fading_memory=0.5 .*with --fading=none"),
        ({"mobility_step_s": 2.0}, "mobility_step_s=2.0 .*where devices stand still"),
        ({"network": "wideband", "device_speed": 2.0}, "device_speed=2.0 .*has no path loss"),
        ({"network": "wideband", "cell_radius_m": 99.0}, "cell_radius_m=99.0 .*has no path loss"),
        ({"network": "wideband", "shadowing_db": 8.0}, "shadowing_db=8.0 .*=wideband, which has"),
        ({"server_order": "exchange"}, "server_order=exchange .*--algorithm=fedsl"),
        (
            {"algorithm": "sfl_v2", "local_steps": 1, "server_order": "exchange"},
            "server_order=exchange .*--local_steps=1",
        ),
        ({"algorithm": "sl", "aggregate_every": 1}, "aggregate_every=1 .*--algorithm=sl"),
        ({"algorithm": "sl", "allocation": "minmax"}, "allocation=minmax .*--algorithm=sl"),
        ({"algorithm": "sl", "quantizer": "qsgd"}, "quantizer=qsgd .*where no bits choose it"),
        ({"smashed": "none", "cut_gradient_bits": 32, "client_gradient_bits": 32, "bucket_size": 8},
         "bucket_size=8 "),
    ],
    ids=str,
)  # fmt: skip
def test_settings_without_effect_are_refused_with_the_reason(changes: dict[str, Any], text: str):
    config = Config(**changes)
    with pytest.raises(UserError, match=f"^--{text}") as error:
        refuse_idle([config])
    assert re.search("^--[^ ]+ has no effect w.*; remove it$", str(error.value))
    refuse_idle([config, Config(participants=5, norm="batch", clients=9)] * 2)


def test_defaults_and_shorthands_that_are_off_are_no_settings_without_effect():
    for name in ("fedsl", "sfl_v1", "sfl_v2", "sl", "fedavg", "centralized"):
        refuse_idle([Config(algorithm=name)])
    refuse_idle(
        [Config(prune_kind="none", dropout_rate="0", cut_gradient_bits="32", network="none")]
    )
    refuse_idle([Config(algorithm="sfl_v2", server_order="exchange")])
    refuse_idle([Config(device_speed=1.0, mobility_step_s=5.0, fading_memory=0.0)])
    refuse_idle([Config(quantizer="qsgd", bucket_size=8, participants=3, client_state="host")])
    assert "prune_rate" not in idle(Config())
    refuse_idle([Config(optimizer="adam", client_optimizer_state="reset")])
    refuse_idle([Config(algorithm="sfl_v1", server_flops=1e12, client_optimizer_state="average")])


def test_an_unknown_cut_is_refused():
    assert cut_name(plain()) == "dense1"
    with pytest.raises(UserError, match="--cut must be one of .*, not nowhere"):
        canonical(plain(cut="nowhere"))


def test_a_logger_that_no_table_has_is_kept_as_recorded():
    config = recorded(Config().to_json().replace('"tensorboard"', '"mine"'))
    assert config.loggers == ("mine",) and canonical(config)["loggers"] == "mine"
