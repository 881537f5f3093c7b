"""What a run has reached, client by client, and its model in files for other programs."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rebuilt
from helpers import plain, slow

from jfedsl.config import Config
from jfedsl.data.datasets import DATASETS, Dataset, Split, load
from jfedsl.engine import client_accuracies
from jfedsl.engine.state import weights
from jfedsl.errors import UserError
from jfedsl.files.signed import signed
from jfedsl.models import layers
from jfedsl.models.cut import cut_index
from jfedsl.models.layers import Variables
from jfedsl.models.mlp import mlp
from jfedsl.models.registry import MODELS, ModelEntry
from jfedsl.nn.platform import platform
from jfedsl.run import evaluate, training
from jfedsl.run.evaluate import _expected, assess, table
from jfedsl.run.exporting import export_model
from jfedsl.run.load import _apply
from jfedsl.run.load import load as load_trained
from jfedsl.run.restore import Run, restore_run
from jfedsl.run.storage import export, metrics

RATES = (0.0, 0.6, 0.6, 0.3, 0.0)


def settings(workdir: Path, **changes: object) -> Config:
    common = {
        "clients": 5, "participants": 3, "rounds": 7, "local_steps": 4, "aggregate_every": 2,
        "partition": "dirichlet", "aggregation": "examples", "prune_kind": "mask",
        "prune_rate": RATES, "eval_every": 1, "workdir": str(workdir), "batch_size": 4,
    }  # fmt: skip
    return plain(**{**common, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Stopped in the middle of a period, clients pruned unequally."""
    workdir = tmp_path_factory.mktemp("results") / "run"
    training.train(settings(workdir))
    return restore_run(workdir)


def logits(arrays: dict[str, np.ndarray], manifest: dict) -> np.ndarray:
    """The exported model on the test images, by another program."""
    return rebuilt.logits(manifest, arrays, load("digits", "").test.images)


def counted(run: Run) -> np.ndarray:
    """Examples of each class with each client, where they lie."""
    data, rows = run.experiment.data, []
    for start, size in zip(*map(np.asarray, data.partition), strict=True):
        rows.append(np.bincount(np.asarray(data.labels)[start : start + size], minlength=10))
    return np.stack(rows)


def exported(run: Run, folder: Path) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
    files = export_model(run, assess(run), folder)
    assert {file.name for file in files} == {p.name for p in folder.iterdir()}
    archives = {f.name: dict(np.load(f)) for f in files if f.suffix == ".npz"}
    return json.loads((folder / "manifest.json").read_text()), archives


def test_another_program_gets_the_same_answers(run: Run, tmp_path: Path) -> None:
    manifest, archives = exported(run, tmp_path / "export")
    labels = load("digits", "").test.labels
    joined = archives["joined.npz"]
    correct = logits(joined, manifest).argmax(axis=1) == labels
    assert correct.mean() == pytest.approx(manifest["test_accuracy_dense"], abs=1e-6)
    halves = archives["client.npz"] | archives["server.npz"]
    assert halves.keys() == joined.keys()
    assert not archives["client.npz"].keys() & archives["server.npz"].keys()
    assert {name.split(".")[1] for name in archives["client.npz"]} == {"dense1"}
    for name, array in halves.items():
        np.testing.assert_array_equal(array, joined[name])
    for file, arrays in archives.items():
        listed = {n: tuple(a["shape"]) for n, a in manifest["files"][file]["arrays"].items()}
        assert listed == {n: a.shape for n, a in arrays.items()}


def client_correct(run: Run, folder: Path, client: int) -> np.ndarray:
    """Which test images the exported model of one client gets right."""
    manifest, archives = exported(run, folder)
    index = manifest["model_of_client"][client]
    arrays = dict(archives["joined.npz"])
    for name, masks in archives["client_masks.npz"].items():
        arrays[name] = arrays[name] * masks[index]
    return logits(arrays, manifest).argmax(axis=1) == load("digits", "").test.labels


def test_models_of_removed_channels_are_assessed_and_exported(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", prune_kind="channel", rounds=3)
    training.train(config)
    run = restore_run(tmp_path / "run")
    result = assess(run)
    manifest, archives = exported(run, tmp_path / "export")
    masks = archives["client_masks.npz"]
    assert set(masks) == {f"params.dense1.Dense_0.{name}" for name in ("kernel", "bias")}
    kept = masks["params.dense1.Dense_0.bias"].mean(axis=1)[manifest["model_of_client"]]
    assert kept.tolist() == [1, 0.5, 0.5, 0.75, 1]
    counts = counted(run)
    labels = load("digits", "").test.labels
    for client in (1, 3):
        correct = client_correct(run, tmp_path / "export", client)
        by_class = np.array([correct[labels == k].mean() for k in range(10)])
        expected = by_class @ counts[client] / counts[client].sum()
        assert result["clients"]["accuracy"][client] == pytest.approx(expected, abs=1e-6)
    last = metrics.read(tmp_path / "run" / "metrics.csv")[-1]
    assert result["test_accuracy"] == pytest.approx(last["test_accuracy"], rel=1e-6)
    assert result["test_accuracy"] != result["test_accuracy_dense"]


def test_a_client_is_assessed_with_its_own_masks_on_its_own_mix(run: Run, tmp_path: Path) -> None:
    result = assess(run)
    labels = load("digits", "").test.labels
    counts = counted(run)
    for client in range(5):
        correct = client_correct(run, tmp_path, client)
        by_class = np.array([correct[labels == k].mean() for k in range(10)])
        expected = by_class @ counts[client] / counts[client].sum()
        assert result["clients"]["accuracy"][client] == pytest.approx(expected, abs=1e-6)
    accuracies = np.array(result["clients"]["accuracy"])
    spread = {
        "mean": accuracies.mean(),
        "standard_deviation": accuracies.std(),
        "least": accuracies.min(),
        "greatest": accuracies.max(),
    }
    for name, value in spread.items():
        assert result["clients"][name] == pytest.approx(value)
    assert accuracies.std() > 0


def test_masks_remove_the_rate_of_each_client_and_participants_hold_them(
    run: Run, tmp_path: Path
) -> None:
    manifest, archives = exported(run, tmp_path)
    (masks,) = archives["client_masks.npz"].values()
    assert len(masks) == 3, "one for each distinct rate"
    removed = 1 - masks.reshape(3, -1).mean(axis=1)
    np.testing.assert_allclose(removed[manifest["model_of_client"]], RATES, atol=1 / masks[0].size)
    held = jax.tree.leaves(run.state.clients.masks)
    (held,) = [leaf for leaf in held if leaf.ndim == 3]
    for client, mask in zip(np.asarray(run.state.participants), held, strict=True):
        np.testing.assert_array_equal(masks[manifest["model_of_client"][client]], mask)


def test_accuracies_are_those_of_the_metrics(run: Run) -> None:
    result = assess(run)
    last = metrics.read(Path(run.config.workdir) / "metrics.csv")[-1]
    for name in ("round", "test_loss", "test_accuracy", "test_accuracy_dense"):
        assert result[name] == pytest.approx(last[name], rel=1e-6)
    text = table(result)
    worst = int(np.argmin(result["clients"]["accuracy"]))
    assert f"{result['clients']['least']:.4f} (client {worst})" in text


def test_programs_are_traced_for_the_devices_of_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be others than those of the process."""
    apply, platforms = layers.apply, []

    def recorded(*arguments: Any, **named: Any) -> Any:
        platforms.append(platform())
        return apply(*arguments, **named)

    monkeypatch.setattr(layers, "apply", recorded)
    experiment = run.experiment._replace(platform="gpu")
    result = assess(run._replace(experiment=experiment))
    assert len(platforms) > 2 and set(platforms) == {"gpu"}
    assert result == assess(run)


@pytest.mark.parametrize(
    "changes",
    [
        slow({"prune_kind": "none"}),
        {"prune_score": "random"},
        slow({"norm": "batch", "batch_norm_statistics": "local"}),
    ],
    ids=str,
)
def test_with_all_drawn_and_one_mix_the_mean_over_clients_is_the_accuracy(
    tmp_path: Path, changes: dict
) -> None:
    # On as many examples of each class a client's expected accuracy is that of the whole test set,
    # and test_accuracy is the equally weighted mean over clients.
    common: dict = {"rounds": 2, "participants": None, "aggregation": "equal", "partition": "iid"}
    if "prune_kind" in changes:
        common["prune_rate"] = (0.3,)
    training.train(settings(tmp_path / "run", **{**common, **changes}))
    run = restore_run(tmp_path / "run")
    spec, data, test = run.experiment.spec, run.experiment.data, run.experiment.test
    result = assess(run)
    first, model = client_accuracies.distinct_models(spec, run.state)
    assert sum(map(len, first)) == (1 if changes == {"prune_kind": "none"} else 5)
    rows = client_accuracies.class_accuracies(
        spec, data, run.experiment.key, run.state, test, first
    )
    examples = np.bincount(load("digits", "").test.labels)
    accuracies = np.asarray(rows) @ examples / examples.sum()
    assert accuracies[model].mean() == pytest.approx(result["test_accuracy"], abs=1e-6)
    export_model(run, result, tmp_path / "export")
    masks = tmp_path / "export" / "client_masks.npz"
    assert masks.exists() == (spec.pruner.names != ())


def test_where_statistics_stay_with_clients_the_export_has_them(tmp_path: Path) -> None:
    local = {"norm": "batch", "batch_norm_statistics": "local", "prune_kind": "none"}
    training.train(settings(tmp_path / "run", **local, prune_rate=(0.3,), rounds=2))
    run = restore_run(tmp_path / "run")
    manifest, archives = exported(run, tmp_path / "export")
    assert manifest["model_of_client"] == list(range(5))
    cut = run.experiment.spec.cut
    # After one period, clients that did not take part have their first statistics.
    held = jax.tree.map(
        lambda first, last: jnp.stack([first] * 5).at[run.state.participants].set(last),
        run.experiment.initial.stats[:cut], run.state.clients.stats,
    )  # fmt: skip
    held = export.named(run.experiment.spec.model[:cut], Variables(({},) * cut, held))
    assert archives["client_statistics.npz"].keys() == held.keys() != set()
    for name, array in archives["client_statistics.npz"].items():
        np.testing.assert_array_equal(array, held[name])
        share = np.asarray(
            weights(run.experiment.spec, run.experiment.data.partition, run.state.participants)
        )
        mean = np.tensordot(share, array[np.asarray(run.state.participants)], 1)
        np.testing.assert_allclose(archives["joined.npz"][name], mean, rtol=1e-5, atol=1e-7)


def test_names_of_layers_may_have_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dotted(classes: int, norm: str) -> layers.Model:
        flatten, *rest = mlp(classes, norm)
        return (flatten, *(layer._replace(name=f"block.{layer.name}") for layer in rest))

    monkeypatch.setitem(MODELS, "dotted", ModelEntry(dotted, "block.dense1"))
    training.train(settings(tmp_path / "run", model="dotted", rounds=1))
    _, archives = exported(restore_run(tmp_path / "run"), tmp_path / "export")
    halves = [
        {name.split(".")[2] for name in archives[f"{side}.npz"]} for side in ("client", "server")
    ]
    assert halves == [{"dense1"}, {"dense2", "logits"}]


@pytest.mark.parametrize(("tested", "measured"), [slow(0, 1), (9, 0)])
def test_clients_whose_classes_are_not_tested_have_no_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tested: int, measured: int
) -> None:
    # Two clients of two classes each, all different; one class is tested, or one nobody has.
    train, test = load("digits", "")[:2]
    seen, some = train.labels < 4, test.labels == tested
    data = Dataset(
        Split(train.images[seen], train.labels[seen]),
        Split(test.images[some], test.labels[some]),
        10,
    )
    monkeypatch.setitem(DATASETS, "few", lambda data_dir: data)
    pair = {"dataset": "few", "partition": "shards", "classes_per_client": 2, "clients": 2}
    changes = {"participants": None, "prune_rate": (0.3,), "rounds": 1}
    training.train(settings(tmp_path, **pair, **changes))
    with jax.debug_nans(True):  # also of a class without examples
        result = assess(restore_run(tmp_path))
    accuracies = [accuracy for accuracy in result["clients"]["accuracy"] if accuracy is not None]
    assert len(accuracies) == measured
    assert result["clients"]["mean"] == (accuracies[0] if accuracies else None)
    assert f"over {measured} of 2 clients" in table(result)
    json.dumps(result, allow_nan=False)


def test_classes_without_test_examples_are_left_out() -> None:
    accuracies = np.array([[0.5, np.nan, 1.0]] * 3)
    counts = np.array([[1, 5, 3], [0, 7, 0], [2, 0, 0]])
    np.testing.assert_allclose(_expected(accuracies, counts), [3.5 / 4, np.nan, 0.5])


def test_fine_tuning_from_an_export_equals_fine_tuning_from_the_run(
    run: Run, tmp_path: Path
) -> None:
    export_model(run, assess(run), tmp_path / "export")
    rows = []
    for name, origin in (("export", tmp_path / "export"), ("run", run.config.workdir)):
        config = settings(tmp_path / f"from {name}", init_from=str(origin), rounds=2, cut="dense2")
        training.train(config)
        rows.append(metrics.read(tmp_path / f"from {name}" / "metrics.csv"))
    for row in (*rows[0], *rows[1]):
        row.pop("host_seconds")
    assert rows[0] == rows[1]


def test_exports_that_do_not_fit_are_refused(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    export_model(run, assess(run), folder)
    with pytest.raises(UserError) as error:
        training.train(settings(tmp_path / "never", init_from=str(folder), norm="group"))
    assert f"--init_from must be a run or export of the same model, not {folder}; " in str(
        error.value
    )
    assert "params.dense1.Dense_0.bias is [256] there, missing here" in str(error.value)
    (folder / "joined.npz").write_bytes(b"")
    with pytest.raises(
        UserError, match="--init_from must be an intact export, .*joined.npz: damaged"
    ):
        training.train(settings(tmp_path / "never", init_from=str(folder)))
    assert not (tmp_path / "never").exists()


def test_a_run_and_its_export_answer_in_python(run: Run, tmp_path: Path) -> None:
    result, images = assess(run), load("digits", "").test.images
    export_model(run, result, tmp_path / "export")
    there, again, here = map(load_trained, [run.config.workdir] * 2 + [tmp_path / "export"])
    there.logits(images)
    programs = _apply._cache_size()
    again.logits(images)
    assert _apply._cache_size() == programs, "compiled once for runs of one architecture"
    for trained in (there, here):
        correct = trained.predict(images) == load("digits", "").test.labels
        assert correct.mean() == pytest.approx(result["test_accuracy_dense"], abs=1e-6)
    np.testing.assert_allclose(here.logits(images[:3]), there.logits(images[:3]), atol=1e-5)
    for wrong in (images[0], images[..., 0], [["a"]], 1.0):
        with pytest.raises(UserError, match=r"inputs must be numbers \[N, 8, 8, 1\], not"):
            here.predict(wrong)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": "mine"}, "of a model 'mine'; known are .*; plugin=FILE adds"),
        ({"model": ["mlp"]}, "not an export"),
        ({"norm": "group"}, "not an export of this model .params.dense1.Dense_0.bias is"),
        ({"input": 3}, "not an export"),
    ],
    ids=str,
)
def test_exports_that_say_something_else_are_not_loaded(
    run: Run, tmp_path: Path, change: dict, text: str
) -> None:
    export_model(run, {}, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(signed(manifest | change)))
    with pytest.raises(UserError, match=text):
        load_trained(tmp_path)
    with pytest.raises(UserError, match="of a run with a checkpoint or an export, not .*nowhere$"):
        load_trained(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--export_dir must be a writable folder, not .*file; "):
        export_model(run, assess(run), tmp_path / "file")


def test_a_run_that_may_only_be_read_is_evaluated_elsewhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, workdir, there = evaluate.write_atomically, tmp_path / "run", tmp_path / "export"

    def refused(path: Path, text: str) -> None:
        if path.parent == workdir:
            raise PermissionError(13, "Permission denied")
        write(path, text)

    monkeypatch.setattr(evaluate, "write_atomically", refused)
    monkeypatch.setattr(evaluate, "restore_run", lambda *_: run)
    result = evaluate.evaluate_run(workdir, there)
    assert json.loads((there / "evaluation.json").read_text()) == result
    assert (there / "joined.npz").exists() and not workdir.exists()


def test_halves_of_the_export_are_the_layers_of_the_model(run: Run, tmp_path: Path) -> None:
    manifest, _ = exported(run, tmp_path)
    model = run.experiment.spec.model
    names = [*manifest["client_layers"], *manifest["server_layers"]]
    assert names == [layer.name for layer in model]
    assert cut_index(model, manifest["cut"]) == len(manifest["client_layers"])
