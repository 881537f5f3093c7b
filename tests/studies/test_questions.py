"""The paper's questions: what each varies, what is refused, and presets that ask them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from helpers import parse

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.data.datasets import load
from jfedsl.errors import UserError
from jfedsl.models.registry import MODELS
from jfedsl.run.assemble.shares import examples_of_clients
from jfedsl.studies.questions import default_cuts, questions, rates_of
from studies.light import ROOT, flags_of, light


def test_every_question_varies_what_it_is_about(tmp_path: Path):
    asked = questions(light(tmp_path), ["dense1", "dense2"])
    varied = {
        "prune_rate": {"prune_kind", "prune_rate"},
        "bits": {"cut_gradient_bits", "client_gradient_bits"},
        "dropout": {"dropout_rate"}, "cut": {"cut"}, "period": {"aggregate_every"},
    }  # fmt: skip
    for name, flags in varied.items():
        assert all(set(changes) <= flags for changes in asked[name].settings.values())
    rivals = [name for name, one in ALGORITHMS.items() if not one.compress_by_default]
    assert list(asked["rivals"].settings)[2:] == rivals
    assert len(asked["partition"].settings) == 6


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prune_kind": "none"}, "--prune_kind=none leaves this study nothing to compare"),
        ({"network": "none"}, "--network=none leaves this study nothing to compare"),
        ({"dropout_rate": 0.0}, "needs compression by --dropout_rate or --smashed_bits"),
        (
            {"dropout_rate": None, "smashed": "topk(0.5)"},
            "--smashed=topk.0.5. cannot be combined with this study; it varies --dropout_rate",
        ),
        ({"cut_gradient_bits": 32}, "needs compression by --cut_gradient_bits"),
        ({"algorithm": "sfl_v2"}, "--algorithm must be one of .*fedsl.* in this study, not sfl_v2"),
        ({"model_up": "uniform(8)"}, "--model_up must be left out in this study"),
        ({"client_backward": "int8"}, "--client_backward must be float in this study"),
    ],
)
def test_a_base_that_is_not_light_is_refused(tmp_path: Path, changes: Any, text: str):
    with pytest.raises(UserError, match=text):
        questions(light(tmp_path, **changes), ["dense1"])


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model_can_be_studied_by_default(model: str):
    base = Config(model=model)
    cuts = default_cuts(base)
    assert len(cuts) > 1
    questions(base, cuts)


@pytest.mark.parametrize(
    "changes", [{"seed": 0}, {"seed": 1}, {"seed": 2}, {"clients": 15, "validation_fraction": 0.2}]
)
def test_every_client_has_a_batch_in_the_default_study(changes: dict[str, Any]):
    whole, base = load("digits", ""), Config(**changes)
    for changes in questions(base, default_cuts(base))["partition"].settings.values():
        held = examples_of_clients(dataclasses.replace(base, **changes), whole)
        assert len(held.shares) == base.clients
        assert min(map(len, held.shares)) >= base.batch_size


@pytest.mark.parametrize("name", ["paper_fashion", "paper_cifar10_vgg19"])
def test_presets_ask_all_questions(name: str, tmp_path: Path):
    path = ROOT / "experiments" / "studies" / f"{name}.flags"
    first = f"# python experiments/paper_study.py --flagfile={path.relative_to(ROOT)}"
    assert path.read_text().splitlines()[0] == first
    run_flags, rates = flags_of(path)
    base = parse(run_flags)
    asked = questions(base, ["pool1", "pool2", "pool3"], rates)
    for question in asked.values():
        configs = {str(vars(dataclasses.replace(base, **c))) for c in question.settings.values()}
        assert len(configs) == len(question.settings)


def test_rivals_may_have_other_learning_rates(tmp_path: Path):
    asked = questions(light(tmp_path), ["dense1"], rates_of(["sl=0.01", "fedavg=1e-3"]))
    for name, settings in asked["rivals"].settings.items():
        rate = {"sl": 0.01, "fedavg": 0.001}.get(name)
        assert settings.get("client_learning_rate") == rate
        server = None if name == "fedavg" else rate  # it trains nothing at the server
        assert settings.get("server_learning_rate") == server


@pytest.mark.parametrize("extra", [{}, {"smashed_bits": 8, "model_bits": 8}])
def test_the_ablation_adds_one_thing_at_a_time(tmp_path: Path, extra: dict[str, Any]):
    base = light(tmp_path, **extra)
    settings = {
        name: dataclasses.replace(base, **changes)
        for name, changes in questions(base, ["dense1"])["ablation"].settings.items()
    }
    assert set(settings["none"].expressions.values()) == {"none"}
    assert settings["none"].pruning == settings["+ dropout"].pruning == "none"
    assert set(settings["+ pruning"].expressions.values()) == {"none"}
    quantized = settings["+ quantization"].expressions
    assert "dropout" not in quantized["smashed"] and "uniform" in quantized["cut_gradient"]
    assert quantized["model_up"] == base.expressions["model_up"]
    dropped = settings["+ dropout"].expressions
    assert dropped["smashed"] == "dropout(0.2)" and dropped["cut_gradient"] == "none"
    assert settings["all"] == base
