"""The compressors of a run, in training and in use."""

from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.compression import expression
from jfedsl.compression.deployed import deployed
from jfedsl.config import Config
from jfedsl.engine.state import Compressors, Deployed
from jfedsl.engine.streams import MODEL_DOWN, MODEL_UP, Stream


def compressors_of(config: Config) -> Compressors:
    """Of every stream of the algorithm; None for a model whose weights themselves are sent."""
    calls, seed = config.compressors, config.seed

    def of(stream: Stream) -> Any:
        of_stream = calls.get(stream.compressor, ())
        if not of_stream and stream in (MODEL_UP, MODEL_DOWN):
            return None
        return expression.build(of_stream, config.clients, seed)

    return {stream.name: of(stream) for stream in ALGORITHMS[config.algorithm].streams}


def deployed_of(config: Config) -> Deployed | None:
    """What the activation passes when the trained model is used; None: nothing changes it."""
    compressor = deployed(config.compressors["smashed"], config.clients, config.seed)
    return None if compressor is None else Deployed(*compressor)
