"""What users read: its code runs, its commands run, and its tables are complete."""

import contextlib
import csv
import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from documents import PAGES, ROOT, blocks, commands, files
from helpers import parse, script
from programs import PROGRAMS

import jfedsl
from jfedsl.config import Config, plugins
from jfedsl.config.reference import flag_tables
from jfedsl.config.topics import flags_by_topic
from jfedsl.data.datasets import DATASETS
from jfedsl.models.registry import MODELS
from jfedsl.run.storage.workdir import read_config

README = (ROOT / "README.md").read_text()
COMMANDED = sorted({block.page for block in blocks("bash")})
# The first one with each text: two pages may show the same example.
CODE = list({block.text: block for block in reversed(blocks("python"))}.values())[::-1]
# Commands that need the registry, the network, a cluster, or an hour.
NOT_RUN = ("pip install", "python -m pytest", "sbatch", "experiments/prepare_data.py")
NOT_RUN += ("experiments/evidence.py", "--dataset=fashion_mnist", "mkdocs")
NOT_RUN += ("benchmarks/compile_for.py",)
FEW = ["--local_steps=1", "--progress=none", f"--compilation_cache={PROGRAMS}"]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_guide_names_what_may_change_on_a_resume():
    text = (ROOT / "docs/guides/runs.md").read_text()
    (listed,) = re.findall(r"Only these settings may change: (.*?)\. Any other", text, re.DOTALL)
    free = {
        field.name for field in dataclasses.fields(Config) if field.metadata["may_change_on_resume"]
    }
    assert set(re.findall(r"`(\w+)`", listed)) == free - {"workdir"} | {"rounds"}


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("block", CODE, ids=lambda block: block.name)
def test_code_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.page, "exec"), {})
    assert capsys.readouterr().out or "print(" not in block.text


@pytest.mark.usefixtures("tables")
def test_a_plugin_runs_with_its_command_and_is_found_again(tmp_path, monkeypatch):
    code = next(block.text for block in blocks("python") if 'MODELS["mine"]' in block.text)
    command = next(block.text for block in blocks("bash") if "--plugin=mine.py" in block.text)
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
    train, test = (b.text.strip() for b in blocks("bash") if b.page == "README.md")
    assert train == "python -m pip install -e . && python experiments/train.py"
    assert test == "python -m pip install -e '.[dev]' && python -m pytest"
    assert "pip install -q -e '.[dev,docs]'" in ci and "\npython -m pytest\n" in ci
    assert "python experiments/train.py" in ci and "mkdocs build --strict" in ci


@pytest.mark.parametrize("page", COMMANDED)
def test_flags_of_training_commands_make_a_config(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for words in commands(page):
        others = ("--resume", "--config", "--plugin", "--flagfile=runs", "--preset")
        if "experiments/train.py" in words and not any(w.startswith(others) for w in words):
            arguments = words[words.index("experiments/train.py") + 1 :]
            assert isinstance(parse(arguments), Config), words


def shortened(words):
    """A command that trains fewer rounds of fewer exchanges, which does not change what it does."""
    name = Path(words[1]).stem
    resumed = any(word.startswith("--resume") for word in words)
    if name == "train":
        return [*words, "--progress=none"] if resumed else [*words, "--rounds=2", *FEW]
    if name == "sweep":
        return [*words, "--rounds=2", "--seeds=0", *FEW]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("page", COMMANDED)
def test_commands_run_in_their_order(page, tmp_path):
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for block in blocks("python"):
        if 'MODELS["mine"]' in block.text:
            (tmp_path / "mine.py").write_text(block.text)
    for name, text in files(page).items():
        (tmp_path / name).write_text(text)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for words in commands(page):
        if any(part in " ".join(words) for part in NOT_RUN):
            continue
        words = shortened(words)
        module = {"python": [], "jfedsl": ["-m", "jfedsl"]}.get(words[0])
        start = words if module is None else [sys.executable, *module, *words[1:]]
        done = subprocess.run(
            start, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, text=True,
            capture_output=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, (words, done.stderr[-2000:])


def test_the_reference_has_every_flag_with_its_help():
    tables = flag_tables()
    for field in dataclasses.fields(Config):
        row = next(r for r in tables.splitlines() if r.startswith(f"| `--{field.name}` |"))
        assert field.metadata["help"].split("|")[0] in row
    assert len(re.findall(r"^\| `--", tables, re.MULTILINE)) == len(dataclasses.fields(Config))
    assert all(f"## {topic.capitalize()}\n" in tables for topic in flags_by_topic())


def test_the_reference_has_every_public_name():
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    for name in jfedsl.__all__:
        value = getattr(jfedsl, name)
        full = f"{getattr(value, '__module__', '')}.{getattr(value, '__name__', '')}"
        listed = f"`{name}`" in page if name.isupper() else re.search(rf"^::: .*{name}", page, re.M)
        assert listed or f"::: {full}" in page, name


def test_outputs_has_every_column_and_entry(tmp_path):
    page = (ROOT / "docs" / "reference" / "outputs.md").read_text()
    config = Config(model="mlp", norm="none", rounds=4, workdir=tmp_path / "run")
    with contextlib.redirect_stdout(None):
        summary = jfedsl.train(dataclasses.replace(config, progress="none"))
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        columns = next(csv.reader(file))
    missing = [c for c in columns if f"`{c}`" not in page and not c.startswith("kept_")]
    missing += [entry for entry in summary if f"`{entry}`" not in page and entry != "workdir"]
    missing += [f.name for f in (tmp_path / "run").iterdir() if f"`{f.name}" not in page
                and not f.name.startswith(".")]  # fmt: skip
    assert missing == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert str(page.relative_to(ROOT / "docs")) in navigation, page
