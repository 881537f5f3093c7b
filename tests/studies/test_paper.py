"""The paper's study: shared runs are trained once, each question has its files, presets run."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import given, parse, script, slow

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.studies import paper
from jfedsl.studies.outcome import Outcome
from jfedsl.studies.paper import conduct
from jfedsl.studies.questions import RIVALS, questions, rates_of
from studies.light import ROOT, flags_of, light


@pytest.mark.parametrize("cuts", [[], ["dense1", "dense1"], ["dense1", "pool1"]])
def test_cuts_are_checked_before_anything_is_trained(tmp_path: Path, cuts: list[str]):
    with pytest.raises(UserError, match="--cuts? must be"):
        conduct(light(tmp_path), cuts, [0])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # runs are trained once: tests/studies/test_study.py
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
    text = conduct(light(tmp_path, figure_format="png,pdf"), [], [0, 1])
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

    def train_seeds(name: str, configs: Any, axes: Any) -> Outcome:
        calls.append((name, sorted(path.name for path in tmp_path.glob("*.png"))))
        return Outcome(name, [None], [[]])

    monkeypatch.setattr(paper, "train_seeds", train_seeds)
    monkeypatch.setattr(paper, "save_each", lambda _, stem, __: Path(f"{stem}.png").touch())
    text = conduct(light(tmp_path), ["dense1"], [0], only=["rivals", "ablation"])
    ablation = ["none", "+ pruning", "+ quantization", "+ dropout", "rate 0.5"]
    expected = [(name, []) for name in ablation] + [(name, ["ablation.png"]) for name in RIVALS]
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


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        slow("paper_fashion", ["light fedsl"]),
        slow("paper_cifar10_vgg19", ["light fedsl", "sfl_v1", "fedavg"]),
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
    preset = ROOT / "experiments" / "studies" / f"{name}.flags"
    short = ["--rounds=2", "--local_steps=1", "--batch_size=2", "--clients=2", "--eval_every=1"]
    short += ["--aggregate_every=1"]
    where = [f"--workdir={tmp_path / 'study'}", f"--data_dir={generated}", "--progress=none"]
    config = parse([*flags_of(preset)[0], *short, "--train_examples=8000", *where])
    study.main(config, given(study, "--seeds=3", "--cuts=pool2"))
    printed = capsys.readouterr().out
    assert all(f"| {label} | 0." in printed for label in labels)
    with open(tmp_path / "study" / "rivals.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2"] * len(labels)


@pytest.mark.parametrize("text", ["sl", "sl=", "sl=fast", "fedsl=0.1", "=0.1", "", "sl=-1"])
def test_bad_rates_are_refused_before_anything_is_trained(tmp_path: Path, text: str):
    with pytest.raises(UserError, match="rate"):
        conduct(light(tmp_path), ["dense1"], [0], rates_of([text]))
    assert not list(tmp_path.iterdir())
