"""Deterministic forms of compressors, which a trained model is used with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.compression.compressor import Compressor
from jfedsl.compression.deployed import deployed
from jfedsl.compression.expression import Constraints, build, parse
from jfedsl.compression.message import Message

VALUES = np.random.default_rng(0).normal(size=(4, 60)).astype(np.float32)


def received(compressor: Compressor, seed: int = 0) -> np.ndarray:
    values = jnp.asarray(VALUES)
    _, message = compressor.send(compressor.init(values), jax.random.key(seed), Message(values))
    return np.asarray(message.values)


def forwards(text: str, clients: int = 1) -> tuple[list[np.ndarray], list[int]] | None:
    """What arrives by the deterministic form of every client, and the group of every client."""
    built = deployed(parse(text, clients, Constraints()), clients, 0)
    if built is None:
        return None
    compressor, group = built
    return [received(compressor(n)) for n in range(clients)], group.tolist()


@pytest.mark.parametrize(
    "text", ["none", "dropout(0.3)", "splitfc(0.5)", "dropout(0.1,unit=channel)"]
)
def test_unbiased_compressors_that_do_not_quantize_change_nothing(text: str) -> None:
    assert forwards(text) is None


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("topk(0.1)", "topk(0.1)"),
        ("randtopk(0.1,0.3,each=example)", "topk(0.1,each=example)"),
        ("feedback(randtopk(0.2)|uniform(4))", "topk(0.2)|uniform(4,rounding=nearest)"),
        ("dropout(0.5)|uniform(3,16)", "uniform(3,16,nearest)"),
        ("qsgd(4)", "qsgd(4,rounding=nearest)"),
        ("sign(16)", "sign(16)"),
        ("bfloat16", "bfloat16"),
    ],
)
def test_the_rest_has_a_form_that_draws_nothing(text: str, same_as: str) -> None:
    delivered = forwards(text)
    assert delivered is not None
    expected = received(build(parse(same_as, 1, Constraints()), 1, 0)(0))
    np.testing.assert_array_equal(delivered[0][0], expected)
    assert not np.array_equal(expected, VALUES)


def test_ternary_rounds_to_the_nearest_of_three_values() -> None:
    delivered = forwards("ternary(0)")
    assert delivered is not None
    peak = np.abs(VALUES).max()
    expected = np.where(np.abs(VALUES) > peak / 2, np.sign(VALUES) * peak, 0.0)
    np.testing.assert_allclose(delivered[0][0], expected, rtol=1e-6)


def test_clients_with_equal_numbers_share_a_form() -> None:
    delivered = forwards("dropout([0.1,0.2,0.3,0.4])|uniform([8,4,8,2])", 4)
    assert delivered is not None
    _, group = delivered
    assert group[0] == group[2] and len(set(group)) == 3
