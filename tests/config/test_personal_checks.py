"""What personal layers and FedProx do not go with, and what has no effect beside them."""

from typing import Any

import pytest

from jfedsl.config import Config
from jfedsl.config.canonical import canonical, refuse_idle
from jfedsl.config.idle import idle
from jfedsl.errors import UserError

LORA: dict[str, Any] = {"pretrained": "FOLDER"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"personal": ""}, "--personal must be none, all, adapters, or names of layers"),
    ({"personal": "all,conv1"}, "--personal must be none, all, adapters, or names of layers"),
    ({"personal": "conv1,conv1"}, "each once, not conv1,conv1"),
    ({"proximal": -0.1}, "--proximal must be a number, 0 or more, not -0.1"),
    ({"personal": "conv1", "algorithm": "sl"}, "--personal=conv1 has no effect with --algorithm=s"),
    ({"proximal": 0.1, "algorithm": "sl"}, "--proximal=0.1 has no effect with --algorithm=sl"),
    ({"personal": "adapters"}, "where clients have no --pretrained lora(...), not adapters"),
    ({"personal": "adapters", **LORA, "client_adapter": "none"}, "where clients have no --pre"),
    ({"personal": "conv1", "cut": "pool1-pool2"}, "--cut=pool1-pool2 cannot be combined with --p"),
    ({"personal": "conv1", "client_state": "stateless"}, "--client_state=stateless cannot be comb"),
    ({"personal": "conv1", "measure_constants_every": 2}, "--measure_constants_every=2 cannot be"),
    ({"proximal": 0.1, "measure_constants_every": 2}, "--proximal=0.1 cannot be combined with --m"),
    ({"personal": "conv1", "client_optimizer_state": "reset"}, "must be keep with --personal=c"),
    ({"personal": "conv1", "prune_kind": "channel"}, "must be none or mask with --personal=conv1"),
    ({"personal": "all", "prune_kind": "mask"}, "--prune_kind must be none with --personal=all"),
    (
        {"personal": "conv1", "coordinator": "a:1", "processes": 2, "process": 0,
         "collective_bits": 8, "workdir": "w"},
        "--collective_bits must be 32 with --personal=conv1",
    ),
    ({"personal": "block1", **LORA, "adapter_averaging": "svd"}, "must be avg or freeze with --pe"),
    ({"personal": "adapters", **LORA, "adapter_averaging": "svd"}, "svd has no effect with --pers"),
    ({"personal": "all", "model_bits": "8"}, "--model_bits=8 has no effect with --personal=all"),
    ({"personal": "all", "model_down": "topk(0.1)"}, "--model_down=topk(0.1) has no effect with"),
    ({"personal": "all", "proximal": 0.1}, "--proximal=0.1 has no effect with --personal=all"),
    ({"proximal": 0.1, "local_steps": 1, "aggregate_every": 1}, "with --local_steps=1 and --aggre"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "text"), REFUSED, ids=lambda x: str(x)[:60])
def test_what_does_not_go_together_is_refused_with_one_line(
    settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(UserError) as error:
        refuse_idle([Config(**settings)])
    assert text in str(error.value) and "\n" not in str(error.value)


def test_the_default_is_one_setting_with_runs_of_earlier_builds() -> None:
    assert canonical(Config(personal="none", proximal=0)) == canonical(Config())
    without = Config().to_json().replace('"personal"', '"personal_"')
    with pytest.raises(UserError):
        Config.from_json(without)
    assert Config(personal="all").pruning == "none" and Config(personal="conv1").pruning == "mask"
    assert "batch_norm_statistics" in idle(Config(personal="all", norm="batch"))
