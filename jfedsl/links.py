"""The places where messages are compressed, and the flags that say how."""

from collections.abc import Mapping

from jfedsl.compression.expression import Call, ExpressionError, parse
from jfedsl.compression.message import FLOAT_BITS
from jfedsl.errors import flag_error

# By place, whether the first axis of what is sent is a batch.
PLACES = {
    "smashed": True,
    "cut_gradient": True,
    "client_gradient": False,
    "model_up": False,
    "model_down": False,
}
# By place, the flags that stand for simple expressions, and their defaults.
SHORTHANDS = {
    "smashed": {"dropout_rate": "0.2", "smashed_bits": "32"},
    "cut_gradient": {"cut_gradient_bits": "8"},
    "client_gradient": {"client_gradient_bits": "8"},
    "model_up": {"model_bits": "32"},
    "model_down": {},
}


def shorthands() -> list[str]:
    """Names of the flags that stand for simple expressions."""
    return [name for names in SHORTHANDS.values() for name in names]


def resolved(settings: Mapping[str, str | None]) -> dict[str, str | None]:
    """Every shorthand's value: given, the default, or None where an expression says it all.

    Args:
      settings: expressions by place, "" where not given, and shorthands, None likewise.

    Raises:
      UserError: a shorthand and the expression of its place are both given.
    """
    values: dict[str, str | None] = {}
    for place, defaults in SHORTHANDS.items():
        for name, default in defaults.items():
            value = settings[name]
            if settings[place] and value is not None:
                raise flag_error(name, value, f"nothing with --{place}, which says it all")
            values[name] = None if settings[place] else value or default
    return values


def expression(
    place: str, settings: Mapping[str, str | None], quantizer: str, bucket_size: int
) -> str:
    """The expression of a place: as given, or what its shorthands stand for.

    Args:
      place: one of `PLACES`.
      settings: as in `resolved`.
      quantizer: that bits choose.
      bucket_size: of it.
    """
    given, values = settings[place], resolved(settings)
    if given:
        return given
    parts = []
    for name in SHORTHANDS[place]:
        value = str(values[name])
        argument = f"[{value}]" if "," in value else value
        if name == "dropout_rate":
            parts += [f"dropout({argument})"] if value.strip("0.") else []
        elif value != str(FLOAT_BITS):
            parts.append(f"{quantizer}({argument},bucket={bucket_size})")
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
        raise flag_error(place, text, str(error)) from None
