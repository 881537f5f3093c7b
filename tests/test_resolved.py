"""What configs come to."""

from typing import Any

import pytest
from helpers import plain

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.resolved import cut_name, resolved


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
    ],
)
def test_what_is_one_setting(one: dict[str, Any], other: dict[str, Any]):
    assert resolved(Config(**one)) == resolved(Config(**other))


@pytest.mark.parametrize(
    "change",
    [
        {"prune_rate": (0.1,)}, {"cut": "conv1"}, {"dropout_rate": "0.3"}, {"algorithm": "sl"},
        {"dirichlet_alpha": 0.1}, {"server_learning_rate": 1.0}, {"momentum": 0.5},
        {"outage_snr_db": 3.0}, {"rounds": 3}, {"client_state": "stateless"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_another(change: dict[str, Any]):
    assert resolved(Config(**change)) != resolved(Config())


def test_an_unknown_cut_is_refused():
    assert cut_name(plain()) == "dense1"
    with pytest.raises(UserError, match="--cut=nowhere: allowed is a layer"):
        resolved(plain(cut="nowhere"))
