"""The compressors of a run, in training and in use."""

from typing import Any

import numpy as np

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.compression import expression
from jfedsl.compression.deployed import Deployed, deployed
from jfedsl.config import Config
from jfedsl.engine.state import Compressors
from jfedsl.engine.streams import MODEL_DOWN, MODEL_UP, SMASHED, Stream


def compressors_of(config: Config) -> Compressors:
    """Of every stream of the algorithm; None for a model whose weights themselves are sent."""
    calls, seed = config.compressors, config.device_seed

    def of(stream: Stream) -> Any:
        of_stream = calls.get(stream.compressor, ())
        if not of_stream and stream.name in (MODEL_UP.name, MODEL_DOWN.name):
            return None
        return expression.build(of_stream, config.clients, seed)

    return {stream.name: of(stream) for stream in ALGORITHMS[config.algorithm].streams}


def deployed_of(config: Config) -> Deployed | None:
    """What activations pass when the trained model is used; None: nothing changes them."""
    streams = ALGORITHMS[config.algorithm].streams
    to_tail = (s.compressor for s in streams if s.at_tail and s.carries_activations)
    made = [
        deployed(config.compressors.get(flag, ()), config.clients, config.device_seed)
        for flag in (SMASHED.compressor, next(to_tail, ""))
    ]
    if made == [None, None]:
        return None
    at_cut, at_tail = (None if one is None else one[0] for one in made)
    groups = [one[1] for one in made if one is not None]
    mask_group = np.unique(np.stack(groups, axis=1), axis=0, return_inverse=True)[1]
    return Deployed(at_cut, at_tail, mask_group.reshape(-1).astype(np.int32))
