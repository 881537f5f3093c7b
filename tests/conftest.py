"""Strict settings for every test: no silent promotion; no key used twice, but in whole runs."""

import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drawing
import image_sets
import jax
import pytest
from hypothesis import HealthCheck, settings
from matplotlib.figure import Figure
from programs import PROGRAMS

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.compression.registry import COMPRESSORS
from jfedsl.config import plugins
from jfedsl.config.loggers import LOGGERS
from jfedsl.data.builders import BUILDERS
from jfedsl.data.datasets import DATASETS
from jfedsl.data.partition import PARTITIONS
from jfedsl.data.preparation import prepare
from jfedsl.engine.task import LOSSES, METRICS, TASKS
from jfedsl.models.registry import MODELS
from jfedsl.pruning.scores import SCORES
from jfedsl.run import standard_hooks
from jfedsl.run.hooks import Hook
from jfedsl.run.processes import program_cache
from jfedsl.wireless.network import NETWORKS

# Started as a job in the background, tests and the scripts that they start would ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Traces are millions of small objects that no cycle keeps: collect them rarely.
gc.freeze()
gc.set_threshold(200_000, 50, 1000)

# Tests compile more than they compute. What the optimised programs compute is covered by the
# scripts that tests run in processes of their own.
jax.config.update("jax_disable_most_optimizations", True)

# The same small programs are compiled again and again: all workers share what they compile, and so
# do later runs. JAX's keys name versions and flags. Entries unused for a week are removed.
_WEEK = 7 * 24 * 3600
program_cache.mend()  # workers meet each other's entries
PROGRAMS.mkdir(exist_ok=True)
if "PYTEST_XDIST_WORKER" not in os.environ:
    for entry in PROGRAMS.iterdir():
        if entry.stat().st_atime < time.time() - _WEEK:
            entry.unlink(missing_ok=True)
jax.config.update("jax_compilation_cache_dir", str(PROGRAMS))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

TESTS = Path(__file__).parent

# Few examples, the same each time; --hypothesis-profile=many has more, and others each time.
for name, examples in (("few", 8), ("many", 100)):
    settings.register_profile(
        name,
        max_examples=examples,
        deadline=None,
        derandomize=name == "few",
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile("few")


@pytest.fixture(scope="module", autouse=True)
def no_key_used_twice(request: pytest.FixtureRequest) -> Iterator[None]:
    """Checks keys in the rooms that spend them one by one, for it slows tracing by a fifth.

    Whole rounds are checked by tests/engine/test_keys.py, one of every algorithm.
    """
    rooms = {"compression", "pruning", "wireless", "theory"}
    with jax.debug_key_reuse(not rooms.isdisjoint(request.path.relative_to(TESTS).parts)):
        yield


_last_cleared = time.monotonic()


@pytest.fixture(scope="module", autouse=True)
def caches_of_few_files() -> Iterator[None]:
    """JAX forgets traces and programs after a long file or some short ones.

    With those of all files it traces slower; to forget takes up to half a second.
    """
    global _last_cleared
    yield
    if time.monotonic() > _last_cleared + 8:
        jax.clear_caches()
        _last_cleared = time.monotonic()


@pytest.fixture(scope="session", autouse=True)
def blank_pictures() -> Iterator[None]:
    """Figures are built but not drawn, and the picture that needs a pass over the test set is not.

    They take over a second a run. Those of scripts are drawn.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", drawing.blank)
        patch.setattr(standard_hooks, "ConfusionPicture", Hook)
        yield


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prepared sets that hold noise in the true formats."""
    folder = tmp_path_factory.mktemp("generated")
    for name in ("fashion_mnist", "cifar10"):
        raw = folder / f"raw {name}"
        image_sets.write(name, raw, train=8000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BUILDERS[name], "url_infos", image_sets.registered(name, raw))
            prepare(name, folder / "data", raw)
    return folder / "data"


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """For tests of Adam: Optax itself raises a float to an integer power there."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def tables() -> Iterator[None]:
    """What a test adds to the tables and to the path is taken out again; plugins are forgotten."""
    path = sys.path[:]
    every: list[dict[str, Any]] = [
        MODELS, DATASETS, PARTITIONS, COMPRESSORS, SCORES, TASKS, LOSSES, METRICS, ALGORITHMS,
        NETWORKS, LOGGERS,
    ]  # fmt: skip
    before = [(table, dict(table)) for table in every]
    yield
    sys.path[:] = path
    plugins._loaded.clear()
    for table, entries in before:
        table.clear()
        table.update(entries)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves tests marked slow out, unless a marker expression asks for them."""
    if config.getoption("-m"):
        return
    skip = pytest.mark.skip(reason="slow: run with -m slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
