"""A run's programs compiled for devices: those of this process, and TPUs where libtpu is."""

import dataclasses
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
from jfedsl.nn.client_convolution import grouped_only
from jfedsl.nn.platform import tracing_for
from jfedsl.run.assemble import build
from jfedsl.run.targets import devices
from jfedsl.run.targets.devices import Target, target_of
from jfedsl.run.targets.hlo import KERNELS, instructions
from jfedsl.run.targets.programs import Program, _Absent, compile_for
from jfedsl.run.targets.traced import grouped_convolutions

ROOT = Path(__file__).parents[3]
TINY = Config(model="mlp", clients=4, batch_size=2, local_steps=2, train_examples=64)
HAS_TPU_COMPILER = importlib.util.find_spec("libtpu") is not None
HAS_GPU_COMPILER = importlib.util.find_spec("jax_plugins") is not None and (
    importlib.util.find_spec("jax_plugins.xla_cuda13") is not None
)
needs_tpu_compiler = pytest.mark.skipif(not HAS_TPU_COMPILER, reason="libtpu is not installed")
needs_gpu_compiler = pytest.mark.skipif(not HAS_GPU_COMPILER, reason="no CUDA plugin of JAX")


HERE = Target("here", "cpu", jax.devices()[:1], 10**9)


def test_programs_for_the_device_of_this_process_are_those_of_a_run() -> None:
    """Compiled from shapes, they need the memory and have the kernels of those with arrays."""
    experiment = build(TINY)
    state, (data, key) = experiment.init(), (experiment.data, experiment.key)
    of_run = {
        "round": experiment.rounds(1).lower(data, key, state, np.int32(1)),
        "evaluation": experiment.evaluate().lower(data, state, experiment.test),
    }
    for name, lowered in of_run.items():
        program, compiled = _Absent.of(TINY, HERE).compile(name), lowered.compile()
        memory = compiled.memory_analysis()
        assert program.fits and not program.error and program.collectives == ()
        assert program.peak_bytes == pytest.approx(
            memory.argument_size_in_bytes + memory.output_size_in_bytes
            - memory.alias_size_in_bytes + memory.temp_size_in_bytes, rel=0.01,
        )  # fmt: skip
        steps = instructions(compiled.as_text())
        assert program.kernels == sum(s.loops > 0 and s.opcode in KERNELS for s in steps)
    assert not Program("round", peak_bytes=2, device_bytes=1).fits


def test_grouped_convolutions_of_a_round_are_counted_before_it_is_compiled() -> None:
    config = dataclasses.replace(TINY, model="cnn")

    def count() -> int:
        with tracing_for("tpu"):
            run = _Absent.of(config, HERE._replace(platform="tpu"))
            return grouped_convolutions(run._traced("round").jaxpr.jaxpr)

    assert count() == 0
    with grouped_only():
        assert count() > 0


def test_one_device_is_taken_where_clients_come_in_turns_and_never_more_than_there_are() -> None:
    several = HERE._replace(devices=jax.devices()[:1] * 4)
    turns = _Absent.of(dataclasses.replace(TINY, algorithm="sl", model="mlp"), several)
    assert turns.experiment.spec.slots.mesh is None
    with pytest.raises(UserError, match="--devices must be at most the 4 of --target=here, not 5"):
        _Absent.of(dataclasses.replace(TINY, devices=5), several)
    with pytest.raises(UserError, match="--programs must be some of round, .*not rounds; did you"):
        compile_for(TINY, "v5e:2x2", ("rounds",))


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
    # XLA decides by sizes which operations it fuses.
    assert counts[1] <= 1.1 * counts[0]


@pytest.mark.slow
@needs_gpu_compiler
def test_a_round_compiles_for_an_h100() -> None:
    said = compiled("h100", "--model=small", *SMALL)
    assert all(not program["error"] for program in said.values())
    assert said["round"]["grouped_convolutions"] == 0
