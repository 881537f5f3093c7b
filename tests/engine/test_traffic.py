"""Bytes on the links, against counts made by hand."""

import numpy as np
import pytest
from helpers import setup

from jfedsl.engine.traffic import uncompressed_bytes

# mlp on digits, cut after dense1: 256 entries an example, 64 * 256 + 256 weights; B = 8 labels of
# 4 bits are 4 bytes.
SMASHED, WEIGHTS, BIASES, LABELS = 8 * 256, 64 * 256, 256, 4


def test_without_compression_everything_is_sent_as_float32():
    experiment, state, run = setup(aggregate_every=2, local_steps=3)
    records = []
    for _ in range(3):
        state, record = run(state)
        records.append(record)
    first = records[0]
    assert (first.sent["smashed_up"] == 4 * SMASHED + LABELS).all()
    assert (first.sent["cut_gradient_down"] == 4 * SMASHED).all()
    assert (first.sent["model_down"] == 4 * (WEIGHTS + BIASES)).all()
    expected = dense_bytes(experiment, rounds=3)
    for stream, total in expected.items():
        assert total == sum(int(r.sent[stream].sum()) for r in records)


def dense_bytes(experiment, rounds):
    client = experiment.fresh()
    shape = experiment.image.shape
    return uncompressed_bytes(experiment.spec, client.params, client.stats, shape, rounds)


AVERAGE = {"client_optimizer_state": "average"}
# Numbers beside weights and biases: scale and offset for the bias and two statistics; momentum; two
# moments and a step counter.
EXTRAS = {
    "batch norm": ({"norm": "batch"}, 4 * 256 - BIASES),
    "momentum": (AVERAGE, WEIGHTS + BIASES),
    "adam": ({**AVERAGE, "optimizer": "adam"}, 2 * (WEIGHTS + BIASES) + 1),
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("case", EXTRAS)
def test_statistics_and_optimizer_states_count_where_they_are_shared(case):
    change, extra = EXTRAS[case]
    experiment, state, run = setup(momentum=0.9, **change)
    _, record = run(state)
    dense = dense_bytes(experiment, rounds=1)
    for stream in ("model_up", "model_down"):
        counted = record.sent[stream]
        assert (counted == 4 * (WEIGHTS + BIASES + extra)).all()
        assert dense[stream] == int(counted.sum())


def test_quantized_streams_count_entries_and_headers():
    _, state, run = setup(
        smashed_bits=4, cut_gradient_bits=7, model_bits=5, bucket_size=500, quantizer="qsgd"
    )
    _, record = run(state)
    headers = -(-SMASHED // 500) * 4
    assert (record.sent["smashed_up"] == SMASHED // 2 + headers + LABELS).all()
    assert (record.sent["cut_gradient_down"] == -(-SMASHED * 7 // 8) + headers).all()
    model_headers = (-(-WEIGHTS // 500) + 1) * 4
    assert (record.sent["model_up"] == (WEIGHTS + BIASES) * 5 // 8 + model_headers).all()


def test_dropped_entries_travel_in_neither_direction():
    _, state, run = setup(dropout_rate=0.4, local_steps=4)
    _, record = run(state)
    kept = record.sent["cut_gradient_down"] / 4
    np.testing.assert_array_equal(record.sent["smashed_up"], 4 * kept + LABELS)
    # Binomial(2048, 0.6), standard deviation 22.2.
    assert (abs(kept - 0.6 * SMASHED) < 5 * 22.2).all()
    assert len(np.unique(kept)) > 8, "every client and step draws its own mask"


def test_pruned_weights_stay_home_and_masks_go_down():
    _, state, run = setup(prune_kind="mask", prune_rate=(0.3, 0.0, 0.5, 0.9))
    _, record = run(state)
    removed = np.rint(np.array([0.3, 0.0, 0.5, 0.9]) * WEIGHTS)
    up = 4 * (WEIGHTS + BIASES - removed)
    np.testing.assert_array_equal(record.sent["model_up"], up)
    np.testing.assert_array_equal(record.sent["model_down"], up + WEIGHTS / 8)


@pytest.mark.parametrize("change", [{}, {"momentum": 0.9, **AVERAGE}])
def test_removed_channels_travel_in_no_direction(change):
    _, state, run = setup(prune_kind="channel", prune_rate=(0.25, 0.0, 0.5, 0.75), **change)
    _, record = run(state)
    kept = np.array([256, 192, 128, 64])  # group by group, the widest first
    np.testing.assert_array_equal(record.participants, [1, 0, 2, 3])
    np.testing.assert_array_equal(record.sent["smashed_up"][0], 4 * 8 * kept + LABELS)
    np.testing.assert_array_equal(record.sent["cut_gradient_down"][0], 4 * 8 * kept)
    model = 4 * (64 + 1) * kept * (2 if change else 1)
    np.testing.assert_array_equal(record.sent["model_up"], model)
    np.testing.assert_array_equal(record.sent["model_down"], model + 256 // 8)


def test_statistics_of_removed_channels_stay_home():
    _, state, run = setup(prune_kind="channel", prune_rate=(0.5,), norm="batch")
    _, record = run(state)
    assert (record.sent["model_up"] == 4 * (64 + 2 + 2) * 128).all()
