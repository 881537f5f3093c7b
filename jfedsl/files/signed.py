"""JSON objects that contain their checksum, so that a changed digit is noticed."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

CRC = "crc32"


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its checksum added as `crc32`.

    >>> verified(parsed(json.dumps(signed({"round": 3}))))
    {'round': 3}
    """
    unsigned = {name: value for name, value in content.items() if name != CRC}
    # By way of JSON, which turns tuples into lists and keys into strings.
    return {**unsigned, CRC: _checksum(json.loads(json.dumps(unsigned)))}


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
      ValueError: the text is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def verified(value: Any) -> dict[str, Any]:
    """The content of an object that `signed` returned and that was read back from JSON.

    An object without a checksum is accepted, as earlier versions wrote none.

    Raises:
      ValueError: the value is no object, or its checksum differs.
    """
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    content = {name: entry for name, entry in value.items() if name != CRC}
    if CRC in value and value[CRC] != _checksum(content):
        raise ValueError("its checksum differs")
    return content


def _checksum(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
