"""JSON objects with a checksum of their own, so that no flipped digit goes unseen."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

CRC = "crc32"


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with its checksum as `crc32`."""
    own = {name: value for name, value in content.items() if name != CRC}
    return {**own, CRC: _checksum(json.loads(json.dumps(own)))}


def parsed(text: str | bytes) -> Any:
    """What JSON says.

    Raises:
      ValueError: it is none, or nested without end.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def verified(found: Any) -> dict[str, Any]:
    """The content of what `signed` returned, once it has been to JSON and back.

    An object without a checksum is taken as it is: earlier versions wrote none.

    Raises:
      ValueError: it is no object, or changed since.
    """
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    content = {name: value for name, value in found.items() if name != CRC}
    if CRC in found and found[CRC] != _checksum(content):
        raise ValueError("its checksum differs")
    return content


def _checksum(plain: Any) -> int:
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())
