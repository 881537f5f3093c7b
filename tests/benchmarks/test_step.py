"""What benchmarks time: nothing is compressed but what they name."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("algorithm", ["fedsl", "fedavg"])
def test_options_alone_compress_nothing(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    step = importlib.import_module("step")
    plain = step.config(step.Options("mlp", algorithm=algorithm))
    assert set(plain.expressions.values()) == {"none"} and plain.pruning == "none"
    chain = step.config(step.Options("mlp", smashed="uniform(4)"))
    assert chain.expressions["smashed"] == "uniform(4)"
