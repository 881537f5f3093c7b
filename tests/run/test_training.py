"""Whole runs in a workdir: what they leave, how they resume, what they refuse."""

import csv
import dataclasses
import json
import logging
import shutil
import signal
import warnings
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from helpers import assert_equal, plain, slow

from jfedsl.config import Config
from jfedsl.data.datasets import DATASETS, Split, from_arrays, load
from jfedsl.errors import Stopped, TrainingError, UserError
from jfedsl.models.layers import from_function, from_linen
from jfedsl.models.mlp import mlp
from jfedsl.models.registry import MODELS, ModelEntry
from jfedsl.run import confusion, restore, standard_hooks, summary
from jfedsl.run.assemble import build
from jfedsl.run.finished import already_done
from jfedsl.run.finished import finished as summary_of
from jfedsl.run.hooks import Hook
from jfedsl.run.progress import Progress
from jfedsl.run.restore import restore_run, weights_of
from jfedsl.run.scores import scores_of
from jfedsl.run.storage.checkpoint import Checkpoints
from jfedsl.run.storage.workdir import read_config, read_summary
from jfedsl.run.training import train, train_setting

SMALL = {
    "clients": 4,
    "participants": 3,
    "rounds": 10,
    "local_steps": 2,
    "aggregate_every": 2,
    "eval_every": 2,
    "checkpoint_every": 3,
    "momentum": 0.9,
    "prune_kind": "mask",
    "prune_rate": (0.3,),
    "prune_score": "taylor",
    "prune_ramp_rounds": 4,
    "dropout_rate": 0.2,
    "cut_gradient_bits": 8,
    "client_gradient_bits": 8,
    "model_bits": 8,
    "network": "macro_cell",
}

DENSE = {"prune_kind": "none", "prune_score": "magnitude", "prune_ramp_rounds": 0}


def small(workdir, **changes) -> Config:
    return plain(**{**SMALL, "workdir": str(workdir), **changes})


def quick(workdir, **changes) -> Config:
    """As many rounds without network, pruning and compressors, whose programs are smaller."""
    kept = ("rounds", "local_steps", "aggregate_every", "eval_every", "checkpoint_every")
    return plain(**{name: SMALL[name] for name in kept} | {"workdir": str(workdir)} | changes)


def metrics(workdir, drop=("host_seconds",)):
    with open(workdir / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in drop} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    with jax.debug_nans(True):  # none is made on purpose
        return workdir, train(small(workdir))


def test_what_a_run_leaves(finished):
    workdir, summary = finished
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        "config.json", "metrics.csv", "summary.json", "curves.png", "traffic.png", "labels.png",
        "masks.png", "timeline.png", "checkpoints", "tensorboard", ".lock",
        ".metrics.csv.seal", ".config.json.seal", "fingerprint.json",
    }  # fmt: skip
    assert Config.from_json((workdir / "config.json").read_text()) == small(workdir)
    rows = metrics(workdir)
    assert [int(row["round"]) for row in rows] == list(range(1, 11))
    evaluated = [int(row["round"]) for row in rows if row["test_accuracy"]]
    assert evaluated == [2, 4, 6, 8, 10]
    streams = ("smashed_up", "cut_gradient_down", "model_up", "model_down")
    total = 0
    for row in rows:
        total += sum(int(row[f"{stream}_bytes"]) for stream in streams)
        assert int(row["cumulative_bytes"]) == total
    assert sum(summary["bytes"].values()) == total
    written = read_summary(workdir)
    assert written == {k: v for k, v in summary.items() if k != "workdir"}
    assert written["final_accuracy"] == float(rows[-1]["test_accuracy"])
    assert written["environment"]["jax"] == jax.__version__
    for name in ("curves", "traffic", "labels", "masks"):
        assert (workdir / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_pruned_fraction_follows_the_ramp(finished):
    fractions = [float(row["pruned_fraction"]) for row in metrics(finished[0])]
    # Masks are drawn at rounds 0, 2, 4, ...: 0, 0.3 * (1 - 1/8), 0.3, ...
    expected = np.repeat([0.0, 0.2625, 0.3, 0.3, 0.3], 2)
    np.testing.assert_allclose(fractions, expected, atol=1 / (64 * 256))


def test_masks_that_move_show_in_their_overlap_at_the_end_of_periods(finished):
    rows = metrics(finished[0])
    assert [bool(row["mask_overlap"]) for row in rows] == [False, True] * 5
    overlaps = [float(row["mask_overlap"]) for row in rows[1::2]]
    assert max(overlaps) <= 1 and min(overlaps) < 1
    for row in rows:  # of the only layer that clients have
        assert float(row["kept_dense1"]) == pytest.approx(1 - float(row["pruned_fraction"]))


class Interrupt(Hook):
    """Ends a run as a kill would once the rows of a round are written."""

    def __init__(self, round_):
        self.round = round_

    def on_rows(self, rows):
        if rows[-1]["round"] >= self.round:
            raise KeyboardInterrupt


def interrupt_and_resume(config, stop):
    """Runs until a round, is interrupted, and goes on."""
    with pytest.raises(KeyboardInterrupt):
        train(config, [Interrupt(stop)])
    assert len(metrics(Path(config.workdir))) >= stop
    train(config)


@pytest.mark.parametrize("stop", [3, slow(4)])
def test_an_interrupted_run_continues_to_the_same_bits(finished, tmp_path, stop):
    workdir = tmp_path / "interrupted"
    interrupt_and_resume(small(workdir), stop)
    assert metrics(workdir) == metrics(finished[0])
    assert_equal(restore_run(workdir).state, restore_run(finished[0]).state)


MOVING = {"prune_kind": "channel", "prune_rate": (0.5, 0.25, 0.5, 0.5), "prune_score": "random"}


@pytest.mark.slow
def test_a_run_with_moving_channels_continues_to_the_same_bits(tmp_path):
    straight, stopped = (small(tmp_path / name, **MOVING) for name in ("straight", "stopped"))
    train(straight)
    interrupt_and_resume(stopped, 4)
    rows = metrics(tmp_path / "straight")
    assert metrics(tmp_path / "stopped") == rows
    assert_equal(*(restore_run(Path(c.workdir)).state for c in (straight, stopped)))
    # Client 1 and two others; the ramp is on the last rungs from its middle on.
    kept = [float(row["kept_dense1"]) for row in rows]
    np.testing.assert_allclose(kept, [1] * 2 + [1.75 / 3] * 8, rtol=1e-6)


@pytest.mark.slow
def test_rates_become_rungs_and_the_log_says_so(tmp_path, capsys):
    changes = {**MOVING, "prune_rate": (0.45,), "prune_ramp_rounds": 0, "rounds": 1}
    train(small(tmp_path / "rungs", **changes, progress="lines"))
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "4 clients, 3 of them in a period, on 1 cpu device"
    assert printed[2] == "pruning rate 0.45: 4 clients keep 0.5 of the channels"
    flops = json.loads((tmp_path / "rungs" / "summary.json").read_text())["client_flops"]
    dense = 2 * 2 * 64 * 256
    assert flops == {"dense": dense, "pruned": dense / 2}


def test_capacity_gives_the_widest_model_that_a_client_can_keep_up_with(tmp_path):
    changes = {**MOVING, "prune_policy": "by_resource", "client_capacity": "1,0.5,0.6,0.1"}
    experiment = build(small(tmp_path, **changes))
    assert experiment.notes[1:] == [
        "client_capacity: 1 below 0.25 get the narrowest rung all the same",
        "pruning rate 0: 1 client keeps 1 of the channels",
        "pruning rate 0.5: 2 clients keep 0.5 of the channels",
        "pruning rate 0.75: 1 client keeps 0.25 of the channels",
    ]
    assert [g.tolist() for g in experiment.spec.pruner.groups] == [[0], [1, 2], [3]]
    assert experiment.client_flops.pruned == 2 * 2 * 64 * 256 * (1 + 0.5 + 0.5 + 0.25) / 4
    masked = {**changes, "prune_kind": "mask", "prune_score": "magnitude", "prune_ramp_rounds": 0}
    clients = build(small(tmp_path, **masked, participants=None)).init().clients
    assert clients.number.tolist() == [0, 1, 2, 3]
    masks = clients.masks[1]["Dense_0"]["kernel"]
    np.testing.assert_allclose(masks.mean((1, 2)), [1, 0.5, 0.6, 0.1], atol=1e-4)


def test_a_finished_run_says_what_it_said_without_building_anything(finished, monkeypatch):
    monkeypatch.setattr(restore, "build", None)
    monkeypatch.setattr(jax, "devices", None)
    before = tree_of(finished[0])
    assert train(small(finished[0])) == finished[1]
    assert tree_of(finished[0]) == before


def test_a_finished_run_that_lacks_something_is_not_done(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    assert already_done(small(workdir)) == {**finished[1], "workdir": str(workdir)}
    for changes in ({"rounds": 12}, {"target_accuracy": 0.5}, {"eval_every": 5}, {"seed": 1}):
        assert already_done(small(workdir, **changes)) is None
    pictures = {path.name for path in workdir.glob("*.png")}
    for name in pictures | {"metrics.csv", "summary.json"}:
        kept = (workdir / name).read_bytes()
        (workdir / name).unlink()
        assert already_done(small(workdir)) is None, name
        (workdir / name).write_bytes(kept)
    assert already_done(small(workdir)) is not None


def test_more_rounds_continue_and_fewer_are_refused(finished, tmp_path, capsys):
    workdir = tmp_path / "longer"
    shutil.copytree(finished[0], workdir)
    train(small(workdir, rounds=12, progress="lines"))
    assert "resuming after round 10 of 12\n" in capsys.readouterr().out
    assert metrics(workdir)[:10] == metrics(finished[0])
    assert len(metrics(workdir)) == 12
    config = (workdir / "config.json").read_text()
    with pytest.raises(UserError, match="--rounds must be at least the 12"):
        train(small(workdir, rounds=5))
    assert (workdir / "config.json").read_text() == config


def tree_of(path):
    """Every file below a folder with its bytes."""
    return {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_another_config_is_refused_and_nothing_touched(finished):
    before = tree_of(finished[0])
    with pytest.raises(UserError) as error:
        train(small(finished[0], clients=5, dropout_rate=0.1))
    assert "clients (4 -> 5), dropout_rate (0.2 -> 0.1)" in str(error.value)
    assert tree_of(finished[0]) == before


def test_a_folder_that_is_no_run_is_refused_and_nothing_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(UserError, match="a new or empty folder"):
        train(small(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def damage_newest(workdir, how):
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    newest = workdir / "checkpoints" / str(steps[-1])
    largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    if how == "truncated":
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    elif how == "flipped":
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 0xFF
        largest.write_bytes(bytes(data))
    return steps


# Orbax leaves coroutines behind when reading fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["truncated", slow("flipped")])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished, tmp_path, how):
    workdir = tmp_path / "damaged"
    shutil.copytree(finished[0], workdir)
    (workdir / "summary.json").unlink()  # else there is nothing to go on with
    steps = damage_newest(workdir, how)
    with pytest.warns(UserWarning, match=f"checkpoints/{steps[-1]} is damaged.*round {steps[-2]}"):
        train(small(workdir))
    assert metrics(workdir) == metrics(finished[0])
    assert (workdir / "checkpoints-damaged" / str(steps[-1])).is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(small(workdir))


def test_side_files_that_are_damaged_or_gone_are_put_back_from_the_checkpoint(finished, tmp_path):
    workdir = tmp_path / "damaged"
    shutil.copytree(finished[0], workdir)
    for picture in ("timeline.png", "labels.png"):  # as after a kill before pictures
        (workdir / picture).unlink()
    (workdir / "config.json").write_bytes(b"\xff{}")
    (workdir / "summary.json").write_text('{"rounds": 10')
    rows = (workdir / "metrics.csv").read_text()
    (workdir / "metrics.csv").write_text(rows.replace("\n4,", "\n4,9"))
    with pytest.warns() as told:
        assert summary_of(small(workdir)) is None
        train(small(workdir))
    names = {"config.json is damaged, changed or gone", "metrics.csv was damaged or changed"}
    assert names <= {n for n in names for one in told if n in str(one.message)}
    assert metrics(workdir) == metrics(finished[0])
    assert (workdir / "timeline.png").is_file() and (workdir / "labels.png").is_file()
    assert read_config(workdir) == small(workdir)
    assert read_summary(workdir) == read_summary(finished[0])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_empty_folder_left_by_a_kill_is_no_checkpoint(finished, tmp_path):
    workdir = tmp_path / "killed"
    shutil.copytree(finished[0], workdir)
    for step in (workdir / "checkpoints").iterdir():
        shutil.rmtree(step)
        step.mkdir()
    train(small(workdir))
    assert metrics(workdir) == metrics(finished[0])


def test_only_damaged_checkpoints_fail_with_their_path(finished, tmp_path):
    workdir = tmp_path / "damaged"
    shutil.copytree(finished[0], workdir)
    for step in (workdir / "checkpoints").iterdir():
        shutil.rmtree(step / "state")
    (workdir / "summary.json").unlink()
    before = tree_of(workdir)
    with pytest.raises(
        UserError, match="no whole checkpoint is left; .*/checkpoints/10 is damaged"
    ):
        train(small(workdir))
    assert tree_of(workdir) == before


def test_leftovers_of_a_killed_save_do_no_harm(finished, tmp_path):
    workdir = tmp_path / "killed"
    shutil.copytree(finished[0], workdir)
    (workdir / "checkpoints" / "11.orbax-checkpoint-tmp").mkdir()
    (workdir / "summary.json").unlink()
    with open(workdir / "metrics.csv", "a") as file:
        last = Path(workdir, "metrics.csv").read_text().splitlines()[-1]
        file.write(f"11{last.removeprefix('10')}\n12,0.25,0.")
    train(small(workdir))
    assert metrics(workdir) == metrics(finished[0])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    workdir = tmp_path / "diverged"
    changes = {"server_learning_rate": 1e9, "client_learning_rate": 1e9, **DENSE}
    with pytest.raises(TrainingError, match=r"round \d+: the loss of client \d+ is not finite"):
        train(small(workdir, **changes, checkpoint_every=1))
    for path in (workdir / "checkpoints").iterdir():
        assert path.name.isdigit()
    rows = metrics(workdir)
    assert all(np.isfinite(float(row["train_loss"])) for row in rows)


class Poison(Hook):
    """Makes the server's weights NaN before the first call."""

    def before_call(self, round_, state):
        params = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.server.params)
        return state.replace(server=state.server.replace(params=params))


def test_a_late_blow_up_keeps_the_checkpoint_before_it(finished, tmp_path):
    workdir = tmp_path / "late"
    shutil.copytree(finished[0], workdir)
    with pytest.raises(TrainingError) as error:
        train(small(workdir, rounds=12), [Poison()])
    message = str(error.value)
    assert "round 11: the loss of client" in message and "checkpoint is of round 10" in message
    assert restore_run(workdir).state.round == 10


def test_two_runs_in_one_workdir_at_once_are_refused(tmp_path):
    from jfedsl.run.storage import workdir

    config = small(tmp_path / "shared")
    with workdir.hold(config), pytest.raises(UserError, match="no other run is using"):
        train(config)


CANNOT_WORK = [
    ({"cut": "conv9"}, "--cut must be one of flatten, dense1, dense2, or a number"),
    ({"cut": "0"}, "--cut must be"),
    ({"cut": "4"}, "or a number from 1 to 3"),
    ({"cut": "logits"}, "--cut must be"),
    ({"clients": 2000, "participants": None}, "--clients must be at most 1"),
    ({"partition": "dirichlet", "dirichlet_alpha": 1e-3, "clients": 50}, "without examples: "),
    ({"batch_size": 500}, "--batch_size must be at most 359 (the examples of client"),
    ({"partition": "shards", "classes_per_client": 11}, "--classes_per_client must be"),
    (
        {"bucket_size": 1, "sampling": "replacement", "batch_size": 1_000_000},
        "--bucket_size=1 makes messages too large",
    ),
    (
        {"sampling": "replacement", "batch_size": 10_000_000},
        "makes messages too large: one of smashed might take ",
    ),
    (
        {
            "cut_gradient": "uniform(8,1)",
            "cut_gradient_bits": None,
            "sampling": "replacement",
            "batch_size": 1_000_000,
        },
        "--cut_gradient=uniform(8,1) makes messages too large",
    ),
    ({"init_from": "/nonexistent"}, "--init_from must be the workdir of a run"),
    ({"train_examples": 1438}, "--train_examples must be at most the 1437 examples of"),
    ({"test_examples": 361}, "--test_examples must be at most the 360 examples of digits"),
    ({"train_examples": 20}, "--batch_size must be at most"),
    (
        {"prune_kind": "channel", "prune_ladder": (0.5, 0.001)},
        "--prune_ladder must be fractions that leave every layer a channel, not 0.5,0.001; 0.001 "
        "leaves none of the 256 of dense1",
    ),
    (
        {"prune_kind": "channel", "prune_rate": (0.0, 0.25, 0.5, 0.75)},
        "--participants must be at least 4 (one for each width that clients have), not 3",
    ),
]


@pytest.mark.parametrize(("change", "text"), CANNOT_WORK)
def test_what_cannot_work_is_refused_before_any_folder_is_made(tmp_path, change, text):
    workdir = tmp_path / "never"
    with pytest.raises(UserError) as error:
        train(small(workdir, **change))
    assert text in str(error.value) and "\n" not in str(error.value)
    assert not workdir.exists()


def test_a_fixed_part_of_the_data_whatever_the_seed(tmp_path):
    few = {"train_examples": 200, "test_examples": 50}
    first, other = (build(small(tmp_path, **few, seed=seed)) for seed in (0, 1))
    assert first.data.images.shape == (200, 8, 8, 1) and first.test.valid.sum() == 50

    def examples(experiment):
        images, labels = np.asarray(experiment.data.images), experiment.data.labels.tolist()
        return sorted((image.tobytes(), label) for image, label in zip(images, labels, strict=True))

    assert examples(first) == examples(other)
    np.testing.assert_array_equal(first.test.images, other.test.images)
    whole = build(small(tmp_path))
    np.testing.assert_array_equal(first.data.pixels.mean, whole.data.pixels.mean)


@pytest.fixture
def vectors(monkeypatch):
    """Adds a data set of vectors to the table."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    vectors = 5 * rng.normal(size=(3, 6))[labels] + rng.normal(size=(120, 6))
    dataset = from_arrays((vectors[:90], labels[:90]), (vectors[90:], labels[90:]))
    monkeypatch.setitem(DATASETS, "vectors", lambda data_dir: dataset)


def test_vectors_train_a_model_of_the_zoo(vectors, tmp_path, monkeypatch):
    config = quick(tmp_path / "run", dataset="vectors", participants=None, rounds=20)
    summary = train(config)
    assert summary["final_accuracy"] > 0.9
    assert Config.from_json((tmp_path / "run" / "config.json").read_text()) == config
    dataset = DATASETS["vectors"]("data")
    fewer = dataset._replace(train=dataset.train.at(np.arange(80)))
    monkeypatch.setitem(DATASETS, "vectors", lambda data_dir: fewer)
    before = tree_of(tmp_path)
    with pytest.raises(UserError, match="the training split has 80 examples, 90 when the run beg"):
        train(dataclasses.replace(config, rounds=30))
    assert tree_of(tmp_path) == before


class Counting(nn.Module):
    """Has a collection that models may not have."""

    @nn.compact
    def __call__(self, x):
        self.variable("counts", "calls", lambda: jnp.zeros(()))
        return x


class Pair(nn.Module):
    """Returns two arrays."""

    @nn.compact
    def __call__(self, x):
        return x, x


def test_models_and_data_that_do_not_fit_are_refused(vectors, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--augment must be none with inputs of sh"):
        train(small(tmp_path, dataset="vectors", augment="crop_flip"))
    monkeypatch.setitem(
        MODELS, "wide", ModelEntry(lambda classes, norm: mlp(classes + 1, norm), "dense1")
    )
    with pytest.raises(
        UserError, match=r"--model must be .* shape \[B, 10\], not wide; .* \[1, 11"
    ):
        train(small(tmp_path, model="wide"))
    monkeypatch.setitem(
        MODELS, "twice", ModelEntry(lambda classes, norm: mlp(9, norm) * 2, "dense1")
    )
    with pytest.raises(
        UserError, match="--model must be .*, not twice; two layers are named flatten"
    ):
        train(small(tmp_path, model="twice"))
    for module, text in (
        (nn.Dropout(0.5, deterministic=False), "--model must be .*, not own; .* needs PRNG"),
        (Counting(), "own holds counts; modules may hold params, batch_stats and frozen"),
        (Pair(), r"own makes tuple of \[1, 8, 8, 1\]"),
    ):
        model = (from_linen("own", module), *mlp(10))
        monkeypatch.setitem(MODELS, "own", ModelEntry(lambda classes, norm, m=model: m, "own"))
        with pytest.raises(UserError, match=text):
            train(small(tmp_path / "never", model="own"))
    conv = (from_linen("conv", nn.Conv(2, (3, 3))), *mlp(10))
    embed = (from_linen("embed", nn.Embed(9, 2)), *mlp(10))
    grey = load("digits", "")
    grey = grey._replace(train=Split(grey.train.images[..., 0], grey.train.labels))
    monkeypatch.setitem(DATASETS, "grey", lambda data_dir: grey)
    for model, dataset, text in (
        (
            conv,
            "grey",
            r"--model must be .*, not own; conv mixes inputs \[8, 8\] of --dataset=grey; .*None\]",
        ),
        (
            embed,
            "digits",
            r"--model must be .*, not own; .* from_arrays\(..., normalise=False\) leaves whole",
        ),
    ):
        monkeypatch.setitem(
            MODELS, "own", ModelEntry(lambda classes, norm, m=model: m, model[0].name)
        )
        with pytest.raises(UserError, match=text):
            train(small(tmp_path / "never", model="own", dataset=dataset))
    with pytest.raises(
        UserError, match="--batch_size must be 2 or more, not 1; .* of dense1 has one"
    ):
        train(small(tmp_path / "never", norm="batch", batch_size=1))
    with pytest.raises(
        UserError, match=r"convolution and pooling take images \[H, W, C\], not \[6"
    ):
        train(small(tmp_path / "never", dataset="vectors", model="cnn"))
    model = (*mlp(10)[:2], from_function("turn", lambda x: x[:, ::-1]), *mlp(10)[2:])
    monkeypatch.setitem(MODELS, "own", ModelEntry(lambda classes, norm: model, "turn"))
    with pytest.raises(UserError, match="--prune_kind must be .* turn does not keep the channels"):
        train(small(tmp_path / "never", model="own", prune_kind="channel"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="--model must be one of .*, wide, twice, .*, not gone"):
        small(tmp_path, model="gone")


class Begun(Exception):
    """Says that a run has begun."""


class Begins(Hook):
    """Ends a run as it begins."""

    def begin(self, start):
        raise Begun(jnp.zeros(1).dtype.name)


def test_a_setting_without_effect_is_refused_before_there_is_a_folder(tmp_path):
    folder = tmp_path / "run"
    config = small(folder, optimizer="adam")
    with pytest.raises(UserError, match="--prune_score=taylor has no effect with --prune_k"):
        train(dataclasses.replace(config, momentum=0.9, prune_kind="none"))
    assert not folder.exists()
    with pytest.raises(Begun):
        train(config, [Begins()])  # momentum has its default
    idle = small(tmp_path / "old", **{**DENSE, "prune_score": "taylor"})
    with pytest.raises(Begun):
        train_setting(idle, [Begins()])  # as a study does
    with pytest.raises(Begun):
        train(idle, [Begins()])  # an old run goes on


def test_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="--workdir must be"):
            train(small(bad))


def test_init_from_starts_from_the_merged_model_at_any_cut(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "fine-tuned"
    light = {**DENSE, "dropout_rate": 0.0, "smashed_bits": 32, "cut_gradient_bits": 32}
    other = {**light, "client_gradient_bits": 32, "model_bits": 32, "network": "none"}
    config = small(workdir, **other, init_from=str(finished[0]), cut="dense2", rounds=1)
    train(config)
    experiment = build(config)
    start = weights_of(finished[0], "data", experiment.spec.model, experiment.initial)
    state = restore_run(finished[0]).state
    merged = state.aggregator.params + state.server.params
    for actual, expected in zip(
        jax.tree.leaves(start.params), jax.tree.leaves(merged), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
    first = float(metrics(workdir)[0]["train_loss"])
    assert first < 0.5 * float(metrics(finished[0])[0]["train_loss"])
    # A run that has a checkpoint does not need its origin any more.
    monkeypatch.setattr(restore, "weights_of", None)
    train(config)


@pytest.mark.slow
def test_init_from_takes_the_mean_of_statistics_that_stay_with_clients(tmp_path):
    local = {"norm": "batch", "batch_norm_statistics": "local", **DENSE}
    origin = train(small(tmp_path / "origin", **local, rounds=30, participants=None))
    still = {"client_learning_rate": 0.0, "server_learning_rate": 0.0, "dropout_rate": 0.0}
    again = train(
        small(
            tmp_path / "again", **local, **still, rounds=1, local_steps=1, participants=None,
            init_from=origin["workdir"],
        )
    )  # fmt: skip
    assert origin["final_accuracy"] > 0.9
    assert abs(again["final_accuracy"] - origin["final_accuracy"]) < 0.02


def test_init_from_is_looked_at_whatever_lies_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    (tmp_path / "checkpoints" / "7" / "state").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--init_from must be .*, not /nonexistent"):
        train(plain(init_from="/nonexistent"))


def test_a_cut_that_leaves_clients_without_weights(tmp_path):
    changes = {"cut": "flatten", "participants": None, "optimizer": "sgd"}
    summary = train(small(tmp_path / "weightless", **changes, rounds=2))
    assert summary["bytes"]["model_up"] == 0 < summary["bytes"]["smashed_up"]


def test_a_test_loss_that_is_not_finite_keeps_the_rows_and_names_the_part(tmp_path):
    workdir = tmp_path / "diverged"
    changes = {
        "server_learning_rate": 1e30,
        "local_steps": 1,
        "eval_every": 1,
        "aggregate_every": 1,
    }
    with pytest.raises(TrainingError, match=r"round 1: the test loss \(.*\) is not finite"):
        train(small(workdir, **changes))
    assert len(metrics(workdir)) == 1


def test_init_from_another_model_is_refused(finished, tmp_path):
    with pytest.raises(
        UserError, match="a run or export of the same model, not .*; .* there, .* here"
    ):
        train(small(tmp_path / "never", init_from=str(finished[0]), norm="group"))
    assert not (tmp_path / "never").exists()


def test_without_a_workdir_a_dated_one_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first = train(plain(rounds=1, progress="lines"))
    second = train(plain(rounds=1, progress="lines"))
    assert first["workdir"] != second["workdir"]
    printed = capsys.readouterr().out
    assert f"workdir: {first['workdir']}" in printed
    assert first["workdir"].startswith(str(tmp_path / "runs"))


def test_the_picture_of_confusion_is_that_of_the_trained_model(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(confusion, "draw", lambda run, counts, *_: drawn.append(counts))
    monkeypatch.setattr(standard_hooks, "ConfusionPicture", confusion.ConfusionPicture)
    train(small(tmp_path, rounds=2))
    train(small(tmp_path, rounds=2, loggers="jsonl"))  # opened again, with nothing left to train
    np.testing.assert_array_equal(*drawn)
    run = restore_run(tmp_path)
    np.testing.assert_array_equal(drawn[0], scores_of(run, run.experiment.test)["confusion"])
    assert drawn[0].sum() == 360


def test_table_adds_up(finished):
    text = summary.table(finished[1])
    total = sum(finished[1]["bytes"].values())
    dense = sum(finished[1]["uncompressed_bytes"].values())
    assert f"{total:,}" in text and f"{dense:,}" in text and f"{total / dense:.3f}" in text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoints_of_a_live_run_are_read_without_being_touched(finished, tmp_path):
    workdir = tmp_path / "live"
    shutil.copytree(finished[0], workdir)
    saving = workdir / "checkpoints" / "11.orbax-checkpoint-tmp"
    saving.mkdir()
    damage_newest_whole = workdir / "checkpoints" / "10"
    shutil.rmtree(damage_newest_whole / "state")
    with pytest.warns(UserWarning, match="checkpoints/10 is damaged"):
        state = restore_run(workdir).state
    assert state.round == 9
    assert saving.is_dir() and damage_newest_whole.is_dir()
    assert not list(workdir.glob("*damaged"))


def test_closing_twice_is_harmless(tmp_path):
    checkpoints = Checkpoints(tmp_path, Config())
    assert checkpoints.restore({"a": np.zeros(2)}) is None and checkpoints.latest() is None
    checkpoints.close()
    checkpoints.close()


def test_a_run_whose_clients_are_all_out_of_reach_goes_on(tmp_path):
    workdir = tmp_path / "out"
    away = {"network": "macro_cell", "outage_snr_db": 200.0, "progress": "lines"}
    with jax.debug_nans(True):
        summary = train(plain(**away, rounds=2, workdir=str(workdir)))
    assert summary["simulated"]["lost_fraction"] == 1
    assert [row["train_loss"] for row in metrics(workdir)] == ["", ""]


def test_64_bits_asked_of_jax_and_devices_that_are_not_there(tmp_path, monkeypatch):
    with jax.enable_x64(True), pytest.raises(Begun, match="^float32$"):
        train(small(tmp_path / "begun"), [Begins()])
    for error in (AssertionError(), RuntimeError("Unable to\ninitialize")):
        monkeypatch.setattr(jax, "devices", Mock(side_effect=error))
        with pytest.raises(UserError, match=r"^no device can start here \(.*\)$"):
            train(small(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_cannot_be_written_ends_the_run_in_one_line(tmp_path, monkeypatch, capfd):
    save = ocp.CheckpointManager.save

    def full(self, round_, **named):
        if round_ == 2:
            logging.getLogger("absl").error("a traceback")
            raise ValueError("RESOURCE_EXHAUSTED:\nNo space left on device")
        return save(self, round_, **named)

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    changes = {"rounds": 2, "checkpoint_every": 1, "progress": "none"}
    with pytest.raises(TrainingError, match=r"checkpoints/2 cannot be written \(.* No space left"):
        train(quick(tmp_path / "run", **changes))
    assert capfd.readouterr().err == ""
    monkeypatch.undo()
    train(quick(tmp_path / "run", **changes))
    assert [int(row["round"]) for row in metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("hung_up", [False, True])
def test_a_terminal_that_is_gone_takes_no_rounds_with_it(tmp_path, monkeypatch, hung_up):
    def gone(self, round_, loss, accuracy):
        if round_ >= 3:
            if hung_up:
                signal.raise_signal(signal.SIGHUP)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Progress, "update", gone)
    with pytest.raises(Stopped if hung_up else OSError) as raised:
        train(quick(tmp_path, checkpoint_every=100))
    assert getattr(raised.value, "number", None) == (signal.SIGHUP if hung_up else None)
    (saved,) = (int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert saved == len(metrics(tmp_path)) >= 3


def test_an_interruption_waits_for_the_save(tmp_path, monkeypatch):
    save = ocp.CheckpointManager.save

    def interrupted(*arguments, **named):
        signal.raise_signal(signal.SIGINT)
        return save(*arguments, **named)

    monkeypatch.setattr(ocp.CheckpointManager, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(quick(tmp_path / "run", rounds=3))
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(quick(tmp_path / "deaf", rounds=3))
    finally:
        signal.signal(signal.SIGINT, before)
