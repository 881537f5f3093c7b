"""Augmentation: every image becomes a shifted, maybe flipped copy, with uniform draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import setup

from jfedsl.data.augment import PADDING, crop_flip
from jfedsl.keys import Purpose, fold

SHIFTS = range(2 * PADDING + 1)


def versions(image: np.ndarray) -> dict[bytes, tuple[int, int, bool]]:
    """All augmented versions of an image, by hand, with their (dy, dx, flipped)."""
    height, width, _ = image.shape
    padded = np.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    draws = {}
    for dy in SHIFTS:
        for dx in SHIFTS:
            crop = padded[dy : dy + height, dx : dx + width]
            draws[crop.tobytes()] = (dy, dx, False)
            draws[crop[:, ::-1].tobytes()] = (dy, dx, True)
    return draws


def drawn(images: np.ndarray, key: jax.Array) -> list[tuple[int, int, bool]]:
    """(dy, dx, flipped) of every image."""
    augmented = np.asarray(crop_flip(key, jnp.asarray(images)))
    assert augmented.dtype == images.dtype and augmented.shape == images.shape
    pairs = zip(images, augmented, strict=True)
    return [versions(image)[result.tobytes()] for image, result in pairs]


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 6, 3)])
def test_every_image_becomes_a_crop_of_its_padded_version(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(1, 256, (20, *shape), np.uint8)
    assert len(set(drawn(images, jax.random.key(1)))) > 10


def test_shifts_and_flips_are_uniform() -> None:
    image = np.random.default_rng(0).integers(1, 256, (1, 6, 5, 1), np.uint8)
    count = 3000
    rows = np.array(drawn(np.repeat(image, count, axis=0), jax.random.key(2)))
    for column, choices in ((0, len(SHIFTS)), (1, len(SHIFTS)), (2, 2)):
        frequencies = np.bincount(rows[:, column].astype(int), minlength=choices) / count
        # Five standard deviations of a frequency.
        np.testing.assert_allclose(frequencies, 1 / choices, atol=5 * np.sqrt(0.25 / count))
    assert abs(np.corrcoef(rows.astype(float).T) - np.eye(3)).max() < 5 / np.sqrt(count)


def test_in_training_the_key_is_that_of_client_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    def spy(key: jax.Array, images: jax.Array) -> jax.Array:
        jax.debug.callback(lambda data: keys.append(tuple(data)), jax.random.key_data(key))
        return crop_flip(key, images)

    monkeypatch.setattr("jfedsl.run.assemble.spec.AUGMENTATIONS", {"none": None, "crop_flip": spy})
    experiment, state, run = setup(augment="crop_flip", clients=3, local_steps=2)
    for _ in range(2):
        state, _ = run(state)
    jax.effects_barrier()
    base = fold(experiment.key, Purpose.AUGMENTATION)
    expected = {
        tuple(np.asarray(jax.random.key_data(fold(base, n, d)))) for n in range(3) for d in range(4)
    }
    assert len(expected) == 12 and {tuple(map(int, key)) for key in keys} == expected


def test_training_with_augmentation_differs_and_evaluation_does_not_augment() -> None:
    losses = []
    for augment in ("none", "crop_flip"):
        experiment, state, run = setup(augment=augment)
        before = experiment.evaluate()(experiment.data, state, experiment.test)
        _, record = run(state)
        losses.append((float(record.train_loss), float(before.loss)))
    assert losses[0][0] != losses[1][0] and losses[0][1] == losses[1][1]
