"""Sets that TFDS prepared, by the names of TFDS."""

from pathlib import Path

import numpy as np
import pytest

from jfedsl.data import datasets
from jfedsl.data.arrays import ArrayError
from jfedsl.data.prepared import load


def test_a_prepared_set_is_read_with_the_names_of_its_classes(generated: Path) -> None:
    data, expected = load("cifar10", generated), datasets.load("cifar10", str(generated))
    for split, other in ((data.train, expected.train), (data.test, expected.test)):
        np.testing.assert_array_equal(split.images, other.images)
        np.testing.assert_array_equal(split.labels, other.labels)
    assert data.class_names == tuple(f"name_{n}" for n in range(10))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("flowers", "not prepared in .*; run: pip install tensorflow; tfds build flowers --data_d"),
        ("../x", "NAME or NAME/CONFIG is allowed"),
    ],
)
def test_a_set_that_is_not_there_has_the_command(generated: Path, name: str, text: str) -> None:
    with pytest.raises(ArrayError, match=text):
        load(name, generated)


def test_a_set_in_another_format_has_the_command(tmp_path: Path) -> None:
    (tmp_path / "plants" / "1.0.0").mkdir(parents=True)
    with pytest.raises(ArrayError, match="other formats need TensorFlow; run: .*=array_record"):
        load("plants", tmp_path)
