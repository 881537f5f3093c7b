"""The settings of pruning, a part of `Config`."""

import dataclasses

from jfedsl.config.allowed import CAPACITY, LADDER, RATES, OneOf, setting, whole
from jfedsl.pruning.scores import SCORES
from jfedsl.pruning.weights import SCOPES

PRUNE_KINDS = ("none", "mask", "channel")
PRUNE_POLICIES = ("uniform", "by_resource")


@dataclasses.dataclass(frozen=True)
class PruningFields:
    """Settings of what is pruned on clients."""

    prune_kind: str | None = setting(
        None,
        "What is pruned on clients: single weights, zeroed, or whole channels, removed. Default "
        "mask with an algorithm that compresses by default, else none.",
        OneOf(PRUNE_KINDS),
    )
    prune_rate: tuple[float, ...] = setting(
        (0.3,),
        "Fraction of client-side weights or channels removed; one, or one for each client. Unused "
        "with --prune_policy=by_resource.",
        RATES,
    )
    prune_ladder: tuple[float, ...] = setting(
        (1.0, 0.75, 0.5, 0.25),
        "Fractions of channels that may stay under --prune_kind=channel; a rate means the nearest.",
        LADDER,
    )
    prune_policy: str = setting(
        "uniform", "Where rates come from: --prune_rate, or each client's --client_capacity.",
        OneOf(PRUNE_POLICIES),
    )  # fmt: skip
    client_capacity: str = setting(
        "", "Compute of clients relative to one for the dense model; a range is spread evenly over "
        "clients in a random order. For --prune_policy=by_resource; default that of its device.",
        CAPACITY,
    )  # fmt: skip
    prune_score: str = setting(
        "magnitude", "What decides which weights or channels stay: their magnitude, chance, or "
        "weight times mean gradient of the period (taylor).", OneOf(SCORES),
    )  # fmt: skip
    prune_scope: str = setting(
        "global",
        "Rank all client-side weights together or within layers; channels always within.",
        OneOf(SCOPES),
    )
    prune_ramp_rounds: int = setting(
        0, "Rounds over which the rate grows from 0 on a cubic ramp.", whole(0, 10_000)
    )
