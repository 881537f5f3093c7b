"""Settings without effect: every flag that only some algorithms use is known to be one."""

import dataclasses

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.config.idle import idle
from jfedsl.config.wireless_fields import WirelessFields


def test_every_network_flag_is_in_a_set_of_flags_that_algorithms_use() -> None:
    used = set().union(*(algorithm.uses for algorithm in ALGORITHMS.values()))
    fields = {field.name for field in dataclasses.fields(WirelessFields)} - {"network"}
    assert fields <= used, "add to RADIO or another set in jfedsl/engine/algorithm.py"


def test_an_algorithm_without_messages_uses_no_flag_of_the_radio() -> None:
    reasons = idle(Config(algorithm="centralized"))
    fields = {field.name for field in dataclasses.fields(WirelessFields)}
    assert fields - set(reasons) == {"network", "server_flops"}
