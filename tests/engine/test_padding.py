"""Sequences of unequal length: more padding changes no number, and is neither sent nor counted."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sequences
from helpers import assert_close, plain, setup, slow
from sequences import LONG, SHORT, assert_padding_changes_nothing

from jfedsl.data.datasets import DATASETS
from jfedsl.engine.batch import next_batch
from jfedsl.engine.exchange import ExchangeRecord
from jfedsl.engine.traffic import uncompressed_bytes
from jfedsl.errors import UserError
from jfedsl.models.layers import from_function
from jfedsl.models.registry import MODELS, ModelEntry
from jfedsl.run.assemble import Experiment, build


@pytest.fixture(autouse=True)
def registered(tables: None) -> Iterator[None]:
    """The model and the data set, its sequences of both shapes."""
    MODELS["sequences"] = sequences.ENTRY
    for positions in (SHORT, LONG):
        DATASETS[f"ids{positions}"] = lambda _, n=positions: sequences.dataset(n)
    yield


def settings(positions: int, **changes: Any) -> dict[str, Any]:
    return {"model": "sequences", "dataset": f"ids{positions}", **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"prune_kind": "mask", "prune_rate": (0.3,)},
        slow({"algorithm": "sfl_v1", "client_chunk": 1}),
        slow({"algorithm": "sfl_v2", "server_order": "exchange"}),
        slow({"algorithm": "sl"}),
        slow({"algorithm": "broadcast", "network": "macro_cell", "outage_snr_db": 3.0}),
        slow({"algorithm": "local_loss", "cut": "pool"}),
        slow({"algorithm": "u_shape", "tail_input": "topk(0.5)"}),
        slow({"algorithm": "fedavg"}),
        slow({"algorithm": "centralized"}),
    ],
)
def test_more_padding_changes_no_number(changes: dict[str, Any]) -> None:
    both = (settings(positions, **changes) for positions in (SHORT, LONG))
    assert_padding_changes_nothing(*both)


def test_padding_is_not_sent_and_lengths_are() -> None:
    experiment, state, run = setup(**settings(LONG))
    record: ExchangeRecord = run(state)[1]
    lengths, batch = sequences.ids(LONG)[1], experiment.spec.batch_size
    beside = batch * (3 + 2)  # bits of a length, and of a label
    clients = state.clients
    numbers = clients.number, clients.batches_seen
    inputs = next_batch(experiment.spec, experiment.data, experiment.key, *numbers).inputs
    counts = np.sum(np.asarray(inputs) >= 0, axis=(1, 2))  # [K]
    assert lengths.max() == sequences.LONGEST and (counts < batch * sequences.LONGEST).all()
    returned = 4 * counts * sequences.WIDTH
    np.testing.assert_array_equal(record.sent["cut_gradient_down"][0], returned)
    np.testing.assert_array_equal(record.sent["smashed_up"][0], returned + beside // 8)
    client = experiment.fresh()
    dense = uncompressed_bytes(experiment.spec, client.params, client.stats, (LONG,), 1)
    assert dense["smashed_up"] == 4 * (4 * batch * LONG * sequences.WIDTH + beside // 8)


def test_quantizers_do_not_see_padding() -> None:
    """The range of a bucket is that of what is sent, and 0 may be far from it."""
    experiment, state, run = setup(**settings(LONG, smashed="uniform(16,1000)", clients=2))
    exact, start, plain_run = setup(**settings(LONG, clients=2))
    after, expected = run(state)[0], plain_run(start)[0]
    assert_close(after.server.params, expected.server.params, rtol=1e-3, atol=1e-5)
    assert experiment.spec.positions == exact.spec.positions == LONG


def test_a_deployed_model_leaves_padding_out() -> None:
    results = []
    for positions in (SHORT, LONG):
        experiment, state, _ = setup(**settings(positions, smashed="topk(0.5)"))
        results.append(experiment.evaluate()(experiment.data, state, experiment.test))
    assert_close(results[1].metric, results[0].metric)


def test_a_layer_that_changes_the_number_of_positions_is_refused() -> None:
    embed, *rest = sequences.model(3)
    halved = (embed, from_function("halve", lambda x: x[:, ::2]), *rest)
    MODELS["halved"] = ModelEntry(lambda classes, norm: halved, "embed")
    with pytest.raises(UserError, match=f"halve makes 3 of {SHORT} padded positions"):
        build(plain(**settings(SHORT) | {"model": "halved"}))


def test_measured_constants_leave_padding_out() -> None:
    measured = []
    for positions in (SHORT, LONG):
        e: Experiment = build(plain(**settings(positions, clients=2)))
        measured.append(e.objective()(e.data, e.key, e.init()))
    assert_close(measured[1], measured[0], rtol=1e-4)
