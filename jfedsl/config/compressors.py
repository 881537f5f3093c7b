"""The places where messages are compressed, and the flags that say how."""

from collections.abc import Mapping

from jfedsl import per_client
from jfedsl.compression.expression import Call, ExpressionError, Place, parse
from jfedsl.compression.message import FLOAT_BITS
from jfedsl.errors import UserError, as_text, no_effect

PLACES = {
    "smashed": Place(batch=True),
    "cut_gradient": Place(batch=True),
    "client_gradient": Place(batch=False),
    "model_up": Place(batch=False),
    # The change since the last arrival holds all that has not arrived: nothing to be remembered.
    "model_down": Place(batch=False, feedback=False),
}
# By place, the flags that stand for simple expressions, and their defaults.
SHORTHANDS = {
    "smashed": {"dropout_rate": "0.2", "smashed_bits": "32"},
    "cut_gradient": {"cut_gradient_bits": "8"},
    "client_gradient": {"client_gradient_bits": "8"},
    "model_up": {"model_bits": "32"},
    "model_down": {},
}
_OFF = {"dropout_rate": "0"}  # all others are bits


def shorthands() -> list[str]:
    """Names of the flags that stand for simple expressions."""
    return [name for names in SHORTHANDS.values() for name in names]


def shorthand_values(
    settings: Mapping[str, str | None], compress_by_default: bool
) -> dict[str, str | None]:
    """Every shorthand's value: given, the default, or None where an expression says it all.

    Args:
      settings: expressions by place, "" where not given, and shorthands, None likewise.
      compress_by_default: whether defaults compress; else they are off.

    Raises:
      UserError: a shorthand and the expression of its place are both given.
    """
    values: dict[str, str | None] = {}
    for place, defaults in SHORTHANDS.items():
        for name, default in defaults.items():
            value = settings[name]
            if settings[place] and value is not None:
                raise no_effect(name, value, f"with --{place}, which replaces it")
            default = default if compress_by_default else _OFF.get(name, str(FLOAT_BITS))
            values[name] = None if settings[place] else value or default
    return values


def expression(
    place: str,
    settings: Mapping[str, str | None],
    quantizer: str,
    bucket_size: int,
    compress_by_default: bool,
) -> str:
    """The expression of a place: as given, or what its shorthands stand for.

    Args:
      place: one of `PLACES`.
      settings: as in `shorthand_values`.
      quantizer: that bits choose.
      bucket_size: of it.
      compress_by_default: as in `shorthand_values`.
    """
    given, values = settings[place], shorthand_values(settings, compress_by_default)
    if given:
        return given
    parts = []
    for name in SHORTHANDS[place]:
        found = per_client.parse(str(values[name]))
        assert found is not None  # they have been checked
        compressor, off, rest = quantizer, float(FLOAT_BITS), f",bucket={bucket_size}"
        if name == "dropout_rate":
            compressor, off, rest = "dropout", 0.0, ""
        if set(found.values) != {off}:
            parts.append(f"{compressor}({found}{rest})")
    return "|".join(parts) or "none"


def read(place: str, text: str, clients: int) -> tuple[Call, ...]:
    """The compressors of a place.

    Args:
      place: one of `PLACES`.
      text: the expression.
      clients: C.

    Raises:
      UserError: names the flag, the expression, what is allowed and where.
    """
    try:
        return parse(text, clients, PLACES[place])
    except ExpressionError as error:
        raise UserError(f"--{place}={as_text(text)}: {error}") from None
