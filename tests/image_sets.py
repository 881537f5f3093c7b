"""Small image sets in the published formats, written and registered under the published names."""

import gzip
import hashlib
import io
import struct
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.utils import Size

from jfedsl.data.builders import BUILDERS

PREFIXES = {"train": "train", "test": "t10k"}
CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100}


class Examples(NamedTuple):
    images: np.ndarray
    labels: np.ndarray


def random_examples(name: str, count: int, seed: int) -> Examples:
    """Noise images; all classes occur if `count` is at least 100."""
    draw = np.random.default_rng(seed)
    shape = (28, 28, 1) if "mnist" in name else (32, 32, 3)
    images = draw.integers(0, 256, (count, *shape), np.uint8)
    return Examples(images, draw.permutation(count) % CLASSES[name])


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), 1)


def write_mnist(folder: Path, splits: dict[str, Examples]) -> None:
    for split, (images, labels) in splits.items():
        prefix = folder / PREFIXES[split]
        Path(f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(images[..., 0]))
        Path(f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(labels))


def cifar_records(name: str, examples: Examples) -> bytes:
    labels = examples.labels[:, None]
    if name == "cifar100":
        labels = np.hstack([labels // 5, labels])  # the coarse label comes first
    pixels = examples.images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    return np.hstack([labels, pixels]).astype(np.uint8).tobytes()


def names_of(count: int) -> bytes:
    return "".join(f"name_{i}\n" for i in range(count)).encode() + b"\n"


def write_cifar(folder: Path, name: str, splits: dict[str, Examples]) -> None:
    train, test = (cifar_records(name, splits[s]) for s in ("train", "test"))
    if name == "cifar10":
        fifth = 3073 * (len(splits["train"].labels) // 5)
        files = {f"data_batch_{i + 1}.bin": train[i * fifth :][:fifth] for i in range(4)}
        files |= {"data_batch_5.bin": train[4 * fifth :], "test_batch.bin": test}
        files |= {"batches.meta.txt": names_of(10), "readme.html": b"not a picture"}
        prefix, archive = "cifar-10-batches-bin/", "cifar-10-binary.tar.gz"
    else:
        files = {"train.bin": train, "test.bin": test}
        files |= {"coarse_label_names.txt": names_of(20), "fine_label_names.txt": names_of(100)}
        prefix, archive = "cifar-100-binary/", "cifar-100-binary.tar.gz"
    with tarfile.open(folder / archive, "w:gz", compresslevel=1) as tar:
        for member, data in files.items():
            info = tarfile.TarInfo(prefix + member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write(name: str, folder: Path, train: int = 200, test: int = 100) -> dict[str, Examples]:
    """Writes a set's raw files into `folder` and returns what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": random_examples(name, train, 0), "test": random_examples(name, test, 1)}
    if "mnist" in name:
        write_mnist(folder, splits)
    else:
        write_cifar(folder, name, splits)
    return splits


def registered(name: str, folder: Path, address: str = "") -> dict[str, UrlInfo]:
    """The registration of the files in `folder`, as if they were published at `address`."""
    infos = {}
    for url, info in BUILDERS[name].url_infos.items():
        data = (folder / info.filename).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        infos[f"{address}/{info.filename}" if address else url] = UrlInfo(
            Size(len(data)), sha256, info.filename
        )
    return infos
