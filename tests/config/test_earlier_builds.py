"""What configs of earlier builds mean."""

import json

import pytest

from jfedsl import Config
from jfedsl.config.canonical import canonical, recorded
from jfedsl.errors import UserError


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


def test_a_text_that_leaves_settings_out_has_the_defaults_of_now():
    assert Config.from_json("{}") == Config()
    assert Config.from_json('{"rounds": 3}').expressions == Config().expressions


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("3", "it has no settings with names"),
        ("[1, 2]", "it has no settings with names"),
        ('{"defaults": 3}', "its defaults are 3, and this build knows 1 and 2"),
    ],
)
def test_what_no_build_wrote_is_refused(text: str, reason: str):
    with pytest.raises(UserError, match=f"^not a config of this program: {reason}$"):
        Config.from_json(text)


@pytest.mark.parametrize("name", ["smashed", "algorithm"])
def test_what_names_of_a_plugin_left_to_defaults_stays_open(name: str):
    older = {**json.loads(Config().to_json()), name: "mine"}
    del older["defaults"]
    config = recorded(json.dumps(older))
    assert config.dropout_rate is None and config.smashed_bits is None
    assert canonical(config)[name] == "mine"
