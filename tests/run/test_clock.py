"""What the last round cost, as a checkpoint keeps it."""

import json
from typing import Any

import jax
import numpy as np
from helpers import assert_equal

from jfedsl.run.clock import from_plain, to_plain
from jfedsl.wireless.cost import Cost
from jfedsl.wireless.stages import Stage


def some_cost(count: int) -> Cost:
    """Of a round of one exchange, its numbers at random; some are not finite."""
    rng = np.random.default_rng(0)

    def of(*shape: int) -> Any:
        return rng.standard_normal(shape, np.float32)

    def stage(*steps: int) -> Stage:
        each = (*steps, count)
        return Stage(of(*steps), of(*each), of(*each), of(*steps), rng.random(each) < 0.5)

    numbers: dict[str, Any] = {name: of(count) for name in Cost.__dataclass_fields__}
    whole = ("seconds", "compute_seconds", "communication_seconds", "server", "lost")
    numbers |= {name: of() for name in whole} | {"tail": None}
    numbers["uplink"][:2] = np.nan, -np.inf
    return Cost(**{**numbers, "stages": (stage(), stage(1), of(1), stage(1), stage())})


def test_a_checkpoint_keeps_the_cost_to_the_bit_and_in_few_bytes() -> None:
    cost, participants = some_cost(1000), np.arange(1000, dtype=np.int32)[::-1]
    text = json.dumps(to_plain((cost, participants)))
    back = from_plain(json.loads(text))
    assert back is not None
    assert_equal(back, (cost, participants))
    kinds = [jax.tree.map(lambda x: str(x.dtype), tree) for tree in (back, (cost, participants))]
    assert kinds[0] == kinds[1]
    # 14 arrays of float32 and 4 of a bit a participant: 4/3 of their bytes, as base64 is.
    assert len(text) < 1.4 * (14 * 4 + 4 + 4) * 1000
    assert to_plain(None) is None and from_plain(None) is None
