"""Settings that algorithms bring along, a part of `Config`: their own flags and streams."""

import dataclasses
from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config.allowed import ANY, Allowed, setting
from jfedsl.engine.streams import LOCAL, SPLIT_STREAMS, Stream

# Streams by the flag that compresses them.
STREAMS: dict[str, Stream] = {stream.compressor: stream for stream in SPLIT_STREAMS}
for _algorithm in ALGORITHMS.values():
    for _stream in _algorithm.streams:
        STREAMS.setdefault(_stream.compressor, _stream)


def _fields() -> list[tuple[str, type, Any]]:
    fields: dict[str, tuple[str, type, Any]] = {}
    for flag, stream in STREAMS.items():
        if stream not in SPLIT_STREAMS:
            way = "" if stream.direction == LOCAL else f", {stream.direction}link"
            text = f"Compressors of the stream {flag}{way}."
            fields[flag] = flag, str, setting("", text, ANY)
    for algorithm in ALGORITHMS.values():
        for option in algorithm.options:
            allowed = Allowed(option.allowed, option.test)
            field = setting(option.default, option.help, allowed)
            fields[option.name] = option.name, type(option.default), field
    return list(fields.values())


AlgorithmFields: Any = dataclasses.make_dataclass("AlgorithmFields", _fields(), frozen=True)
