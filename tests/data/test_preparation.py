"""Preparation: the prepared set has the published examples, or one line says what is wrong."""

import functools
import gzip
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import image_sets
import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import slow
from PIL import Image

from jfedsl.data import datasets, preparation, published
from jfedsl.data.builders import BUILDERS
from jfedsl.data.preparation import IMAGE_SETS, prepare
from jfedsl.data.published import DEBIAN_FOLDER, restore_debian
from jfedsl.errors import UserError

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "experiments" / "prepare_data.py")
# Runs the script in a process in which generated files are registered.
ON_GENERATED_FILES = f"""
import runpy, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "tests")!r})
import image_sets
from jfedsl.data.builders import BUILDERS
name, raw, data_dir = sys.argv[1:]
BUILDERS[name].url_infos = image_sets.registered(name, Path(raw))
sys.argv = [{SCRIPT!r}, f"--dataset={{name}}", f"--manual_dir={{raw}}", f"--data_dir={{data_dir}}"]
runpy.run_path({SCRIPT!r}, run_name="__main__")
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def publish(monkeypatch: pytest.MonkeyPatch, name: str, raw: Path, address: str = "") -> Any:
    """Writes a small set into `raw` and registers it; returns its examples."""
    splits = image_sets.write(name, raw)
    monkeypatch.setattr(BUILDERS[name], "url_infos", image_sets.registered(name, raw, address))
    return splits


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch, raw: Path) -> Any:
    return publish(monkeypatch, "mnist", raw)


def examples(images: np.ndarray, labels: np.ndarray) -> Counter[tuple[bytes, int]]:
    """Pairs of image and label as a multiset."""
    pairs = zip(images, labels, strict=True)
    return Counter((image.tobytes(), int(label)) for image, label in pairs)


def check_same(data: datasets.Dataset, expected: Any) -> None:
    for name in ("train", "test"):
        assert examples(*getattr(data, name)[:2]) == examples(*expected[name])


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def preparation_error(*arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        prepare(*arguments)
    return one_line(error)


def loading_error(name: str, data_dir: Path) -> str:
    with pytest.raises(UserError) as error:
        datasets.load(name, str(data_dir))
    return one_line(error)


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_the_prepared_set_has_the_examples_of_the_raw_files(
    name: str, raw: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = publish(monkeypatch, name, raw)
    version = tfds.builder_cls(name).VERSION
    assert prepare(name, data_dir, raw) == data_dir / name / str(version)
    data = datasets.load(name, str(data_dir))
    assert data.train.images.dtype == np.uint8 and data.train.labels.dtype == np.int32
    assert data.classes == image_sets.CLASSES[name]
    assert data.train.images.shape == expected["train"].images.shape
    check_same(data, expected)


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_tfds_reads_the_prepared_set_as_the_registered_one(
    name: str, raw: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = publish(monkeypatch, name, raw)["test"]
    prepare(name, data_dir, raw)
    source = tfds.data_source(name, split="test", data_dir=data_dir)
    images, labels = zip(*((e["image"], e["label"]) for e in source), strict=True)
    assert examples(np.stack(images), np.array(labels)) == examples(*expected)
    features = source.dataset_info.features
    assert set(features) == set(tfds.builder_cls(name)(data_dir=raw).info.features)
    if "cifar" in name:
        assert features["label"].names[3] == "name_3"
        assert {e["id"] for e in source} == {b"test_%05d" % i for i in range(len(source))}
    if name == "cifar100":
        assert all(e["coarse_label"] == e["label"] // 5 for e in source)


def test_addresses_and_checksums_are_the_registered_ones() -> None:
    for name in IMAGE_SETS:
        assert BUILDERS[name].url_infos == tfds.builder_cls(name).url_infos
        assert tfds.builder_cls(name) is not BUILDERS[name]


def test_preparing_again_writes_nothing(mnist: Any, raw: Path, data_dir: Path) -> None:
    folder = prepare("mnist", data_dir, raw)
    times = [p.stat().st_mtime_ns for p in sorted(folder.iterdir())]
    assert prepare("mnist", data_dir, raw / "no longer needed") == folder
    assert [p.stat().st_mtime_ns for p in sorted(folder.iterdir())] == times


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [damage_cut, damage_flip])
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_damaged_raw_file_is_named(
    name: str, damage: Any, raw: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, name, raw)
    path = sorted(raw.iterdir())[0]
    damage(path)
    text = preparation_error(name, data_dir, raw)
    assert text.startswith(f"{path}: damaged") and "get it again from http" in text
    assert not data_dir.exists()


def test_a_missing_raw_file_is_named(mnist: Any, raw: Path, data_dir: Path) -> None:
    (raw / "train-labels-idx1-ubyte.gz").unlink()
    text = preparation_error("mnist", data_dir, raw)
    assert text.startswith(f"--manual_dir={raw} has no file train-labels-idx1-ubyte.gz (from")
    assert not data_dir.exists()


def test_the_error_for_a_wrong_manual_dir_names_a_missing_file(
    tmp_path: Path, data_dir: Path
) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        text = preparation_error("cifar100", data_dir, folder)
        assert text.startswith(f"--manual_dir={folder} has no file cifar-100-binary.tar.gz")
    assert not data_dir.exists()


def test_the_error_for_an_unknown_name_lists_the_names(data_dir: Path) -> None:
    names = "mnist, fashion_mnist, cifar10, cifar100, debian_packages"
    text = f"--dataset must be one of {names}, not svhn"
    assert preparation_error("svhn", data_dir) == text


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_preparation_leaves_nothing_and_the_next_one_succeeds(
    mnist: Any, raw: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    encoded, fromarray = 0, Image.fromarray

    def failing(array: np.ndarray) -> Image.Image:
        nonlocal encoded
        encoded += 1
        if encoded == 250:  # the training split is written, half of the test split is encoded
            raise error
        return fromarray(array)

    with monkeypatch.context() as context:
        context.setattr(Image, "fromarray", failing)
        with pytest.raises((UserError, KeyboardInterrupt)) as raised:
            prepare("mnist", data_dir, raw)
    if isinstance(error, OSError):
        assert "mnist/3.0.1: not prepared" in str(raised.value) and "No space" in str(raised.value)
    assert list((data_dir / "mnist").iterdir()) == []
    assert "not prepared" in loading_error("mnist", data_dir)
    prepare("mnist", data_dir, raw)
    check_same(datasets.load("mnist", str(data_dir)), mnist)


def test_a_second_preparation_waits_for_the_first(
    raw: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = publish(monkeypatch, "mnist", raw)
    with preparation._locked("mnist", data_dir):
        process = run_on_generated_files("mnist", raw, data_dir)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line == "mnist is being prepared by another process; waiting\n"
        assert process.poll() is None and not (data_dir / "mnist").exists()
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0 and error == "" and "mnist is prepared in" in out
    check_same(datasets.load("mnist", str(data_dir)), expected)


def test_two_preparations_at_once_make_one_set(raw: Path, data_dir: Path) -> None:
    expected = image_sets.write("mnist", raw)
    processes = [run_on_generated_files("mnist", raw, data_dir) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [p.name for p in (data_dir / "mnist").iterdir()] == ["3.0.1"]
    check_same(datasets.load("mnist", str(data_dir)), expected)


def run_on_generated_files(name: str, raw: Path, data_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ON_GENERATED_FILES, name, str(raw), str(data_dir)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, slow(signal.SIGINT)])
def test_a_killed_preparation_does_not_look_complete(
    number: signal.Signals, raw: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = image_sets.write("mnist", raw, train=12000)
    monkeypatch.setattr(BUILDERS["mnist"], "url_infos", image_sets.registered("mnist", raw))
    process = run_on_generated_files("mnist", raw, data_dir)
    while process.poll() is None and not list(data_dir.glob("mnist/*")):
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(process.pid, number)
    _, text = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert text == "error: interrupted; the same command starts again\n"
        assert list((data_dir / "mnist").iterdir()) == []
    else:
        assert process.returncode == -signal.SIGKILL
        assert [p.name.split(".")[0] for p in (data_dir / "mnist").iterdir()] == ["incomplete"]
    assert "not prepared" in loading_error("mnist", data_dir)
    prepare("mnist", data_dir, raw)
    assert [p.name for p in (data_dir / "mnist").iterdir()] == ["3.0.1"], "leftovers are gone"
    check_same(datasets.load("mnist", str(data_dir)), expected)


def test_a_full_disk_is_reported(mnist: Any, raw: Path, data_dir: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))\n"
    command = [sys.executable, "-c", limit + ON_GENERATED_FILES, "mnist", str(raw), str(data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "mnist/3.0.1: not prepared: " in done.stderr and "File too large" in done.stderr
    assert list((data_dir / "mnist").iterdir()) == []


def test_an_unprepared_set_names_the_command() -> None:
    with pytest.raises(UserError) as error:
        datasets.load("fashion_mnist", "no where")
    assert one_line(error) == (
        "--dataset=fashion_mnist: not prepared in no where; run: jfedsl prepare-data "
        "--dataset=fashion_mnist '--data_dir=no where'"
    )


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, Path.unlink])
@pytest.mark.parametrize("file", ["mnist-train.array_record-00000-of-00001", "dataset_info.json"])
def test_a_damaged_prepared_set_names_its_folder(
    mnist: Any, raw: Path, data_dir: Path, file: str, damage: Any
) -> None:
    folder = prepare("mnist", data_dir, raw)
    damage(folder / file)
    text = loading_error("mnist", data_dir)
    if file == "dataset_info.json" and damage is Path.unlink:
        assert "not prepared" in text
        assert f"{folder}: incomplete" in preparation_error("mnist", data_dir, raw)
    else:
        assert text.startswith(f"{folder}: damaged (")
        assert "delete this folder, then run: jfedsl prepare-data" in text


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(raw: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a local server that publishes the files in `raw`."""
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(SilentHandler, directory=str(raw))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def test_downloads_are_verified_kept_and_reused(
    raw: Path, data_dir: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = publish(monkeypatch, "mnist", raw, address)
    images, labels = (f"train-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    damage_flip(raw / images)
    text = preparation_error("mnist", data_dir)
    assert text.startswith(f"{address}/{images}: not downloaded: what came is damaged")
    assert "--manual_dir=FOLDER" in text
    downloads = data_dir / "downloads" / "mnist"
    assert not list(downloads.glob("incomplete*")) and not (downloads / images).exists()

    damage_flip(raw / images)  # undoes the damage
    (raw / labels).rename(raw / "moved")
    assert f"{labels}: not downloaded: HTTP Error 404" in preparation_error("mnist", data_dir)
    assert not (data_dir / "mnist").exists()

    (raw / "moved").rename(raw / labels)
    damage_cut(downloads / images)  # files of earlier downloads are verified too
    (downloads / "incomplete.killed").mkdir()
    prepare("mnist", data_dir)
    check_same(datasets.load("mnist", str(data_dir)), expected)
    assert {p.name for p in downloads.iterdir()} == {p.name for p in raw.iterdir()}


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_without_a_network_the_error_proposes_manual_dir(
    name: str, raw: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    publish(monkeypatch, name, raw, "http://localhost:1")  # no server there
    started = time.monotonic()
    text = preparation_error(name, data_dir)
    assert time.monotonic() - started < 5
    assert "not downloaded: " in text and "add --manual_dir=FOLDER" in text
    assert ("--debian" in text) == (name == "fashion_mnist")
    assert all(path.name in text for path in raw.iterdir())


def test_a_data_dir_that_cannot_be_made_is_named(tmp_path: Path, mnist: Any, raw: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        for manual_dir in (raw, None):
            text = preparation_error("mnist", folder, manual_dir)
            assert text.startswith(f"--data_dir must be a writable folder, not {folder}; ")


def test_the_script_says_where_the_set_is_and_how_to_train(
    mnist: Any, raw: Path, data_dir: Path
) -> None:
    process = run_on_generated_files("mnist", raw, data_dir)
    out, text = process.communicate(timeout=60)
    assert process.returncode == 0 and text == ""
    assert out.splitlines() == [
        f"mnist is prepared in {data_dir}/mnist/3.0.1",
        f"to train: python experiments/train.py --dataset=mnist --data_dir={data_dir}",
    ]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--dataset=mnist", "--manual_dir=no"], "--manual_dir=no has no file t10k-images-idx3"),
        slow([], "--dataset must be one of mnist, fashion_mnist, cifar10, cifar100"),
        slow(["--dataset=svhn"], "--dataset must be one of mnist"),
        slow(["--dataset=mnist", "--debian"], "--dataset must be fashion_mnist with"),
        slow(["mnist"], "unexpected argument 'mnist'"),
    ],
)
def test_a_mistake_on_the_command_line_prints_one_line(
    flags: list[str], text: str, tmp_path: Path
) -> None:
    command = [sys.executable, SCRIPT, *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {text}") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_debians_package_the_error_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist") as error:
        restore_debian(tmp_path, source=tmp_path / "nowhere")
    assert one_line(error).startswith(str(tmp_path / "nowhere"))


debian = pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)


@debian
def test_files_restored_from_debian_have_the_registered_checksums(tmp_path: Path) -> None:
    restore_debian(tmp_path)
    for file in published.raw_files("fashion_mnist"):
        original = (DEBIAN_FOLDER / file.name).read_bytes()
        assert gzip.decompress((tmp_path / file.name).read_bytes()) == gzip.decompress(original)
        info = tfds.builder_cls("fashion_mnist").url_infos[file.url]
        restored = tfds.core.download.checksums.compute_url_info(tmp_path / file.name)
        assert restored == info, "size and SHA-256"


@debian
def test_a_damaged_file_of_debian_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in DEBIAN_FOLDER.iterdir():
        (source / path.name).symlink_to(path)
    damaged = source / "train-labels-idx1-ubyte.gz"
    data = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(data[:-1])
    with pytest.raises(UserError) as error:
        restore_debian(tmp_path, source)
    assert one_line(error).startswith(f"{damaged}: damaged") and "--reinstall" in str(error.value)


@debian
def test_a_full_disk_while_restoring_is_reported(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))\n"
    script = f"{limit}import runpy, sys\nrunpy.run_path({SCRIPT!r}, run_name='__main__')"
    flags = ["--dataset=fashion_mnist", "--debian", f"--data_dir={tmp_path / 'data'}"]
    command = [sys.executable, "-c", script, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "-ubyte.gz: not written: " in done.stderr and "File too large" in done.stderr
    assert not (tmp_path / "data").exists()


def debian_split(prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, read by the description of the IDX format."""
    with gzip.open(DEBIAN_FOLDER / f"{prefix}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read()[16:], np.uint8).reshape(-1, 28, 28, 1)
    with gzip.open(DEBIAN_FOLDER / f"{prefix}-labels-idx1-ubyte.gz") as file:
        return images, np.frombuffer(file.read()[8:], np.uint8)


@pytest.mark.slow
@debian
def test_real_fashion_mnist_is_prepared_whole(data_dir: Path) -> None:
    command = [sys.executable, SCRIPT, "--dataset=fashion_mnist", "--debian"]
    subprocess.run([*command, f"--data_dir={data_dir}"], check=True, timeout=300)
    data = datasets.load("fashion_mnist", str(data_dir))
    assert data.train.images.shape == (60000, 28, 28, 1)
    assert data.test.images.shape == (10000, 28, 28, 1)
    assert data.classes == 10
    check_same(data, {"train": debian_split("train"), "test": debian_split("t10k")})
