"""README: its code runs, its commands parse, its tables are true; presets and scripts run."""

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest
from absl import flags

from jfedsl.config import Config, shown
from jfedsl.runtime import metrics
from jfedsl.runtime.flags import define_flags, from_flags

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PRESETS = sorted((ROOT / "experiments" / "presets").glob("*.flags"))


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def parse(arguments):
    values = flags.FlagValues()
    define_flags(values)
    values(["program", *arguments])
    return from_flags(values)


def script(name):
    """A script of experiments/, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_code_runs(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_ci_runs_what_the_readme_says():
    ci = (ROOT / ".ci" / "run").read_text()
    train, test = (block.strip() for block in blocks("bash")[:2])
    assert train == "python -m pip install -e . && python experiments/train.py"
    assert test == "python -m pip install -e '.[dev]' && python -m pytest"
    assert "pip install -q -e '.[dev]'" in ci and "\npython -m pytest\n" in ci
    assert "python experiments/train.py" in ci


def test_flag_table_lists_every_flag_with_its_default():
    for field in dataclasses.fields(Config):
        default = "" if field.default is None else shown(field.default)
        assert f"| `{field.name}` | {default} | " in README, field.name


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_open_with_their_command_and_run(preset, tmp_path):
    lines = preset.read_text().splitlines()
    command = f"# python experiments/train.py --flagfile=experiments/presets/{preset.name}"
    assert lines[0] == command
    assert re.search(r"accuracy 0\.\d+.*\d+ s", preset.read_text()), "what it reached and took"
    few = ["--rounds=3", "--progress=none", f"--workdir={tmp_path / 'run'}"]
    script("train").main(parse([f"--flagfile={preset}", *few]))
    rows = metrics.read(tmp_path / "run" / "metrics.csv")
    assert [row["round"] for row in rows] == [1, 2, 3]


def test_train_prints_its_table_and_picture(tmp_path, capsys):
    few = ["--rounds=2", "--progress=lines", f"--workdir={tmp_path / 'run'}"]
    script("train").main(parse(few))
    printed = capsys.readouterr().out
    for text in ("round 2/2", "test accuracy", "smashed_up", "total", "accuracy.png"):
        assert text in printed


def test_scripts_stay_thin():
    for path in (ROOT / "experiments").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 60, path
