"""Expressions: what they build, what they refuse and where."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfedsl.compression.compressor import Compressor, chain, feedback
from jfedsl.compression.dropout import dropout
from jfedsl.compression.expression import (
    Constraints,
    ExpressionError,
    build,
    most_extra_bytes,
    parse,
)
from jfedsl.compression.message import Message
from jfedsl.compression.quantization import cast, qsgd, sign, ternary, uniform
from jfedsl.compression.registry import COMPRESSORS
from jfedsl.compression.sparsification import randtopk, splitfc, topk

ANY = Constraints()
VALUES = jax.random.normal(jax.random.key(2), (4, 3, 3, 5))


def sent(compressor: Compressor, seed: int = 0) -> Message:
    """The message of the values above, sent with the key of a chain."""
    send = jax.jit(lambda key: compressor.send(compressor.init(VALUES), key, Message(VALUES))[1])
    return send(jax.random.key(seed))


def assert_same(actual: Message, expected: Message) -> None:
    np.testing.assert_array_equal(actual.values, expected.values)
    assert actual.kept is None or np.array_equal(actual.kept, expected.kept)
    a, b = actual.coding, expected.coding
    assert (a is None) == (b is None)
    if a is not None and b is not None:
        assert (a.bits, a.bucket) == (b.bits, b.bucket)
        np.testing.assert_array_equal(a.headers, b.headers)


MEANINGS = {
    "none": chain(),
    "dropout(0.2)": dropout(0.2),
    "dropout(rate=0.2,unit=channel)": dropout(0.2, "channel"),
    "dropout(0.5, feature, true)": dropout(0.5, "feature", True),
    "topk(0.1)": topk(0.1),
    "topk(0.1,each=example)": topk(0.1, "example"),
    "randtopk(0.2,alpha=0.3)": randtopk(0.2, 0.3),
    "splitfc(0.5)": splitfc(0.5),
    "uniform(8)": uniform(8),
    "uniform(8,bucket=16,rounding=nearest)": uniform(8, 16, "nearest"),
    "uniform(32)": chain(),
    "qsgd(4,0)": qsgd(4, 0),
    "ternary": ternary(),
    "ternary(64,clip=2.5)": ternary(64, 2.5),
    "sign(bucket=10)": sign(10),
    "bfloat16": cast("bfloat16"),
    "float16()": cast("float16"),
    "feedback(topk(0.1)|uniform(8))": feedback(chain(topk(0.1), uniform(8))),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_an_expression_is_the_compressors_it_names(text: str) -> None:
    compressor = build(parse(text, 3, ANY), 3, 0)
    expected = MEANINGS[text] if text == "none" else chain(MEANINGS[text])
    assert_same(sent(compressor(1)), sent(expected))


def test_bars_chain() -> None:
    compressor = build(parse(" dropout(0.2) | topk(0.5)|uniform(4,8) ", 3, ANY), 3, 0)
    assert_same(sent(compressor(0)), sent(chain(dropout(0.2), topk(0.5), uniform(4, 8))))


def test_every_compressor_is_tried() -> None:
    assert {name for name in COMPRESSORS if any(name in text for text in MEANINGS)} == set(
        COMPRESSORS
    )


def test_one_program_serves_clients_that_differ() -> None:
    compressor = build(parse("dropout([0.1,0.5,0.9])|uniform([2,8,32],16)", 3, ANY), 3, 0)
    traces = []

    @jax.jit
    def send(number: Any, key: Any) -> Message:
        traces.append(number)
        of_client = compressor(number)
        return of_client.send(of_client.init(VALUES), key, Message(VALUES))[1]

    for number, (rate, bits) in enumerate(((0.1, 2), (0.5, 8), (0.9, 32))):
        message = send(number, jax.random.key(7))
        expected = sent(chain(dropout(rate), uniform(bits, 16)), 7)
        np.testing.assert_array_equal(message.kept, expected.kept)
        np.testing.assert_allclose(message.values, expected.values, rtol=1e-6)
        assert int(message.entry_bits) == bits
    assert len(traces) == 1


def test_a_range_gives_every_client_another_number() -> None:
    compressor = build(parse("uniform(4-8)", 5, ANY), 5, 1)
    bits = [int(sent(compressor(jnp.int32(n))).entry_bits) for n in range(5)]
    assert sorted(bits) == [4, 5, 6, 7, 8]


def test_numbers_that_are_the_same_for_all_stay_plain() -> None:
    compressor = build(parse("uniform([8,8,8])", 3, ANY), 3, 0)
    state, key = compressor(0).init(VALUES), jax.random.key(0)
    coding = compressor(0).send(state, key, Message(VALUES))[1].coding
    assert coding is not None and isinstance(coding.bits, int)


def test_extra_bytes_are_bounded_inside_of_feedback_and_with_default_buckets() -> None:
    calls = parse("feedback(topk(0.1)|qsgd(4,64))", 3, ANY)
    # Headers of 16 buckets; for each of three calls a bitmap, a count and a few bytes to spare.
    assert most_extra_bytes(calls, 1000) == 16 * 8 + 3 * (125 + 9)
    assert most_extra_bytes(parse("uniform(8)", 3, ANY), 1024) == 2 * 8 + 128 + 9
    assert most_extra_bytes(parse("uniform(8,0)", 3, ANY), 1024) == 8 + 128 + 9
    assert most_extra_bytes((), 1024) == 0


NAMES = ", ".join(COMPRESSORS)
FORM = "compressors are joined by |, as in dropout(0.2)|uniform(8)"
LAST = "follows a compressor that quantizes, which must be the last"
WRONG = {
    "": f"syntax error at character 1; {FORM}",
    "dropout(0.2": f"; {FORM}",
    "dropout(0.2)|unifrom(8)": (
        f"unifrom(8) at character 14 must be one of {NAMES}, or none alone; did you mean uniform?"
    ),
    "none|uniform(8)": "none at character 1 must be one of",
    "1+2": "1+2 at character 1",
    "x.dropout(0.1)": "x.dropout(0.1) at character 1",
    "dropout()": ("dropout() at character 1 lacks the argument rate of dropout(rate, unit, exact)"),
    "dropout(1.0)": "rate at character 9 must be a rate in [0, 1), not 1.0",
    "dropout(-0.5)": "rate at character 9 must be a rate in [0, 1), not -0.5",
    "dropout(nan)": "rate at character 9 must be a rate in [0, 1), not nan",
    "dropout(0.1,unit=pixel)": "unit at character 18 must be one of entry, feature, channel, not p",
    "dropout(0.1,chanel)": "not chanel; did you mean channel?",
    "dropout(0.1,exact=1)": "must be one of false, true, not 1",
    "dropout(0.1,0.2,0.3,0.4)": (
        "0.4 at character 21 is one argument too many for dropout(rate, unit, exact)"
    ),
    "dropout(0.1,rate=0.2)": (
        "rate=0.2 at character 13 gives an argument of dropout(rate, unit, exact) a second time"
    ),
    "topk(0)": "keep at character 6 must be a fraction in (0, 1]",
    "topk(2)": "keep at character 6 must be a fraction in (0, 1]",
    "randtopk(0.1,1)": "alpha at character 14 must be a number in [0, 1)",
    "randtopk(0.1,[0.1,0.2,0.3])": "alpha at character 14 must be a number in [0, 1)",
    "uniform(0)": "must be a whole number from 1 to 16, or 32 for off, not 0",
    "uniform(17)": "must be a whole number from 1 to 16, or 32 for off, not 17",
    "uniform(4.5)": "a whole number from 1 to 16",
    "uniform(True)": "a whole number from 1 to 16",
    "uniform('8')": "a whole number from 1 to 16",
    "uniform([])": "a whole number from 1 to 16",
    "uniform(8-4)": "a whole number from 1 to 16",
    "uniform(8-32)": "a whole number from 1 to 16",
    "qsgd(1)": "a whole number from 2 to 16",
    "uniform([8,4])": (
        "bits at character 9 must be one number, or 3, one for each client, not [8,4]"
    ),
    "uniform(8,-1)": "bucket at character 11 must be a whole number, 0 or more, not -1",
    "uniform(8,bucket=[1,2,3])": "a whole number, 0 or more",
    "uniform(8,foo=3)": "foo=3 at character 11 is no argument of uniform(bits, bucket, rounding)",
    "uniform(8,bukcet=3)": "uniform(bits, bucket, rounding); did you mean bucket?",
    "uniform(**x)": "uniform(bits, bucket, rounding)",
    "uniform(8)|dropout(0.2)": f"dropout(0.2) at character 12 {LAST}",
    "feedback(uniform(8))|topk(0.1)": LAST,
    "feedback(uniform(8)|topk(0.1))": f"topk(0.1) at character 21 {LAST}",
    "uniform(8)|uniform(4)": f"uniform(4) at character 12 {LAST}",
    "feedback(bfloat16)|sign": f"sign at character 20 {LAST}",
    "feedback(dropout(0.1)|sign)": "dropout(0.1) at character 10 scales what it keeps",
    "feedback(feedback(splitfc(0.1)))": "splitfc(0.1) at character 19 scales what it keeps",
    "  unifrom(8)": "unifrom(8) at character 3",
    "uniform(8, ä)": "bucket at character 12 must be a whole number, 0 or more, not ä",
    "uniform(ä)|foo": "bits at character 9 must be",
    "uniform(8) # eight": f"syntax error at character 12; {FORM}",
    "uniform(8)\n|sign": f"syntax error at character 11; {FORM}",
    "topk(" + 400 * "9" + ")": FORM,
    "|".join(3000 * ["topk(0.1)"]): FORM,
    "feedback()": "feedback() at character 1 must take one chain of compressors",
    "feedback(topk(0.1),uniform(8))": "must take one chain of compressors",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:40])
def test_an_error_names_the_wrong_part_and_its_position(text: str) -> None:
    with pytest.raises(ExpressionError) as error:
        parse(text, 3, ANY)
    assert WRONG[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_feedback_is_refused_where_nothing_is_lost() -> None:
    with pytest.raises(
        ExpressionError, match="is of no use here, where changes contain what was lost"
    ):
        parse("feedback(sign)", 3, Constraints(batch=False, feedback=False))


@pytest.mark.parametrize(
    "text", ["splitfc(0.1)", "topk(0.1,example)", "dropout(0.1,feature)", "dropout(0.1,channel)"]
)
def test_what_needs_a_batch_is_refused_where_there_is_none(text: str) -> None:
    parse(text, 3, ANY)
    with pytest.raises(
        ExpressionError, match="at character .* is for activations and their gradients only"
    ):
        parse(text, 3, Constraints(batch=False))
