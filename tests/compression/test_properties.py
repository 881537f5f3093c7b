"""Properties of chains: unbiased ones are so in the mean of many draws; feedback has a memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.compression.expression import Constraints, build, parse
from jfedsl.compression.message import Message
from jfedsl.compression.properties import has_memory, is_unbiased
from jfedsl.compression.registry import COMPRESSORS

DRAWS = 4000
VALUES = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)
VALUES[:, 7] = 1.0  # a feature that does not vary over the batch

# Whether each is unbiased, in expectation over its draws.
EXPRESSIONS = {
    "none": True,
    "dropout(0.3)": True,
    "dropout(0.5,feature,true)": True,
    "topk(0.5)": False,
    "randtopk(0.5,0.3)": False,
    "splitfc(0.8)": False,
    "uniform(3)": True,
    "uniform([3],rounding=stochastic)": True,
    "uniform(3,rounding=nearest)": False,
    "qsgd(3)": True,
    "qsgd(3,rounding=nearest)": False,
    "ternary": True,
    "ternary(clip=0)": True,
    "ternary(clip=1)": False,
    "sign": False,
    "bfloat16": False,
    "float16": False,
    "feedback(topk(0.5))": False,
    "feedback(uniform(3))": False,
    "dropout(0.3)|uniform(3)": True,
    "topk(0.5)|uniform(3)": False,
}


def test_every_entry_is_tested() -> None:
    texts = " ".join(EXPRESSIONS)
    assert [name for name in COMPRESSORS if name not in texts] == []


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_unbiased_means_that_the_mean_of_what_arrives_is_what_was_sent(text: str) -> None:
    calls = parse(text, 1, Constraints())
    compressor = build(calls, 1, 0)(0)
    x = jnp.asarray(VALUES)

    # The second message: what the first one left in a memory is added to it.
    state, _ = compressor.send(compressor.init(x), jax.random.key(1), Message(x))

    def received(key: jax.Array) -> jax.Array:
        return compressor.send(state, key, Message(x))[1].values

    draws = jax.jit(jax.vmap(received))(jax.random.split(jax.random.key(0), DRAWS))
    values = np.asarray(draws, np.float64)
    error = np.abs(values.mean(0) - VALUES)
    allowed = 5 * values.std(0) / np.sqrt(DRAWS) + 3e-5 * np.abs(VALUES).max()
    assert is_unbiased(calls) == EXPRESSIONS[text] == bool((error <= allowed).all())


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_only_feedback_has_a_memory(text: str) -> None:
    assert has_memory(parse(text, 1, Constraints()), 1) == text.startswith("feedback")
