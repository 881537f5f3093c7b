"""What the streams that an algorithm declares have to be, for the engine to send and count them."""

from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.engine.algorithm import ALLOCATION, Algorithm
from jfedsl.engine.streams import DOWN, SMASHED, UP
from jfedsl.errors import UserError


def check_streams(config: Any) -> None:
    """Refuses an algorithm, such as a plugin's, with a stream too few or of no known kind.

    Raises:
      UserError: names the algorithm, the stream and what is allowed.
    """
    algorithm = ALGORITHMS[config.algorithm]
    for stream in algorithm.streams:
        if not stream.is_supported:
            raise _error(
                config,
                f"declares the stream {stream.name}, which is of no mini-batch; such a stream must "
                "be MODEL_UP, MODEL_DOWN or local",
            )
    _at_cut(config, algorithm)
    _at_tail(config, algorithm)


def _at_cut(config: Any, algorithm: Algorithm) -> None:
    """What goes up at the cut goes by one name, by which its bits are expected."""
    up = [s.name for s in algorithm.streams if s.of_batch and s.direction == UP and not s.at_tail]
    if SMASHED.name in up:
        return
    if up:
        raise _error(
            config, f"declares the uplink {up[0]} without SMASHED; one uplink must have its name"
        )
    if config.allocation == "minmax" and algorithm.uses >= ALLOCATION:
        raise _error(
            config,
            "declares no uplink, whose bits --allocation=minmax needs; add SMASHED to its streams "
            "or take ALLOCATION out of its uses",
        )


def _at_tail(config: Any, algorithm: Algorithm) -> None:
    """Activations come down to the tail, and their gradients go up."""
    options = {o.name: getattr(config, o.name, o.default) for o in algorithm.options}
    tail, ways = algorithm.tail(options), [s.direction for s in algorithm.streams if s.at_tail]
    if (tail or ways) and sorted(ways) != [DOWN, UP]:
        cause = f"a tail of {tail} layers" if tail else "streams at the tail"
        found = ", ".join(ways) or "none"
        raise _error(
            config, f"declares {cause}, which takes one stream down and one up at_tail, not {found}"
        )


def _error(config: Any, what: str) -> UserError:
    return UserError(f"--algorithm={config.algorithm} {what}")
