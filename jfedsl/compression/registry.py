"""The table of compressors: the names by which expressions call them, and their arguments."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jfedsl.compression import quantization
from jfedsl.compression.buckets import DEFAULT_BUCKET, ROUNDINGS
from jfedsl.compression.compressor import Compressor, chain, feedback
from jfedsl.compression.dropout import UNITS, dropout
from jfedsl.compression.message import FLOAT_BITS
from jfedsl.compression.sparsification import ROWS, randtopk, splitfc, topk
from jfedsl.per_client import PerClient

MOST_BITS = 16
LEAST_BITS = {"uniform": 1, "qsgd": 2}  # of the quantizers that --quantizer takes


class Parameter(NamedTuple):
    """An argument of a compressor.

    Attributes:
      name: of the argument.
      allowed: the allowed values, in words, for errors.
      test: whether a number is allowed.
      whole: whether it has to be a whole number.
      per_client: whether clients may differ in it.
      words: the allowed words, if it takes words.
      batch: words for which the first axis of the tensor has to be a batch.
    """

    name: str
    allowed: str
    test: Callable[[float], bool] = lambda value: False
    whole: bool = False
    per_client: bool = False
    words: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()


class Entry(NamedTuple):
    """A compressor that expressions can call.

    Attributes:
      make: makes the compressor from arguments by name.
      parameters: of `make`, in order; those without a default come first.
      required: how many parameters have no default.
      quantizes: whether it quantizes; a quantizer is the last of a chain.
      batch: whether the first axis of the tensor has to be a batch.
      scales: whether it scales the entries that it keeps, which feedback would take for an error.
      nests: whether its only argument is a chain of compressors.
      deployed: makes, from the same arguments, the deterministic form that a trained model is used
        with; None: the compressor draws nothing, has no memory, and is used as it is.
      unbiased: whether the expectation of what is received is what was sent; a function of the
        arguments as written (words or `PerClient`) where it depends on them.
    """

    make: Callable[..., Compressor]
    parameters: tuple[Parameter, ...] = ()
    required: int = 0
    quantizes: bool = False
    batch: bool = False
    scales: bool = False
    nests: bool = False
    deployed: Callable[..., Compressor] | None = None
    unbiased: bool | Callable[..., bool] = False


def identity(*arguments: Any, **named: Any) -> Compressor:
    """The deterministic form of an unbiased compressor that does not quantize: its expectation."""
    del arguments, named
    return chain()


def words(name: str, choices: Sequence[str], batch: Sequence[str] = ()) -> Parameter:
    """The parameter that is one of `choices`; those in `batch` need a batch as first axis."""
    return Parameter(name, f"one of {', '.join(choices)}", words=tuple(choices), batch=tuple(batch))


def bits(least: int) -> Parameter:
    """The parameter for the bits of an entry; 32 switches the quantizer off."""
    return Parameter(
        "bits",
        f"a whole number from {least} to {MOST_BITS}, or {FLOAT_BITS} for off",
        lambda b: least <= b <= MOST_BITS or b == FLOAT_BITS,
        whole=True,
        per_client=True,
    )


RATE = Parameter("rate", "a rate in [0, 1)", lambda x: 0 <= x < 1, per_client=True)
KEEP = Parameter("keep", "a fraction in (0, 1]", lambda x: 0 < x <= 1, per_client=True)
ALPHA = Parameter("alpha", "a number in [0, 1)", lambda x: 0 <= x < 1)
CLIP = Parameter("clip", "a number, 0 or more", lambda x: 0 <= x < float("inf"))
BUCKET = Parameter("bucket", "a whole number, 0 or more", lambda x: 0 <= x < 2**31, whole=True)
ROUNDING = words("rounding", ROUNDINGS)
EACH = words("each", ROWS, batch=("example",))


def _dropout(rate: Any, unit: str = "entry", exact: str = "false") -> Compressor:
    return dropout(rate, unit, exact == "true")


def _quantizer(make: Callable[..., Compressor]) -> Callable[..., Compressor]:
    return lambda bits, bucket=DEFAULT_BUCKET, **rest: make(bits, bucket, **rest)


def _nearest(make: Callable[..., Compressor]) -> Callable[..., Compressor]:
    return lambda bits, bucket=DEFAULT_BUCKET, **_: make(bits, bucket, rounding="nearest")


def _rounds_at_random(rounding: str = "stochastic", **_: Any) -> bool:
    return rounding == "stochastic"


def _clips_nothing(clip: PerClient = PerClient((0.0,)), **_: Any) -> bool:  # noqa: B008
    return not any(clip.values)


COMPRESSORS = {
    "dropout": Entry(
        _dropout,
        (RATE, words("unit", UNITS, batch=UNITS[1:]), words("exact", ("false", "true"))),
        required=1,
        scales=True,
        deployed=identity,
        unbiased=True,
    ),
    "topk": Entry(topk, (KEEP, EACH), required=1),
    "randtopk": Entry(
        randtopk,
        (KEEP, ALPHA, EACH),
        required=1,
        deployed=lambda keep, alpha=0.0, **rest: topk(keep, **rest),
    ),
    # Not unbiased: where c is 0, a feature that does not vary is never sent.
    "splitfc": Entry(splitfc, (RATE,), required=1, batch=True, scales=True, deployed=identity),
    "uniform": Entry(
        _quantizer(quantization.uniform),
        (bits(1), BUCKET, ROUNDING),
        required=1,
        quantizes=True,
        deployed=_nearest(quantization.uniform),
        unbiased=_rounds_at_random,
    ),
    "qsgd": Entry(
        _quantizer(quantization.qsgd),
        (bits(2), BUCKET, ROUNDING),
        required=1,
        quantizes=True,
        deployed=_nearest(quantization.qsgd),
        unbiased=_rounds_at_random,
    ),
    "ternary": Entry(
        quantization.ternary,
        (BUCKET, CLIP),
        quantizes=True,
        deployed=functools.partial(quantization.ternary, rounding="nearest"),
        unbiased=_clips_nothing,
    ),
    "sign": Entry(
        lambda bucket=DEFAULT_BUCKET: quantization.sign(bucket), (BUCKET,), quantizes=True
    ),
    "bfloat16": Entry(lambda: quantization.cast("bfloat16"), quantizes=True),
    "float16": Entry(lambda: quantization.cast("float16"), quantizes=True),
    "feedback": Entry(lambda *inner: feedback(chain(*inner)), nests=True, deployed=chain),
}


def fault(parameter: Parameter, value: Any, clients: int) -> str | None:
    """The allowed values of an argument, in words, if `value` is not allowed; else None.

    Args:
      parameter: of the argument.
      value: a word or a `PerClient`.
      clients: C.
    """
    if isinstance(value, str):
        return None if value in parameter.words else parameter.allowed
    assert isinstance(value, PerClient)
    single = len(value.values) == 1
    ends_are_bits = parameter.whole and value.is_range and value.values[-1] == FLOAT_BITS
    allowed = all(parameter.test(x) and (x == int(x) or not parameter.whole) for x in value.values)
    if not allowed or (not single and not parameter.per_client) or ends_are_bits:
        return parameter.allowed
    return None if value.suits(clients) else f"one number, or {clients}, one for each client"
