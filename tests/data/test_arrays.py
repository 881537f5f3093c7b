"""A user's arrays: float64 where float32 is too coarse, exact integers, little memory."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from jfedsl.data.datasets import Dataset, from_arrays

LABELS = np.arange(100) % 2
NOISE = np.random.default_rng(0).normal(size=(100, 1))
SECONDS = 1.7e9 + np.arange(100.0)[:, None]  # neighbouring float32 are 128 s apart there


def data_of(inputs: np.ndarray, test: np.ndarray | None = None, **options: Any) -> Dataset:
    test = inputs if test is None else test
    return from_arrays((inputs, LABELS), (test, LABELS[: len(test)]), **options)


@pytest.mark.parametrize(
    "feature",
    [SECONDS, SECONDS.astype(np.int64), 1e-30 * NOISE, (2**24 - 1 + LABELS[:, None]) * 1.0],
    ids=["times", "whole times", "tiny", "ids"],
)
def test_inputs_too_fine_for_float32_are_normalised_in_float64_before(feature: np.ndarray) -> None:
    inputs = np.concatenate([feature, NOISE, np.full((100, 1), 0.1)], axis=1)
    data = data_of(inputs, inputs[:10])
    assert data.scale is not None and not data.normalise and data.notes == ()
    expected = (inputs[:, :2] - inputs[:, :2].mean(0)) / inputs[:, :2].std(0)
    assert data.train.images.dtype == np.float32
    np.testing.assert_allclose(data.train.images[:, :2], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(data.train.images[:, 2], 0.0)
    np.testing.assert_array_equal(data.test.images, data.train.images[:10])
    np.testing.assert_allclose(data.scale.mean[0], inputs[:, 0].mean(), rtol=1e-12, atol=1e-35)


@pytest.mark.parametrize("inputs", [NOISE, 300 + NOISE, NOISE.astype(np.float32), NOISE * 0 + 1e9])
def test_other_inputs_are_normalised_in_the_run(inputs: np.ndarray) -> None:
    data = data_of(inputs)
    assert data.scale is None and data.normalise and data.notes == ()
    np.testing.assert_array_equal(data.train.images, inputs.astype(np.float32))


@pytest.mark.parametrize("normalise", [True, False])
def test_distinct_values_that_become_equal_are_noted(normalise: bool) -> None:
    coarse = np.where(LABELS == 1, 1e14 + np.arange(100), 0.0)[:, None]
    data = data_of(np.concatenate([NOISE, coarse, coarse], axis=1), normalise=normalise)
    assert data.notes == (
        "inputs: in float32 51 values of feature 1 become 2, and so in 1 more features",
    )


@pytest.mark.parametrize(
    ("dtype", "converted"),
    [("int64", "int32"), ("uint8", "uint8"), ("bool", "int32"), ("float64", "float32")],
)
def test_without_normalise_values_stay_as_they_are(dtype: str, converted: str) -> None:
    inputs = (np.arange(300).reshape(100, 3) % 7).astype(dtype)
    data = data_of(inputs, normalise=False)
    assert data.train.images.dtype == converted and not data.normalise and data.scale is None
    assert data.integer_inputs == (converted != "float32")
    np.testing.assert_array_equal(data.train.images, inputs)


def test_whole_numbers_that_float32_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="^train inputs: whole numbers from -16777216 to "):
        data_of(np.full((100, 2), 2**24 + 1), normalise=False)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "uint8"])
def test_converting_arrays_takes_little_more_memory_than_the_arrays(dtype: str) -> None:
    inputs = np.ones((1 << 17, 16), dtype)
    inputs[::2, 0] = 200
    if dtype == "float64":
        inputs[:, 1] = 1.7e9 + np.arange(
            len(inputs)
        )  # normalised in float64, which takes the most memory
    labels = np.zeros(len(inputs), np.int32)
    tracemalloc.start()
    try:
        data = from_arrays((inputs, labels), (inputs[:9], labels[:9]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (data.scale is not None) == (dtype == "float64")
    assert peak < 1.5 * inputs.nbytes


def test_clients_of_examples_are_numbered_and_follow_their_examples() -> None:
    names = np.array(["b", "c", "a", "b"] * 25)
    data = data_of(NOISE, clients=names.tolist())
    np.testing.assert_array_equal(data.train.owners, np.array([1, 2, 0, 1] * 25))
    chosen = data.train.at(np.array([3, 1]))
    assert chosen.owners is not None and chosen.owners.tolist() == [1, 2]
    assert data.test.owners is None


@pytest.mark.parametrize(
    "clients", [[1, 2], np.ones((100, 1), int), np.ones(100), [*["a"] * 99, None]], ids=str
)
def test_clients_that_are_no_numbers_or_names_are_refused(clients: Any) -> None:
    with pytest.raises(ValueError, match=r"^clients: whole numbers or names \[100\] are allowed"):
        data_of(NOISE, clients=clients)
