"""A run's programs compiled for devices: those of this process, and TPUs where libtpu is."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.models.registry import MODELS
from jfedsl.run.assemble import build
from jfedsl.run.targets import devices
from jfedsl.run.targets.devices import Target, target_of
from jfedsl.run.targets.programs import Program, _Absent, compile_for

ROOT = Path(__file__).parents[3]
TINY = Config(model="mlp", clients=4, batch_size=2, local_steps=2, train_examples=64)
HAS_TPU_COMPILER = importlib.util.find_spec("libtpu") is not None
HAS_GPU_COMPILER = importlib.util.find_spec("jax_plugins") is not None and (
    importlib.util.find_spec("jax_plugins.xla_cuda13") is not None
)
needs_tpu_compiler = pytest.mark.skipif(not HAS_TPU_COMPILER, reason="libtpu is not installed")
needs_gpu_compiler = pytest.mark.skipif(not HAS_GPU_COMPILER, reason="no CUDA plugin of JAX")


def test_programs_of_this_process_are_those_that_a_run_compiles() -> None:
    """With the target's shapes on the device that is here, everything can be compared."""
    here = Target("here", "cpu", jax.devices()[:1], 10**9)
    programs = [_Absent.of(TINY, here).compile(name) for name in ("round", "evaluation")]
    experiment = build(TINY)
    state = experiment.init()
    compiled = experiment.rounds(1).lower(experiment.data, experiment.key, state, np.int32(1))
    memory = compiled.compile().memory_analysis()
    round_, evaluation = programs
    assert round_.fits and evaluation.fits and not round_.error
    assert round_.peak_bytes >= memory.temp_size_in_bytes + memory.argument_size_in_bytes
    assert round_.kernels > 0 and round_.collectives == ()
    assert not Program("round", peak_bytes=2, device_bytes=1).fits


@pytest.mark.parametrize("name", ["v5e", "v5e:", "v9:2x2", "h200", "tpu"])
def test_unknown_targets_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--target must be v5e:2x2.*not {name}"):
        target_of(name)


def test_a_missing_compiler_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_is_installed", lambda module: False)
    for name, extra in (("v5e:2x2", "tpu"), ("h100", "cuda")):
        with pytest.raises(UserError, match=rf"{name} needs .* pip install 'jfedsl\[{extra}\]'"):
            compile_for(TINY, name)


def compiled(target: str, *arguments: str) -> dict[str, Any]:
    """What benchmarks/compile_for.py says, by program, in a process of its own."""
    command = [sys.executable, "benchmarks/compile_for.py", f"--target={target}", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["name"]: line for line in lines}


SMALL = ("--clients=8", "--batch_size=4", "--local_steps=2", "--train_examples=200")


@needs_tpu_compiler
def test_a_round_compiles_for_four_tpus_without_a_grouped_convolution() -> None:
    said = compiled("v5e:2x2", "--model=cnn", *SMALL, "--programs=round")
    assert said["round"]["grouped_convolutions"] == 0
    assert 0 < said["round"]["peak_bytes"] < said["round"]["device_bytes"]
    kinds = {kind for kind, *_ in said["round"]["collectives"]}
    assert "all-reduce" in kinds, "the server's gradient is summed over devices"


@needs_tpu_compiler
def test_evaluation_compiles_for_one_tpu() -> None:
    said = compiled("v5e:2x2", "--model=mlp", *SMALL, "--devices=1", "--programs=evaluation")
    assert said["evaluation"]["collectives"] == []
    assert said["evaluation"]["seconds"] > 0, "the compiler estimates its time"


@pytest.mark.slow
@needs_tpu_compiler
@pytest.mark.parametrize("model", MODELS)
def test_every_model_compiles_for_tpus(model: str) -> None:
    said = compiled("v5e:2x4", f"--model={model}", *SMALL)
    assert all(not program["error"] for program in said.values())
    assert said["round"]["grouped_convolutions"] == 0


@pytest.mark.slow
@needs_tpu_compiler
def test_kernels_do_not_grow_with_clients() -> None:
    counts = [
        compiled("v5e:2x2", "--model=cnn", f"--clients={n}", "--devices=1", "--programs=round")[
            "round"
        ]["kernels"]
        for n in (10, 1000)
    ]
    assert counts[1] <= 1.1 * counts[0]


@pytest.mark.slow
@needs_gpu_compiler
def test_a_round_compiles_for_an_h100() -> None:
    said = compiled("h100", "--model=small", *SMALL)
    assert all(not program["error"] for program in said.values())
    assert said["round"]["grouped_convolutions"] == 0
