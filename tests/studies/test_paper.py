"""The paper's questions: each shared run once, what each leaves, and presets that ask them."""

import csv
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import parse, plain, script

from jfedsl.config import Config
from jfedsl.data.datasets import load
from jfedsl.errors import UserError
from jfedsl.models.registry import MODELS
from jfedsl.run.assemble.shares import shares_of
from jfedsl.run.plots import figures
from jfedsl.studies import paper
from jfedsl.studies.paper import RIVALS, conduct, default_cuts, questions, rates_of
from jfedsl.studies.study import Outcome

ROOT = Path(__file__).parents[2]
LIGHT: dict[str, Any] = {
    "clients": 2, "rounds": 2, "batch_size": 4, "train_examples": 100, "eval_every": 1,
    "network": "macro_cell", "prune_kind": "mask", "prune_rate": (0.5,), "dropout_rate": 0.2,
    "cut_gradient_bits": 8, "client_gradient_bits": 8, "partition": "dirichlet",
}  # fmt: skip


def light(folder: Path, **changes: Any) -> Config:
    return plain(**{**LIGHT, "workdir": str(folder), **changes})


def test_every_question_varies_what_it_is_about(tmp_path: Path):
    asked = questions(light(tmp_path), ["dense1", "dense2"])
    varied = {
        "prune_rate": {"prune_kind", "prune_rate"},
        "bits": {"cut_gradient_bits", "client_gradient_bits"},
        "dropout": {"dropout_rate"}, "cut": {"cut"}, "period": {"aggregate_every"},
    }  # fmt: skip
    for name, flags in varied.items():
        assert all(set(changes) <= flags for changes in asked[name].settings.values())
    assert list(asked["rivals"].settings)[2:] == ["sfl_v1", "sfl_v2", "sl", "fedavg", "centralized"]
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
        ({"algorithm": "sfl_v2"}, "--algorithm must be fedsl in this study, not sfl_v2"),
        ({"model_up": "uniform(8)"}, "--model_up must be left out in this study"),
        ({"client_backward": "int8"}, "--client_backward must be float in this study"),
    ],
)
def test_a_base_that_is_not_light_is_refused(tmp_path: Path, changes: Any, text: str):
    with pytest.raises(UserError, match=text):
        questions(light(tmp_path, **changes), ["dense1"])


@pytest.mark.parametrize("cuts", [[], ["dense1", "dense1"], ["dense1", "pool1"]])
def test_cuts_are_checked_before_anything_is_trained(tmp_path: Path, cuts: list[str]):
    with pytest.raises(UserError, match="--cuts? must be"):
        conduct(light(tmp_path), cuts, [0])
    assert not list(tmp_path.iterdir())


def test_shared_runs_are_trained_once_and_every_question_leaves_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = questions(light(tmp_path), ["dense1"])
    few = {
        "ablation": whole["ablation"]._replace(
            settings={k: whole["ablation"].settings[k] for k in ("none", "all")}
        ),
        "rivals": whole["rivals"]._replace(
            settings={k: whole["rivals"].settings[k] for k in ("light fedsl", "plain fedsl")}
        ),
    }
    monkeypatch.setattr(paper, "questions", lambda *_: few)
    text = conduct(light(tmp_path), [], [0, 1])
    runs = [p.parent.parent.name for p in tmp_path.rglob("summary.json")]
    assert Counter(runs) == {"none": 2, "all": 2}
    assert (tmp_path / "tables.md").read_text() == text + "\n"
    for name, question in few.items():
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with open(tmp_path / f"{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(question.settings) * 2 * 2, "settings, seeds, evaluations"
        assert [r["round"] for r in rows[:4]] == ["1", "2", "1", "2"]
    one, same = text.split("### ")[1:]
    pair = [next(r for r in t.splitlines() if r.startswith(f"| {n} |")) for t, n in
            ((one, "all"), (same, "light fedsl"))]  # fmt: skip
    assert pair[0].split("|")[2:] == pair[1].split("|")[2:]


def test_questions_asked_are_drawn_as_soon_as_their_runs_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[tuple[str, list[str]]] = []

    def outcome_of(name: str, configs: Any, axes: Any) -> Outcome:
        calls.append((name, sorted(path.name for path in tmp_path.glob("*.png"))))
        return Outcome(name, [None], [[]])

    monkeypatch.setattr(paper, "outcome_of", outcome_of)
    monkeypatch.setattr(figures, "spread", lambda curves, labels, title, path: path.touch())
    text = conduct(light(tmp_path), ["dense1"], [0], only=["rivals", "ablation"])
    own = ["none", "+ pruning", "+ quantization", "+ dropout", "rate 0.5"]
    expected = [(name, []) for name in own] + [(name, ["ablation.png"]) for name in RIVALS]
    assert calls == expected, "in the study's order and its names"
    assert (tmp_path / "tables.md").read_text() == text + "\n"
    assert text.count("### ") == 2 and "| all | - |" in text and "| light fedsl | - |" in text


@pytest.mark.parametrize(
    ("only", "ending"),
    [
        (["ablatoin"], "not ablatoin; did you mean ablation[?]"),
        (["cut", "cut"], "each once, not cut,cut"),
    ],
)
def test_unknown_questions_are_refused(tmp_path: Path, only: list[str], ending: str):
    with pytest.raises(UserError, match=f"--only must be .*{ending}$"):
        conduct(light(tmp_path), ["dense1"], [0], only=only)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_every_model_can_be_studied_by_default(model: str):
    base = Config(model=model)
    cuts = default_cuts(base)
    assert len(cuts) > 1
    questions(base, cuts)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_client_has_a_batch_in_the_default_study(seed: int):
    whole, base = load("digits", ""), Config(seed=seed)
    for changes in questions(base, default_cuts(base))["partition"].settings.values():
        assert len(shares_of(paper.dataclasses.replace(base, **changes), whole)) == base.clients


def flags_of(preset: Path) -> tuple[list[str], dict[str, float]]:
    """The flags of a run in a preset, and rivals' learning rates."""
    lines = [line for line in preset.read_text().splitlines() if not line.startswith("#")]
    own = [line for line in lines if not line.startswith("--rates=")]
    rates = [line.removeprefix("--rates=").split(",") for line in lines if line not in own]
    return own, rates_of(rates[0]) if rates else {}


@pytest.mark.parametrize("name", ["paper_fashion", "paper_cifar10_vgg19"])
def test_presets_ask_all_questions(name: str, tmp_path: Path):
    path = ROOT / "experiments" / "studies" / f"{name}.flags"
    first = f"# python experiments/paper_study.py --flagfile={path.relative_to(ROOT)}"
    assert path.read_text().splitlines()[0] == first
    own, rates = flags_of(path)
    base = parse(own)
    asked = questions(base, ["pool1", "pool2", "pool3"], rates)
    for question in asked.values():
        configs = {
            str(vars(paper.dataclasses.replace(base, **c))) for c in question.settings.values()
        }
        assert len(configs) == len(question.settings)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("paper_fashion", ["light fedsl"]),
        pytest.param(
            "paper_cifar10_vgg19", ["light fedsl", "sfl_v1", "fedavg"], marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.usefixtures("standard_promotion")
def test_presets_run(
    name: str, labels: list[str], tmp_path: Path, generated: Path, capsys: Any, monkeypatch: Any
):
    def few(base: Config, cuts: list[str], rates: dict[str, float]) -> dict[str, Any]:
        whole = questions(base, cuts, rates)["rivals"]
        return {"rivals": whole._replace(settings={n: whole.settings[n] for n in labels})}

    study = script("paper_study")
    monkeypatch.setattr(paper, "questions", few)
    values = {"_SEEDS": ["3"], "_CUTS": ["pool2"], "_RATES": [], "_ONLY": []}
    for flag, value in values.items():
        monkeypatch.setattr(study, flag, SimpleNamespace(value=value))
    preset = ROOT / "experiments" / "studies" / f"{name}.flags"
    short = ["--rounds=2", "--local_steps=1", "--batch_size=2", "--clients=2", "--eval_every=1"]
    short += ["--aggregate_every=1"]
    where = [f"--workdir={tmp_path / 'study'}", f"--data_dir={generated}", "--progress=none"]
    study.main(parse([*flags_of(preset)[0], *short, "--train_examples=8000", *where]))
    printed = capsys.readouterr().out
    assert all(f"| {label} | 0." in printed for label in labels)
    with open(tmp_path / "study" / "rivals.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2"] * len(labels)


def test_rivals_may_have_learning_rates_of_their_own(tmp_path: Path):
    asked = questions(light(tmp_path), ["dense1"], rates_of(["sl=0.01", "fedavg=1e-3"]))
    for name, settings in asked["rivals"].settings.items():
        own = {"sl": 0.01, "fedavg": 0.001}.get(name)
        for side in ("client", "server"):
            assert settings.get(f"{side}_learning_rate") == own


@pytest.mark.parametrize("text", ["sl", "sl=", "sl=fast", "fedsl=0.1", "=0.1", "", "sl=-1"])
def test_bad_rates_are_refused_before_anything_is_trained(tmp_path: Path, text: str):
    with pytest.raises(UserError, match="rate"):
        conduct(light(tmp_path), ["dense1"], [0], rates_of([text]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extra", [{}, {"smashed_bits": 8, "model_bits": 8}])
def test_the_ablation_adds_one_thing_at_a_time(tmp_path: Path, extra: dict[str, Any]):
    base = light(tmp_path, **extra)
    settings = {
        name: paper.dataclasses.replace(base, **changes)
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
