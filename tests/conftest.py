"""Strict settings for every test: no silent promotion, no key used twice."""

import atexit
import shutil
import tempfile
from collections.abc import Iterator

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_debug_key_reuse", True)

# Tests compile more than they compute. What the optimised programs compute is covered by the
# scripts that tests run in processes of their own.
jax.config.update("jax_disable_most_optimizations", True)

# The same small programs are compiled again and again.
_cache = tempfile.mkdtemp(prefix="jfedsl-tests-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _cache)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

settings.register_profile(
    "jfedsl",
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("jfedsl")


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """For tests of Adam: Optax itself raises a float to an integer power there."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves tests marked slow out, unless a marker expression asks for them."""
    if config.getoption("-m"):
        return
    skip = pytest.mark.skip(reason="slow: run with -m slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
