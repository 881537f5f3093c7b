"""Parts of `accelerator.py` that use the whole program: a training run, and tests of the suite."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from accelerator_report import Entry, Measure
from accelerator_worker import Settings

from jfedsl import Config, train

_ROOT = Path(__file__).parents[1]
# Of the main job; on a CPU five seeds of its setting end between 0.972 and 0.986 (docs/results.md).
_ACCURACY = 0.97
_QUICK_RUN: dict[str, Any] = {
    "model": "mlp", "norm": "none", "clients": 3, "rounds": 2, "eval_every": 2
}  # fmt: skip

# Quick ones of the rooms that an accelerator computes.
TESTS = {
    "nn/test_winograd": (
        "test_whole_numbers_are_exact",
        "test_real_numbers_agree_to_1e_6_with_the_sum_in_float64",
    ),
    "nn/test_convolution": (
        "test_real_numbers_agree_with_those_of_lax_to_1e_5",
        "test_mapped_over_clients_with_different_kernels_equals_a_python_loop",
        "test_max_pool_equals_that_of_flax_and_crops_what_fills_no_window",
        "test_gradient_of_pooling_goes_to_the_first_of_equal_maxima",
    ),
    "nn/test_int8": (
        "test_sums_beyond_int32_do_not_overflow",
        "test_mapped_over_clients_equals_a_loop_and_clients_share_no_noise",
        "test_bfloat16_operands_have_bfloat16_gradients",
    ),
    "engine/test_exchange": (
        "test_compressed_exchange_equals_a_loop_over_clients",
        "test_cut_gradient_does_not_shrink_with_the_number_of_clients",
        "test_clients_never_share_noise",
    ),
    "engine/test_rounds": (
        "test_calls_of_any_length_compute_the_same_with_one_compilation",
        "test_learning_rate_follows_the_run_not_the_client",
    ),
    "engine/test_traffic": ("test_without_compression_everything_is_sent_as_float32",),
    "compression/test_packing": (
        "test_the_layout_byte_by_byte",
        "test_messages_of_mapped_clients_are_packed_one_by_one_in_numpy",
    ),
    "compression/test_dropout": (
        "test_is_unbiased",
        "test_mapped_over_clients_equals_a_python_loop",
    ),
    "compression/test_sparsification": ("test_zeros_stay_zeros_even_where_they_are_sent",),
}


def training(settings: Settings) -> Iterator[Entry]:
    """The main job: what `experiments/train.py` trains without flags."""
    changes = _QUICK_RUN if settings.quick else {}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        summary = train(
            Config(workdir=f"{folder}/run", compilation_cache="", progress="none", **changes)
        )
        seconds = time.perf_counter() - began
    config = Config(**changes)
    facts = {name: value for name, value in summary.items() if isinstance(value, str | int | float)}
    del facts["workdir"]  # it is deleted
    yield Entry(
        f"{config.dataset}, {config.model}, {config.rounds} rounds",
        [
            Measure("test accuracy", summary["final_accuracy"], _ACCURACY),
            Measure("seconds, compilation and pictures included", seconds),
        ],
        {"summary": facts},
    )


def tests(settings: Settings) -> Iterator[Entry]:
    """Some tests of the suite, with products in float32, in a process of their own."""
    ids = [f"tests/{file}.py::{name}" for file, names in TESTS.items() for name in names]
    ids = ids[:1] if settings.quick else ids
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider",
            f"--junitxml={report}", *ids,
        ]  # fmt: skip
        exact = {**os.environ, "JAX_DEFAULT_MATMUL_PRECISION": "float32"}
        output = subprocess.run(command, cwd=_ROOT, env=exact, capture_output=True, text=True)
        if not report.exists():
            last = (output.stdout + output.stderr).strip().splitlines()[-1:]
            raise RuntimeError(f"pytest made no report: {''.join(last)}")
        cases = [*ElementTree.parse(report).iter("testcase")]
    failures = {f"{case.get('name')}": text for case in cases if (text := _failure(case))}
    names = ", ".join(failures)
    yield Entry(
        f"{len(ids)} tests",
        [
            Measure("cases that passed", len(cases) - len(failures)),
            Measure("cases that failed", len(failures), 0, at_most=True),
        ],
        {"tests": ids, "failures": failures},
        f"failed: {names}" if names else "",
    )


def _failure(case: ElementTree.Element) -> str:
    """The first line of why a case failed; empty if it did not."""
    failed = [found for kind in ("failure", "error") if (found := case.find(kind)) is not None]
    return (failed[0].get("message") or "no message").splitlines()[0] if failed else ""
