"""The simulated clock of a run: what its rounds cost, as columns of metrics.csv."""

import base64
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jfedsl.engine.rounds import RoundRecord
from jfedsl.engine.state import Data, with_data
from jfedsl.run.assemble import Experiment
from jfedsl.wireless.arrivals import ServerStep, Trip, Underway
from jfedsl.wireless.cost import Cost
from jfedsl.wireless.stages import Stage
from jfedsl.wireless.tail import TailStages

Last = tuple[Cost, np.ndarray]  # what the last round cost, NumPy arrays, with its participants
_ANY: Any = 0.0
_STAGE = Stage(_ANY, _ANY, _ANY, _ANY, _ANY)
_STEP = ServerStep(_ANY, _ANY, _ANY, Underway(_ANY, Trip(_ANY, _ANY, _ANY), _ANY), _ANY)
_TAIL = TailStages(_STAGE._replace(receiving=_ANY), _ANY)


def costs_of(experiment: Experiment) -> Callable[[Data, RoundRecord], Cost | None]:
    """The compiled function from data and records of many rounds to what each cost.

    Args:
      experiment: without a radio every cost is None.
    """

    def one(data: Data, record: RoundRecord) -> Cost | None:
        spec = with_data(experiment.spec, data)
        return None if spec.radio is None else spec.algorithm.clock(spec, record)

    return jax.jit(jax.vmap(one, in_axes=(None, 0)))


def columns(cost: Cost, i: int) -> dict[str, Any]:
    """Columns of the row of a round; those of clients are means over participants.

    Args:
      cost: of many rounds, NumPy arrays.
      i: which of them.
    """
    return {
        "simulated_compute_seconds": float(cost.compute_seconds[i]),
        "simulated_communication_seconds": float(cost.communication_seconds[i]),
        "simulated_seconds": float(cost.seconds[i]),
        "simulated_client_compute_seconds": float(cost.compute[i].mean()),
        "simulated_client_uplink_seconds": float(cost.uplink[i].mean()),
        "simulated_client_downlink_seconds": float(cost.downlink[i].mean()),
        "simulated_client_waiting_seconds": float(cost.waiting[i].mean()),
        "simulated_server_seconds": float(cost.server[i]),
        "compute_joules": float(cost.compute_joules[i].sum()),
        "transmit_joules": float(cost.transmit_joules[i].sum()),
        "energy_joules": float(cost.compute_joules[i].sum() + cost.transmit_joules[i].sum()),
        "lost_fraction": float(cost.lost[i]),
    }


def to_plain(last: Last | None) -> dict[str, Any] | None:
    """As plain values, for a checkpoint: the timeline is drawn after the last one.

    Every array is the text of its compressed bytes: as lists of numbers they would be megabytes of
    JSON for thousands of participants.
    """
    if last is None:
        return None
    cost, participants = last
    return {
        "cost": list(map(_packed, jax.tree.leaves(cost))),
        "server_steps": isinstance(cost.stages, ServerStep),
        "participants": _packed(participants),
    }


def from_plain(plain: dict[str, Any] | None) -> Last | None:
    """What `to_plain` was given, to the bit."""
    if plain is None:
        return None
    numbers = {name: _ANY for name in Cost.__dataclass_fields__}
    stages: Any = (_STAGE, _STAGE, _ANY, _STAGE, _STAGE)
    if plain.get("server_steps"):  # checkpoints of earlier builds have none
        stages = _STEP
    like = Cost(**{**numbers, "stages": stages, "tail": None})
    if len(plain["cost"]) > len(jax.tree.leaves(like)):
        like = like.replace(tail=_TAIL)
    cost = jax.tree.unflatten(jax.tree.structure(like), map(_unpacked, plain["cost"]))
    return cost, _unpacked(plain["participants"])


def _packed(array: Any) -> dict[str, Any]:
    array = np.asarray(array)
    data = base64.b64encode(zlib.compress(array.tobytes())).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "bytes": data}


def _unpacked(packed: dict[str, Any]) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(packed["bytes"]))
    return np.frombuffer(data, packed["dtype"]).reshape(packed["shape"])
