"""The rows of metrics.csv that a compiled call of many rounds makes."""

from typing import NamedTuple

import numpy as np

from jfedsl.engine.rounds import RoundRecord, sent_bytes
from jfedsl.engine.state import RunSpec
from jfedsl.run.clock import columns
from jfedsl.run.storage.metrics import ADAPTER_ERROR, KEPT, STREAMS, Row
from jfedsl.wireless.cost import Cost

_NOTHING_SENT = dict.fromkeys(STREAMS, 0)


class Totals(NamedTuple):
    """Sums over all rounds so far.

    Attributes:
      bytes: sent in all streams.
      seconds: of the simulated network.
    """

    bytes: int = 0
    seconds: float = 0.0


def first_not_finite_loss(record: RoundRecord, count: int) -> tuple[int, int] | None:
    """The first loss that is not finite: index of its round and number of its client, or None.

    Args:
      record: of at least `count` rounds, NumPy arrays.
      count: how many rounds to look at.
    """
    finite = np.isfinite(record.losses[:count])
    if finite.all():
        return None
    i, _, participant = np.argwhere(~finite)[0]
    return int(i), int(record.participants[i, participant])


def rows_of(
    spec: RunSpec, record: RoundRecord, cost: Cost | None, rounds: range, totals: Totals
) -> tuple[list[Row], Totals]:
    """Rows without the columns of evaluation and of the host's time.

    Args:
      spec: what is fixed in the run.
      record: of the rounds, NumPy arrays with a leading axis of rounds.
      cost: of the rounds, as `record`; None without a simulated network.
      rounds: numbers of the rounds; the first is at index 0 of `record` and `cost`.
      totals: sums over the rounds before.

    Returns:
      The rows, and the totals that include them.
    """
    rows: list[Row] = []
    for i, round_ in enumerate(rounds):
        sent = sent_bytes(spec, record, i)
        seconds = 0.0 if cost is None else float(cost.seconds[i])
        totals = Totals(totals.bytes + sum(sent.values()), totals.seconds + seconds)
        rows.append({"round": round_, **_row(spec, record, cost, i, sent, totals)})
    return rows, totals


def _row(
    spec: RunSpec,
    record: RoundRecord,
    cost: Cost | None,
    i: int,
    sent: dict[str, int],
    totals: Totals,
) -> Row:
    """The row of the round at index `i`, but for the number of the round."""
    simulated: Row = {}
    if cost is not None:
        simulated = {**columns(cost, i), "cumulative_simulated_seconds": totals.seconds}
    overlap, pruned = float(record.mask_overlap[i]), spec.pruner.names
    kept = zip(pruned, record.kept_fractions[i].tolist(), strict=True)
    return {
        "train_loss": float(record.train_loss[i]) if record.took_part[i].any() else None,
        **{f"{stream}_bytes": count for stream, count in {**_NOTHING_SENT, **sent}.items()},
        "cumulative_bytes": totals.bytes,
        **simulated,
        "participants": record.participants.shape[1],
        "pruned_fraction": float(record.pruned_fraction[i]),
        "mask_overlap": overlap if pruned and overlap >= 0 else None,
        **_adapter_error(record, i),
        **_reported(record, i),
        **spec.algorithm.row(spec, record, i),
        **{f"{KEPT}{name}": fraction for name, fraction in kept},
    }


def _reported(record: RoundRecord, i: int) -> Row:
    """The columns of what the algorithm reports: means over participants and exchanges with any."""
    return {
        name: float(values[i].mean(where=valid[i])) if valid[i].any() else None
        for name, (values, valid) in record.reported.items()
    }


def _adapter_error(record: RoundRecord, i: int) -> Row:
    """The column of the error of averages of adapters, where there is one."""
    if record.adapter_error is None:
        return {}
    error = float(record.adapter_error[i])
    return {ADAPTER_ERROR: error if error >= 0 else None}
