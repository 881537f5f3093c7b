"""README: its code runs, its commands parse, its tables are true; presets and scripts run."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from helpers import given, parse, script

from jfedsl.config import Config, plugins, shown
from jfedsl.config.allowed import OneOf
from jfedsl.data.datasets import DATASETS
from jfedsl.errors import UserError
from jfedsl.models.registry import MODELS
from jfedsl.run.storage import metrics
from jfedsl.run.storage.workdir import read_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PRESETS = sorted((ROOT / "experiments" / "presets").glob("*.flags"))


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_code_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out or "print(" not in code


@pytest.mark.usefixtures("tables")
def test_a_plugin_runs_with_its_command_and_is_found_again(tmp_path, monkeypatch):
    code = next(block for block in blocks("python") if 'MODELS["mine"]' in block)
    command = next(block for block in blocks("bash") if "--plugin=mine.py" in block)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    script("train").main(parse([*shlex.split(command)[2:], "--rounds=1", "--progress=none"]))
    MODELS.pop("mine"), DATASETS.pop("wine")
    plugins._loaded.clear()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recorded = read_config(Path("../runs/wine"))
    assert recorded.plugin == str(tmp_path / "mine.py") and recorded.model in MODELS


def test_ci_runs_what_the_readme_says():
    ci = (ROOT / ".ci" / "run").read_text()
    train, test = (block.strip() for block in blocks("bash")[:2])
    assert train == "python -m pip install -e . && python experiments/train.py"
    assert test == "python -m pip install -e '.[dev]' && python -m pytest"
    assert "pip install -q -e '.[dev]'" in ci and "\npython -m pytest\n" in ci
    assert "python experiments/train.py" in ci


def test_flag_table_lists_every_flag_with_its_default_its_help_and_its_names():
    for field in dataclasses.fields(Config):
        default = "" if field.default is None else shown(field.default)
        allowed, text = field.metadata["allowed"], field.metadata["help"].replace("|", "&#124;")
        names = f" One of {', '.join(allowed.names)}" if isinstance(allowed, OneOf) else ""
        row = f"| {field.name} | {default} | {text}{names}"
        assert f"\n{row}" in README.replace("`", ""), row


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_open_with_their_command_and_what_it_gives(preset):
    first, *rest = preset.read_text().splitlines()
    assert first == f"# python experiments/train.py --flagfile=experiments/presets/{preset.name}"
    comment = " ".join(line.removeprefix("# ") for line in rest if line.startswith("#"))
    if preset.stem == "cifar10_vgg19":
        assert "Accuracy and minutes are not measured" in comment
        return
    pattern = r"accuracy 0\.\d+ \((0\.\d+) to 0\.\d+ over seeds 0, 1, 2\); .*?(\d+) (s|min) on"
    match = re.search(pattern, comment)
    assert match, comment
    if preset.stem == "fashion_mnist_cnn":
        assert float(match[1]) >= 0.88 and int(match[2]) <= 10 and match[3] == "min"


# These take long to compile.
LARGE = {"cifar10_vgg19", "fashion_mnist_small", "digits_heavy"}
MARKED = [
    pytest.param(path, marks=pytest.mark.slow if path.stem in LARGE else (), id=path.stem)
    for path in PRESETS
]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("preset", MARKED)
def test_presets_run(preset, tmp_path, generated):
    few = [
        "--rounds=2", "--local_steps=1", "--batch_size=2", "--aggregate_every=1", "--eval_every=2",
        "--progress=none", f"--workdir={tmp_path / 'run'}", f"--data_dir={generated}",
    ]  # fmt: skip
    script("train").main(parse([f"--flagfile={preset}", *few]))
    rows = metrics.read(tmp_path / "run" / "metrics.csv")
    assert [row["round"] for row in rows] == [1, 2]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    ("name", "setting"), [("pruning", "channel 0.25"), ("compression", "1/8 top-k, 8 bit")]
)
def test_studies_compare_their_settings(name, setting, tmp_path, generated, capsys, monkeypatch):
    study = script(f"{name}_study")
    preset = ROOT / "experiments" / "studies" / f"{name}.flags"
    first = f"# python experiments/{name}_study.py --flagfile={preset.relative_to(ROOT)}"
    assert preset.read_text().splitlines()[0] == first
    monkeypatch.setattr(study, "SETTINGS", {setting: study.SETTINGS[setting]})
    few = ["--rounds=1", "--local_steps=1", "--batch_size=2", "--clients=2", "--progress=none"]
    where = [f"--workdir={tmp_path / 'study'}", f"--data_dir={generated}"]
    config = parse([f"--flagfile={preset}", *few, *where])
    study.main(config, given(study, "--seeds=3"))
    assert f"| {setting} | 0." in capsys.readouterr().out
    assert len(list((tmp_path / "study").glob("*/seed_3/summary.json"))) == 1


@pytest.mark.usefixtures("standard_promotion")
def test_latency_study_compares_on_a_simulated_clock(tmp_path, generated, capsys):
    study = script("latency_study")
    preset = ROOT / "experiments" / "studies" / "latency.flags"
    few = ["--rounds=1", "--local_steps=1", "--batch_size=2", "--clients=2", "--progress=none"]
    where = [f"--workdir={tmp_path / 'study'}", f"--data_dir={generated}"]
    ours = ["--model=mlp", "--train_examples=1000", "--target_accuracy=0.999"]
    config = parse([f"--flagfile={preset}", *few, *where, *ours])
    mine = ["--cuts=dense1", "--prune_rates=0.5", "--seeds=3"]
    study.main(config, given(study, *mine, "--bits=8"))
    row = next(
        r for r in capsys.readouterr().out.splitlines() if r.startswith("| dense1, rate 0.5")
    )
    _, _, seconds, to_target, *_ = (cell.split()[0] for cell in row.split(" | ")[1:])
    assert float(seconds) > 0 and to_target == "-"
    assert (tmp_path / "study" / "accuracy.png").exists()
    with pytest.raises(UserError, match="--bits"):
        study.main(config, given(study, *mine, "--bits=eight"))


def test_train_prints_its_table_and_picture(tmp_path, capsys):
    few = ["--rounds=2", "--progress=lines", f"--workdir={tmp_path / 'run'}"]
    script("train").main(parse(few))
    printed = capsys.readouterr().out
    for text in ("round 2/2", "test accuracy", "smashed_up", "total", "pictures: *.png"):
        assert text in printed


def test_scripts_stay_thin():
    for path in (ROOT / "experiments").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 10, path
