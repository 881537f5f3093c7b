"""Builders of TensorFlow Datasets (TFDS) that decode with NumPy instead of TensorFlow.

Each builder takes name, version, addresses, checksums, features and order of examples from the
registered one, so that `tfds.data_source(name, data_dir=...)` reads the prepared set as if it were
the official one. Importing this module imports TFDS, which takes half a second; `preparation.py`
does so only when needed. TFDS has no types: mypy takes `skip_registration` for an argument of
`object`, hence the ignored errors.
"""

import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorflow_datasets.image_classification import cifar, mnist

Examples = Iterator[tuple[int, dict[str, Any]]]  # (number, fields) of each example


def _download(builder: Any, manager: Any) -> dict[str, Path]:
    """The raw files by their registered names; the manager checks their SHA-256."""
    return manager.download({info.filename: url for url, info in builder.url_infos.items()})


def _read_idx(path: Path) -> np.ndarray:
    """The uint8 array of a gzipped IDX file: rank in byte 3, then big-endian sizes, then data."""
    data = gzip.decompress(path.read_bytes())
    rank = data[3]
    shape = np.frombuffer(data, ">i4", count=rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _read_tar(path: Path, prefix: str) -> dict[str, bytes]:
    """Contents of the files in an archive whose names start with `prefix`, by the rest of it."""
    with tarfile.open(path) as archive:
        return {
            member.name.removeprefix(prefix): file.read()
            for member in archive
            if member.name.startswith(prefix) and (file := archive.extractfile(member))
        }


class _Mnist(mnist.MNIST, skip_registration=True):  # type: ignore[call-arg]
    """Pairs of gzipped IDX files, one of images and one of labels."""

    name = "mnist"
    url_infos = mnist.MNIST.url_infos

    def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
        files = _download(self, dl_manager)
        return {
            split: self._generate_examples(
                _read_idx(files[f"{prefix}-images-idx3-ubyte.gz"]),
                _read_idx(files[f"{prefix}-labels-idx1-ubyte.gz"]),
            )
            for split, prefix in (("train", "train"), ("test", "t10k"))
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Examples:
        # TFDS encodes arrays with TensorFlow, but Pillow's images with Pillow.
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": Image.fromarray(image), "label": label}


class _FashionMnist(_Mnist, mnist.FashionMNIST, skip_registration=True):  # type: ignore[call-arg]
    name = "fashion_mnist"
    url_infos = mnist.FashionMNIST.url_infos


class _Cifar10(cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg]
    """A tar archive of the names of labels, and of records: label bytes, then 3x32x32 pixels."""

    name = "cifar10"
    url_infos = cifar.Cifar10.url_infos

    def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
        (path,) = _download(self, dl_manager).values()
        info = self._cifar_info
        members = _read_tar(path, info.prefix)
        for key, file in zip(info.label_keys, info.label_files, strict=True):
            self.info.features[key].names = members[file].decode().split()
        return {
            split: self._generate_examples(f"{split}_", b"".join(members[f] for f in files))
            for split, files in (("train", info.train_files), ("test", info.test_files))
        }

    def _generate_examples(self, split_prefix: str, data: bytes) -> Examples:
        keys = self._cifar_info.label_keys
        records = np.frombuffer(data, np.uint8).reshape(-1, len(keys) + 3 * 32 * 32)
        for i, record in enumerate(records):
            image = record[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
            yield (
                i,
                {
                    **dict(zip(keys, record, strict=False)),
                    "id": f"{split_prefix}{i:05d}",
                    "image": Image.fromarray(np.ascontiguousarray(image)),
                },
            )


class _Cifar100(_Cifar10, cifar.Cifar100, skip_registration=True):  # type: ignore[call-arg]
    name = "cifar100"
    url_infos = cifar.Cifar100.url_infos


BUILDERS: dict[str, Any] = {
    builder.name: builder for builder in (_Mnist, _FashionMnist, _Cifar10, _Cifar100)
}
