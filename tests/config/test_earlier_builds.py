"""What configs of earlier builds mean."""

import json

import pytest

from jfedsl import Config


def test_configs_from_before_there_was_a_server_order_keep_the_only_one():
    def read(algorithm: str, **changes: int) -> Config:
        older = json.loads(Config(algorithm=algorithm, **changes).to_json())
        del older["server_order"]
        return Config.from_json(json.dumps(older))

    assert read("sfl_v2").server_order == "exchange"
    # Without several steps or such a server the order means nothing.
    assert read("sfl_v2", local_steps=1) == Config(algorithm="sfl_v2", local_steps=1)
    assert read("fedsl") == Config()


@pytest.mark.parametrize(
    ("changes", "smashed"),
    [
        ({}, "dropout(0.2)"),
        ({"dropout_rate": "0"}, "none"),
        ({"smashed_bits": "8"}, "dropout(0.2)|uniform(8,bucket=512)"),
        ({"smashed": "topk(0.1)"}, "topk(0.1)"),
        ({"algorithm": "sl"}, "none"),
    ],
    ids=str,
)  # fmt: skip
def test_defaults_of_compressors_are_those_of_the_build_that_wrote_the_config(
    changes: dict[str, str], smashed: str
):
    config = Config(**changes)  # type: ignore[arg-type]
    assert Config.from_json(config.to_json()) == config
    older = json.loads(config.to_json())
    del older["defaults"]
    assert Config.from_json(json.dumps(older)).expressions["smashed"] == smashed
