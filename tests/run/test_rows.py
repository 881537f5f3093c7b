"""Rows of metrics.csv from the record of a call."""

from pathlib import Path

import jax
import numpy as np
from helpers import plain

from jfedsl.run.assemble import build
from jfedsl.run.rows import Totals, first_not_finite_loss, rows_of
from jfedsl.run.storage.metrics import STREAMS


def test_rows_add_up_and_a_loss_that_is_not_finite_is_found(tmp_path: Path) -> None:
    experiment = build(plain(workdir=str(tmp_path), train_examples=100, local_steps=2))
    run = experiment.rounds(4)
    state = experiment.init()
    record = jax.device_get(run(experiment.data, experiment.key, state, 3)[1])
    spec = experiment.spec
    whole, totals = rows_of(spec, record, None, range(1, 4), Totals())
    assert [row["round"] for row in whole] == [1, 2, 3]
    sums = np.cumsum([sum(row[f"{stream}_bytes"] for stream in STREAMS) for row in whole])
    assert [row["cumulative_bytes"] for row in whole] == sums.tolist()
    assert totals == Totals(int(sums[-1]), 0.0)
    # Totals go on from the call before.
    later, _ = rows_of(spec, record, None, range(4, 6), totals)
    assert later[0]["round"] == 4 and later[0]["cumulative_bytes"] == sums[-1] + sums[0]

    assert first_not_finite_loss(record, 3) is None
    losses = np.array(record.losses)
    losses[1, 1, 2] = np.nan
    bad = record.replace(losses=losses)
    assert first_not_finite_loss(bad, 3) == (1, int(record.participants[1, 2]))
    assert first_not_finite_loss(bad, 1) is None, "only the rounds that were run count"
    nobody = record.replace(took_part=np.zeros_like(record.took_part))
    assert rows_of(spec, nobody, None, range(1, 2), Totals())[0][0]["train_loss"] is None
