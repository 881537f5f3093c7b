"""What `jfedsl doctor` finds, and what it calls wrong."""

import importlib.metadata
from pathlib import Path

import jax
import pytest
from helpers import given

from jfedsl.commands import checks, doctor
from jfedsl.commands.checks import Finding
from jfedsl.data.preparation import prepared_folder


def test_numbers_are_right_and_wrong_ones_are_found() -> None:
    for about, check in checks.NUMBERS.items():
        assert checks.numbers(about, check).fine, about
    assert not checks.numbers("off", lambda: 0.02).fine
    assert not checks.numbers("off", lambda: float("nan")).fine

    def fail() -> float:
        raise jax.errors.JaxRuntimeError("no such\ndevice")

    assert checks.numbers("off", fail) == ("off", "JaxRuntimeError: no such device", False)


def test_a_wrong_convolution_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = checks.conv_general_dilated
    monkeypatch.setattr(
        checks, "conv_general_dilated", lambda x, *rest, **more: right(x * 1.01, *rest, **more)
    )
    assert not checks.numbers("convolution", checks.convolution_error).fine


def test_a_version_that_the_package_excludes_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = ["jax!=0.10.2,>=0.10.1", "optax>=0.2", 'jax[cuda13]; extra == "cuda"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: requires)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.10.2")
    findings = {finding.about: finding for finding in checks.versions()}
    assert findings["optax"].fine and findings["flax"].fine
    assert (
        findings["jax"].text == "0.10.2; jfedsl needs !=0.10.2,>=0.10.1"
        and not findings["jax"].fine
    )


def test_prepared_and_broken_sets_and_programs_are_counted(tmp_path: Path) -> None:
    prepared = prepared_folder("mnist", tmp_path)
    prepared.mkdir(parents=True)
    for name in ("dataset_info.json", "mnist-train.array_record-00000-of-00001"):
        (prepared / name).touch()
    prepared_folder("cifar10", tmp_path).mkdir(parents=True)
    findings = {finding.about: finding for finding in checks.data_sets(str(tmp_path))}
    assert findings["mnist"].text == f"prepared in {prepared}"
    assert not findings["cifar10"].fine and "delete this folder" in findings["cifar10"].text
    assert findings["fashion_mnist"].fine and "not prepared" in findings["fashion_mnist"].text
    (tmp_path / "a-cache").write_bytes(bytes(3 * 2**20))
    assert checks.programs(str(tmp_path)).text == f"1 in {tmp_path}, 3 MiB"


@pytest.mark.parametrize("fine", [True, False])
def test_the_exit_status_tells_whether_something_is_wrong(
    fine: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [Finding("jax", "1.0"), Finding("numbers", "some", fine)]
    monkeypatch.setattr(doctor, "everything", lambda *_: iter(findings))
    if fine:
        doctor.main(given(doctor))
    else:
        with pytest.raises(SystemExit, match="1"):
            doctor.main(given(doctor))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "jax", "1.0"]
    assert lines[1].split() == ["ok" if fine else "WRONG", "numbers", "some"]
