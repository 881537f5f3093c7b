"""Data sets: sizes, a fixed stratified split, and normalisation to mean 0 and variance 1."""

from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from jfedsl.data.datasets import (
    Dataset,
    from_arrays,
    load,
    subset,
)
from jfedsl.data.pixels import from_sums, pixel_statistics, pixel_sums
from jfedsl.data.stored import StoredImages


@cache
def digits() -> Dataset:
    return load("digits", "")


def test_splits_are_uint8_images_and_int32_labels_of_every_class() -> None:
    data = digits()
    for split in (data.train, data.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.images.ndim == 4
        assert len(split.images) == len(split.labels)
        np.testing.assert_array_equal(np.unique(split.labels), np.arange(data.classes))


def test_digits_have_1437_training_and_360_test_images_of_8x8() -> None:
    assert digits().train.images.shape == (1437, 8, 8, 1)
    assert digits().test.images.shape == (360, 8, 8, 1)


def test_digits_are_those_of_scikit_learn_in_the_order_of_its_split() -> None:
    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8)[..., None], bunch.target
    split = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    train, test = digits().train, digits().test
    arrays = (train.images, test.images, train.labels, test.labels)
    for actual, expected in zip(arrays, split, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_no_digit_is_in_both_splits() -> None:
    train, test = ({image.tobytes() for image in s.images} for s in (digits().train, digits().test))
    # No two of the 1797 images are equal, so that equal images would be the same example.
    assert len(train | test) == 1797
    assert not train & test


def test_a_fifth_of_each_digit_is_for_testing() -> None:
    train, test = (np.bincount(split.labels) for split in (digits().train, digits().test))
    assert np.all(np.abs(test - (train + test) / 5) <= 1)


def test_digits_do_not_depend_on_the_data_dir() -> None:
    again = load("digits", "elsewhere")
    for split, other in ((digits().train, again.train), (digits().test, again.test)):
        np.testing.assert_array_equal(split.images, other.images)
        np.testing.assert_array_equal(split.labels, other.labels)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(2, 1, 1, 1), (6, 3, 4, 3), (3, 4, 1, 2)]),
)
def test_normalised_pixels_have_mean_0_and_deviation_1_in_every_channel(
    seed: int, shape: tuple[int, int, int, int]
) -> None:
    images = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    # Let every channel vary.
    images[0, 0, 0], images[1, 0, 0] = 0, 255
    x = np.asarray(pixel_statistics(images).prepare(jnp.asarray(images)))
    assert x.dtype == np.float32
    assert x.shape == shape
    # Errors of float32 for pixels up to 255 with a deviation of 10 and more.
    np.testing.assert_allclose(x.mean((0, 1, 2), np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 1, 2), dtype=np.float64), 1, rtol=1e-5)


def test_a_constant_channel_becomes_zero_and_leaves_the_others_alone() -> None:
    images = np.stack([np.full((4, 3, 3), 7), np.arange(36).reshape(4, 3, 3)], -1).astype(np.uint8)
    pixels = pixel_statistics(images)
    np.testing.assert_array_equal(pixels.std[0], 1.0)
    x = np.asarray(pixels.prepare(jnp.asarray(images)))
    np.testing.assert_array_equal(x[..., 0], np.zeros((4, 3, 3)))
    np.testing.assert_allclose(x[..., 1].std(), 1, rtol=1e-5)


def test_one_image_is_normalised_as_in_its_batch() -> None:
    images = jnp.asarray(digits().train.images[:5])
    pixels = pixel_statistics(digits().train.images)
    np.testing.assert_array_equal(pixels.prepare(images[3]), pixels.prepare(images)[3])


@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([(5, 3), (40, 2, 3, 2), (7, 4, 5)]))
def test_statistics_are_those_of_numpy_for_inputs_of_any_rank(
    seed: int, shape: tuple[int, ...]
) -> None:
    draw = np.random.default_rng(seed)
    images = (draw.normal(1e3, 1.0, shape) * draw.uniform(0.1, 10, shape[-1])).astype(np.float32)
    pixels, axes = pixel_statistics(images), tuple(range(len(shape) - 1))
    np.testing.assert_allclose(pixels.mean, images.mean(axes, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(pixels.std, images.std(axes, dtype=np.float64), rtol=1e-3)


def test_statistics_of_a_large_set_are_summed_in_pieces() -> None:
    images = np.random.default_rng(0).integers(0, 256, (700, 32, 32, 3), np.uint8)
    assert images.size > 2 << 20, "more than one piece"
    pixels = pixel_statistics(images)
    np.testing.assert_allclose(pixels.std, images.std((0, 1, 2), dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_images_read_lazily_are_those_read_at_once(generated: Path, name: str) -> None:
    whole, lazy = (load(name, str(generated), lazily=n).train for n in (False, True))
    images = lazy.images
    assert isinstance(images, StoredImages) and images.shape == whole.images.shape
    np.testing.assert_array_equal(lazy.labels, whole.labels)
    order = np.random.default_rng(0).permutation(8000)[:300]
    chosen = lazy.at(order)
    np.testing.assert_array_equal(chosen.labels, whole.labels[order])
    for rows in (7, slice(20, 45), (slice(0, 3), slice(None))):
        np.testing.assert_array_equal(chosen.images[rows], whole.images[order][rows])
    parts = [pixel_sums(images, process, 3) for process in range(3)]
    assert all(part.any() for part in parts)
    expected = pixel_statistics(whole.images)
    for statistic, value in zip(from_sums(sum(parts), images), expected, strict=True):
        np.testing.assert_allclose(statistic, value, rtol=1e-5)


def test_subsets_are_fixed_nested_and_in_order() -> None:
    train = digits().train
    small, large = subset(train, 100), subset(train, 300)
    assert len(small.labels) == 100 and len(large.images) == 300
    pairs = [
        [(image.tobytes(), int(label)) for image, label in zip(*split[:2], strict=True)]
        for split in (small, large, train)
    ]
    assert set(pairs[0]) < set(pairs[1]) < set(pairs[2])
    assert pairs[0] == [pair for pair in pairs[1] if pair in set(pairs[0])]
    assert set(np.unique(small.labels)) == set(range(10))
    np.testing.assert_array_equal(subset(train, len(train.labels)).images, train.images)


LABELS = np.array([0, 1, 2, 1])
ONES = np.ones((4, 2))


@pytest.mark.parametrize(
    ("dtype", "converted"),
    [("uint8", "uint8"), ("float64", "float32"), ("int16", "float32"), ("bool", "float32")],
)
def test_a_users_arrays_stay_uint8_or_become_float32(dtype: str, converted: str) -> None:
    inputs = np.arange(8).reshape(4, 2).astype(dtype)
    data = from_arrays((inputs, LABELS.astype(np.uint64)), (inputs, LABELS.tolist()))
    assert data.train.images.dtype == converted and data.train.labels.dtype == np.int32
    assert data.classes == 3
    np.testing.assert_array_equal(data.train.images, inputs)
    np.testing.assert_array_equal(data.test.labels, LABELS)


def test_lists_are_taken_for_arrays() -> None:
    data = from_arrays((ONES.tolist(), LABELS.tolist()), (ONES, LABELS), classes=7)
    np.testing.assert_array_equal(data.train.images, ONES)
    assert data.classes == 7


BAD_INPUTS = [
    (ONES[:, 0], "train inputs: real numbers [N, ..., C] are allowed, not float64 [4]"),
    (ONES[:0], "train inputs: real numbers [N, ..., C] are allowed"),
    (ONES[:, :0], "train inputs: real numbers [N, ..., C] are allowed"),
    (ONES * 1j, "train inputs: real numbers"),
    (ONES.astype(str), "train inputs: real numbers"),
    (ONES.astype(object), "train inputs: real numbers"),
    ([[1.0, 2.0], [3.0]], "train inputs: "),
    (ONES * np.nan, "train inputs: finite numbers below 1e+15 are allowed"),
    (ONES * 1e39, "train inputs: finite numbers below 1e+15 are allowed"),
    (np.ones((4, 3)), "test inputs must be float32 [3] like the training inputs, not float32 [2]"),
    (ONES.astype(np.uint8), "test inputs must be uint8 [2] like the training inputs, not float32"),
    (ONES[:3], "train labels: whole numbers [3] are allowed, not int64 [4]"),
]
BAD_LABELS = [
    (LABELS.astype(float), "train labels: whole numbers [4] are allowed, not float64"),
    (LABELS * np.nan, "train labels: whole numbers [4] are allowed, not float64"),
    (LABELS.astype(str), "label: texts or numbers in both splits are allowed, not <U21 in train"),
    (LABELS.astype(object), "train labels: whole numbers [4] are allowed"),
    (LABELS - 1, "test examples have the label 2 (1), which no training example has"),
]


@pytest.mark.parametrize(
    ("inputs", "labels", "text"),
    [(inputs, LABELS, text) for inputs, text in BAD_INPUTS]
    + [(ONES, labels, text) for labels, text in BAD_LABELS],
)
def test_a_users_arrays_that_cannot_be_used_are_named(
    inputs: object, labels: object, text: str
) -> None:
    with pytest.raises(ValueError) as error:
        from_arrays((inputs, labels), (ONES, LABELS))
    assert str(error.value).startswith(text) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["dot", "ann", "bob", "ann"]), ("ann", "bob", "dot")),
        (np.array(["dot", "ann", "bob", "ann"], object), ("ann", "bob", "dot")),
        (LABELS * 10**12 - 5, ("-5", "999999999995", "1999999999995")),
        ([True, False, True, True], ("False", "True")),
        (LABELS + 1, ("1", "2", "3")),
        (LABELS, ()),
    ],
)
def test_labels_of_any_kind_become_classes_with_names(
    labels: object, names: tuple[str, ...]
) -> None:
    data = from_arrays((ONES, labels), (ONES[:2], np.asarray(labels)[:2].tolist()))
    assert data.class_names == names and data.classes == (len(names) or 3)
    expected = np.unique(np.array(list(labels)), return_inverse=True)[1]  # type: ignore[call-overload]
    np.testing.assert_array_equal(data.train.labels, expected)
    np.testing.assert_array_equal(data.test.labels, expected[:2])


def test_labels_with_a_number_of_classes_are_their_numbers() -> None:
    data = from_arrays((ONES, LABELS * 3), (ONES, LABELS * 3), classes=9)
    assert data.classes == 9 and not data.class_names
    np.testing.assert_array_equal(data.train.labels, LABELS * 3)


def test_more_labels_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="train labels: 0 to 1 are allowed, not 2"):
        from_arrays((ONES, LABELS), (ONES, LABELS), classes=2)
