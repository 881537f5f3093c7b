"""Options of the compiler: for convolutions on a CPU alone, and only those that XLA knows."""

import jax
import jax.numpy as jnp
import pytest

from jfedsl.engine import compiler_options
from jfedsl.engine.compiler_options import options_for
from jfedsl.engine.rounds import compile_rounds

CONVOLUTION, DENSE = ({"kernel": jnp.zeros(shape)} for shape in ((3, 3, 1, 2), (4, 2)))


@pytest.fixture
def optimized():
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def every_name_is_known(monkeypatch):
    """Version 0.12 of jax lacks a name."""
    monkeypatch.setattr(compiler_options, "_FASTER", {"xla_backend_optimization_level": 1})


@pytest.mark.usefixtures("optimized", "every_name_is_known")
def test_only_convolutions_on_a_cpu_have_options():
    assert options_for("cpu", CONVOLUTION) == {"xla_backend_optimization_level": 1}
    assert options_for("cpu", DENSE) == {}
    assert options_for("gpu", CONVOLUTION) == options_for("tpu", CONVOLUTION) == {}


@pytest.mark.usefixtures("optimized")
def test_a_name_that_xla_does_not_know_leaves_all_options_out(monkeypatch):
    unknown = {"xla_backend_optimization_level": 1, "xla_cpu_of_another_version": True}
    monkeypatch.setattr(compiler_options, "_FASTER", unknown)
    assert options_for("cpu", CONVOLUTION) == {}


@pytest.mark.usefixtures("every_name_is_known")
def test_a_process_with_fewer_optimizations_keeps_them_off():
    assert options_for("cpu", CONVOLUTION) == {}


def test_rounds_are_compiled_with_the_options():
    def one(data, key, state):
        return state + data, state

    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_of_another_version"):
        compile_rounds(one, 2, {"xla_cpu_of_another_version": True})(1.0, 0.0, 1.0, 2)
    run = compile_rounds(one, 2, {"xla_backend_optimization_level": 1})
    state, records = run(jnp.float32(1.0), jnp.float32(0.0), jnp.float32(1.0), 2)
    assert (state, *records) == (3.0, 1.0, 2.0)
