"""Wheel and sdist: installed elsewhere, the command, the presets and a run work."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import jfedsl

ROOT = Path(__file__).parents[2]
SDIST = "from setuptools.build_meta import build_sdist; build_sdist('.')"


@pytest.mark.slow
def test_a_fresh_environment_has_the_command(tmp_path: Path) -> None:
    """Builds without isolation, and borrows the libraries of this environment: no network.

    The wheel is built from the sdist, and that from a copy, as setuptools reuses what an earlier
    build has left.
    """
    copy, wheels = tmp_path / "copy", tmp_path / "wheels"
    shutil.copytree(ROOT / "jfedsl", copy / "jfedsl")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    run([sys.executable, "-c", SDIST], copy)
    (sdist,) = copy.glob("jfedsl-*.tar.gz")
    pip = [sys.executable, "-m", "pip", "-q"]
    run([*pip, "wheel", "--no-deps", "--no-build-isolation", f"-w{wheels}", str(sdist)], tmp_path)
    (wheel,) = wheels.glob(f"jfedsl-{jfedsl.__version__}-*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    run([*pip, f"--python={tmp_path / 'venv'}", "install", "--no-deps", str(wheel)], tmp_path)
    (site,) = (tmp_path / "venv").glob("lib/*/site-packages")
    # Behind the wheel's own folder in the path: there is an editable install in the borrowed one.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    command = str(tmp_path / "venv" / "bin" / "jfedsl")
    assert run([command, "--version"], tmp_path) == f"jfedsl {jfedsl.__version__}\n"
    printed = run([command, "doctor"], tmp_path)
    assert str(site / "jfedsl") in printed and "WRONG" not in printed
    assert (site / "jfedsl" / "py.typed").exists()
    small = ["--rounds=1", "--local_steps=1", "--progress=lines", "--clients=10"]
    where = "--workdir=first"
    out = run([command, "train", "--preset=digits_uncompressed", *small, where], tmp_path)
    assert "round 1/1" in out and "test accuracy" in out
    assert json.loads((tmp_path / "first" / "config.json").read_text())["prune_kind"] == "none"
    out = run([command, "resume", "first", "--rounds=2", "--progress=lines"], tmp_path)
    assert "round 2/2" in out
    assert "test accuracy" in run([command, "evaluate", "first"], tmp_path)
    assert "page/report.html" in run([command, "report", "first", "--output=page"], tmp_path)


def run(command: list[str], folder: Path) -> str:
    """The standard output of a command, which must succeed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
