"""Flags that compress streams: expressions, and the shorthands for simple ones."""

from collections.abc import Mapping
from typing import Any

from jfedsl import per_client
from jfedsl.compression.expression import Call, Constraints, ExpressionError, parse
from jfedsl.compression.message import FLOAT_BITS
from jfedsl.config.algorithm_fields import STREAMS
from jfedsl.errors import UserError, as_text, no_effect

# By flag of a stream: the flags that stand for simple expressions, and their defaults.
SHORTHANDS: dict[str, dict[str, str]] = {
    "smashed": {"dropout_rate": "0", "smashed_bits": "8"},
    "cut_gradient": {"cut_gradient_bits": "8"},
    "client_gradient": {"client_gradient_bits": "8"},
    "model_up": {"model_bits": "32"},
}
_OFF = {"dropout_rate": "0"}  # all others are bits


def flags() -> list[str]:
    """Names of all flags that say how streams are compressed."""
    return [*STREAMS, *shorthands()]


def shorthands() -> list[str]:
    """Names of the flags that stand for simple expressions."""
    return [name for names in SHORTHANDS.values() for name in names]


def settings_of(config: Any) -> dict[str, str | None]:
    """The values of all these flags in a `Config`, which is defined by means of this."""
    return {name: getattr(config, name) for name in flags()}


def shorthand_values(
    settings: Mapping[str, str | None], compress_by_default: bool
) -> dict[str, str | None]:
    """Every shorthand's value: given, the default, or None where an expression says it all.

    Args:
      settings: expressions by the flags of streams, "" where not given, and shorthands by name,
        None where not given.
      compress_by_default: whether defaults compress; else they are off.

    Raises:
      UserError: a shorthand and the expression of its stream are both given.
    """
    values: dict[str, str | None] = {}
    for flag, defaults in SHORTHANDS.items():
        for name, default in defaults.items():
            value = settings[name]
            if settings[flag] and value is not None:
                raise no_effect(name, value, f"with --{flag}, which replaces it")
            default = default if compress_by_default else _OFF.get(name, str(FLOAT_BITS))
            values[name] = None if settings[flag] else value or default
    return values


def expression(
    flag: str,
    settings: Mapping[str, str | None],
    quantizer: str,
    bucket_size: int,
    compress_by_default: bool,
) -> str:
    """The expression of a stream's compressors: as given, or what its shorthands stand for.

    Args:
      flag: of a stream, one of `STREAMS`.
      settings: expressions and shorthands by flag; see `shorthand_values`.
      quantizer: that bits choose.
      bucket_size: entries that share a header of that quantizer.
      compress_by_default: whether defaults compress; else they are off.
    """
    given, values = settings[flag], shorthand_values(settings, compress_by_default)
    if given:
        return given
    parts = []
    for name in SHORTHANDS.get(flag, {}):
        numbers = per_client.parse(str(values[name]))
        assert numbers is not None  # they have been checked
        compressor, off, rest = quantizer, float(FLOAT_BITS), f",bucket={bucket_size}"
        if name == "dropout_rate":
            compressor, off, rest = "dropout", 0.0, ""
        if set(numbers.values) != {off}:
            parts.append(f"{compressor}({numbers}{rest})")
    return "|".join(parts) or "none"


def read(flag: str, text: str, clients: int) -> tuple[Call, ...]:
    """The compressors of a stream.

    Args:
      flag: of a stream, one of `STREAMS`.
      text: the expression.
      clients: C.

    Raises:
      UserError: names the flag, the expression, what is allowed and where.
    """
    stream = STREAMS[flag]
    try:
        return parse(text, clients, Constraints(stream.of_batch, stream.feedback))
    except ExpressionError as error:
        raise UserError(f"--{flag}={as_text(text)}: {error}") from None
