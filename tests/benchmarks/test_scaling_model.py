"""Predictions of rounds on many accelerators: links, laws of costs, bottlenecks, the command."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import PROGRAMS

ROOT = Path(__file__).parents[2]
COSTS = {"flops": (1e9, 2e8, 0, 0, 0), "traffic": (1e6, 3e5, 2e4, 50, 70), "starts": (300,)}
MEMORY, GATHERED = (2e6, 1e5, 0, 8, 1e4), (0, 0, 2e4)


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def of_size(size: Any) -> dict[str, float]:
    """Costs that are sums of parts, as a compiled program would say them."""
    parts = (1, size.on_device, size.participants, size.clients, size.clients / size.devices)
    linear = {**COSTS, "memory": MEMORY, "all-gather bytes": GATHERED, "all-reduce bytes": (8e5,)}
    costs = {
        name: float(sum(p * q for p, q in zip(parts, row, strict=False)))
        for name, row in linear.items()
    }
    return {**costs, "all-gather runs": 3.0, "all-reduce runs": 6.0}


@pytest.fixture
def laws(monkeypatch: pytest.MonkeyPatch) -> Any:
    from scaling_programs import Programs

    monkeypatch.setattr(Programs, "_of", lambda self, target, place, size: of_size(size))
    return Programs((), 50, None).laws("h100", "resident", False, 4)


def test_costs_of_any_size_follow_from_a_few_programs(laws: Any) -> None:
    from scaling_programs import Size

    size = Size(512, 10_000, 1_000_000)
    exact, costs = of_size(size._replace(participants=size.on_device * 512)), laws.costs(size)
    for name in ("flops", "traffic", "starts", "memory"):
        assert getattr(costs, name) == pytest.approx(exact[name], rel=1e-6)
    gathered = (exact["all-gather runs"], exact["all-gather bytes"])
    assert costs.collectives["all-gather"] == pytest.approx(gathered)
    assert max(map(abs, laws.errors.values())) < 1e-6


def test_what_is_not_a_sum_of_parts_shows_as_an_error(
    laws: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scaling_programs import Programs

    def squares(self: Any, target: str, place: str, size: Any) -> dict[str, float]:
        return {**of_size(size), "flops": 1e3 * size.on_device**2 * size.clients}

    monkeypatch.setattr(Programs, "_of", squares)
    errors = Programs((), 50, None).laws("h100", "resident", False, 4).errors
    assert abs(errors["flops"]) > 0.1 and abs(errors["traffic"]) < 1e-6


def test_collectives_take_what_a_ring_and_a_tree_take() -> None:
    from scaling_hardware import HARDWARE

    h100, v5e = HARDWARE["h100"], HARDWARE["v5e"]
    assert h100.collective("all-reduce", 1, 9, 1e9) == (0.0, 0.0)
    latency, sending = h100.collective("all-reduce", 8, 10, 9e6)
    assert latency == pytest.approx(10 * (6.8e-6 + 2 * 3 * 0.6e-6))
    assert sending == pytest.approx(2 * 7 / 8 * 9e6 / 450e9)
    # Sixteen: a part of an eighth goes to the other host and comes back.
    assert h100.collective("all-reduce", 16, 1, 9e6)[1] == pytest.approx(
        sending + 2 * 1 / 2 * (9e6 / 8) / 50e9
    )
    # A pod's rings are closed, and both directions of both axes carry a part.
    assert v5e.collective("all-gather", 256, 1, 1e9) == pytest.approx(
        (5e-6 + 2 * 8 * 1e-6, 255 / 256 * 1e9 / (4 * 50e9))
    )
    assert v5e.collective("all-gather", 512, 1, 1e9)[0] > 50e-6, "two pods meet over a network"


def predicted(laws: Any, size: Any, row: int = 0, **assumed: float) -> Any:
    from scaling_hardware import HARDWARE
    from scaling_predict import Efficiency, predict

    efficiency = Efficiency(**{"peak": 0.5, "bandwidth": 0.5, "kernel": 1e-6, **assumed})
    return predict(laws, HARDWARE["h100"], efficiency, size, row, "float32")


def test_a_round_takes_the_sum_of_its_parts_and_names_the_longest(laws: Any) -> None:
    from scaling_programs import Size

    few = Size(8, 800, 10_000)
    one = predicted(laws, few)
    seconds = (1e9 + 2e8 * 100) / 494.7e12 / 0.5
    assert one.parts["arithmetic"] == pytest.approx(seconds)
    parts = {**one.parts, "arithmetic": max(one.parts["arithmetic"], one.parts["memory traffic"])}
    del parts["memory traffic"]
    assert one.seconds == pytest.approx(sum(parts.values())) and one.fits
    assert one.of_peak == pytest.approx(seconds / 2 / one.seconds)
    assert predicted(laws, few, peak=1e-4).bottleneck == "arithmetic"
    assert predicted(laws, few, bandwidth=1e-5).bottleneck == "memory traffic"
    assert predicted(laws, few, kernel=1.0).bottleneck == "kernel starts"
    assert predicted(laws, few._replace(devices=512), kernel=0).bottleneck == (
        "collectives: latency"
    )
    assert predicted(laws, few, row=10**9).bottleneck == "memory", "the host has not 10 TB"
    assert predicted(laws, few._replace(clients=10**9)).bottleneck == "memory"


def test_memories_on_the_host_come_and_go_while_devices_compute(laws: Any) -> None:
    from scaling_programs import Size

    size, row = Size(8, 800, 10_000), 10**6
    without, with_rows = predicted(laws, size), predicted(laws, size, row)
    link = (100 + 800) * row / 64e9
    assert with_rows.parts["host link"] == pytest.approx(link)
    assert with_rows.seconds == pytest.approx(max(link, with_rows.seconds))
    assert with_rows.memory - without.memory == 2 * 100 * row
    assert with_rows.host_memory == 10_000 * row
    sent = 7 / 8 * 800 * row / 450e9
    assert with_rows.parts["collectives: bytes"] - without.parts["collectives: bytes"] == (
        pytest.approx(sent)
    )


@pytest.mark.slow
def test_the_command_compiles_and_predicts(tmp_path: Path) -> None:
    command = [
        sys.executable, str(ROOT / "benchmarks" / "scaling_model.py"), "--targets=h100",
        "--devices=1,8", "--clients=64", "--participants=64", "--least=1", "--examples=8",
        f"--keep={tmp_path / 'kept.json'}", "--", "--model=mlp", "--local_steps=2",
    ]  # fmt: skip
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(PROGRAMS),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    one, eight = lines
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert one["efficiency"] == pytest.approx(1.0) and 0 < eight["efficiency"] < 1
    # Two steps of 64 clients x 8 examples: forward, gradients by weights, at the server by inputs.
    client, server = 784 * 256, 256 * 128 + 128 * 10
    flops = 2 * 64 * 8 * 2 * (2 * client + 3 * server)
    assert one["costs"]["flops"] == pytest.approx(flops, rel=1e-3)
    assert eight["costs"]["flops"] == pytest.approx(flops / 8, rel=1e-3)
    gradient = 4 * (server + 128 + 10)
    assert eight["costs"]["collectives"]["all-reduce"][1] > 2 * gradient
    assert all(math.isfinite(line["seconds"]) and line["fits"] for line in lines)
    assert eight["memory"] < one["memory"] / 4, "examples and clients are spread over devices"
    assert len(json.loads((tmp_path / "kept.json").read_text())) == 4
