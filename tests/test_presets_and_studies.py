"""Presets and studies: they say what they give, and run."""

import dataclasses
import re
from pathlib import Path

import pytest
import stand_ins
from helpers import given, parse, script, slow

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config.canonical import canonical
from jfedsl.data.datasets import DATASETS
from jfedsl.errors import UserError
from jfedsl.run.storage import metrics
from jfedsl.run.storage.task_record import read_record
from jfedsl.run.storage.workdir import read_summary
from jfedsl.studies.questions import LEARNING_RATES, rival
from jfedsl.studies.sweep import grid

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "experiments" / "presets").glob("*.flags"))
NOT_MEASURED = {"cifar10_vgg19", "debian_minilm", "smollm2_text", "vit_fashion"}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_open_with_their_command_and_what_it_gives(preset):
    first, *rest = preset.read_text().splitlines()
    command = f"# python experiments/train.py --flagfile=experiments/presets/{preset.name}"
    assert first.removesuffix(" --pretrained=FOLDER") == command
    comment = " ".join(line.removeprefix("# ") for line in rest if line.startswith("#"))
    if preset.stem in NOT_MEASURED:
        assert "minutes are not measured" in comment
        return
    pattern = r"accuracy 0\.\d+ \((0\.\d+) to 0\.\d+ over seeds 0, 1, 2\); .*?(\d+) (s|min) on"
    match = re.search(pattern, comment)
    assert match, comment
    if preset.stem == "fashion_mnist_cnn":
        assert float(match[1]) >= 0.88 and int(match[2]) <= 10 and match[3] == "min"
    if preset.stem == "bbc_minilm":
        assert float(match[1]) >= 0.95 and int(match[2]) <= 5 and match[3] == "min"


# The others take long to compile; CI runs fashion_mnist_cnn as a command.
QUICK = {"digits_uncompressed"}
MARKED = [path if path.stem in QUICK else slow(path) for path in PRESETS]
# Kinds of the tiny models that take the places of pretrained ones.
KINDS = {"bbc_minilm": "bert", "debian_minilm": "bert", "smollm2_text": "llama"}
KINDS |= {"vit_fashion": "vit"}


@pytest.mark.usefixtures("standard_promotion", "tables")
@pytest.mark.parametrize("preset", MARKED, ids=[path.stem for path in PRESETS])
def test_presets_run(preset, tmp_path, generated):
    few = [
        "--rounds=2", "--local_steps=1", "--batch_size=2", "--aggregate_every=1", "--eval_every=2",
        "--progress=none", f"--workdir={tmp_path / 'run'}", f"--data_dir={generated}",
    ]  # fmt: skip
    if preset.stem in KINDS:
        DATASETS.update(bbc_news=stand_ins.texts, debian_packages=stand_ins.texts)
        (tmp_path / "model").mkdir()
        place = stand_ins.write_model(tmp_path / "model", KINDS[preset.stem])
        few += [f"--pretrained={place}", "--tokens=6", "--cut=block1"]
    script("train").main(parse([f"--flagfile={preset}", *few]))
    task = read_record(read_summary(tmp_path / "run") or {})
    rows = metrics.read(tmp_path / "run" / "metrics.csv", task)
    assert [row["round"] for row in rows] == [1, 2]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        slow("pruning", "channel 0.25"),
        slow("compression", "1/8 top-k, 8 bit"),
    ],
)
def test_studies_compare_their_settings(name, setting, tmp_path, generated, capsys, monkeypatch):
    study = script(f"{name}_study")
    preset = ROOT / "experiments" / "studies" / f"{name}.flags"
    first = f"# python experiments/{name}_study.py --flagfile={preset.relative_to(ROOT)}"
    assert preset.read_text().splitlines()[0] == first
    monkeypatch.setattr(study, "SETTINGS", {setting: study.SETTINGS[setting]})
    few = ["--rounds=1", "--local_steps=1", "--batch_size=2", "--clients=2", "--progress=none"]
    where = [f"--workdir={tmp_path / 'study'}", f"--data_dir={generated}"]
    config = parse([f"--flagfile={preset}", *few, *where])
    study.main(config, given(study, "--seeds=3"))
    assert f"| {setting} | 0." in capsys.readouterr().out
    assert len(list((tmp_path / "study").glob("*/seed_3/summary.json"))) == 1


@pytest.mark.usefixtures("standard_promotion", "tables")
def test_the_settings_of_the_study_of_fine_tuning_all_make_a_config(tmp_path):
    DATASETS.update(bbc_news=stand_ins.texts)
    study, config = script("finetuning_study"), finetuning(tmp_path)
    with pytest.raises(UserError, match="--network"):
        study.main(dataclasses.replace(config, network="none"), given(study, "--seeds=3"))
    with pytest.raises(UserError, match="--rivals must be one of .*, not fedavgg; did you mean"):
        study.main(config, given(study, "--seeds=3", "--rivals=fedavgg"))
    every = [*study.SETTINGS.values(), rival("fedavg"), rival("centralized")]
    made = [canonical(dataclasses.replace(config, **changes)) for changes in every]
    assert len({tuple(sorted(values.items())) for values in made}) == len(made)  # no two the same


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion", "tables")
def test_the_study_of_fine_tuning_compares_ranks(tmp_path, capsys, monkeypatch):
    DATASETS.update(bbc_news=stand_ins.texts)
    study, config = script("finetuning_study"), finetuning(tmp_path)
    name = "LoRA 2 to 8, stacked"
    monkeypatch.setattr(study, "SETTINGS", {name: study.SETTINGS[name]})
    study.main(config, given(study, "--seeds=3", "--rivals="))
    assert f"| {name} | 0." in capsys.readouterr().out


def finetuning(folder):
    """The config of the study of fine-tuning, with a tiny model and few exchanges."""
    preset = ROOT / "experiments" / "studies" / "finetuning.flags"
    first = f"# python experiments/finetuning_study.py --flagfile={preset.relative_to(ROOT)}"
    assert preset.read_text().splitlines()[0] == first
    (folder / "model").mkdir()
    place = stand_ins.write_model(folder / "model", "bert")
    few = [f"--pretrained={place}", "--tokens=6", "--cut=block2", "--rounds=1", "--local_steps=1"]
    few += ["--progress=none", f"--workdir={folder / 'study'}", f"--data_dir={folder}"]
    return parse([f"--flagfile={preset}", *few], script("finetuning_study"))


@pytest.mark.usefixtures("standard_promotion")
def test_latency_study_compares_on_a_simulated_clock(tmp_path, generated, capsys):
    study = script("latency_study")
    preset = ROOT / "experiments" / "studies" / "latency.flags"
    few = ["--rounds=1", "--local_steps=1", "--batch_size=2", "--clients=2", "--progress=none"]
    where = [f"--workdir={tmp_path / 'study'}", f"--data_dir={generated}"]
    ours = ["--model=mlp", "--train_examples=1000", "--target_accuracy=0.999"]
    config = parse([f"--flagfile={preset}", *few, *where, *ours])
    mine = ["--cuts=dense1", "--prune_rates=0.5", "--seeds=3"]
    study.main(config, given(study, *mine, "--bits=8"))
    row = next(
        r for r in capsys.readouterr().out.splitlines() if r.startswith("| dense1, rate 0.5")
    )
    _, _, seconds, to_target, *_ = (cell.split()[0] for cell in row.split(" | ")[1:])
    assert float(seconds) > 0 and to_target == "-"
    assert (tmp_path / "study" / "accuracy.png").exists()
    with pytest.raises(UserError, match="--bits"):
        study.main(config, given(study, *mine, "--bits=eight"))


def test_train_prints_its_table_and_picture(tmp_path, capsys):
    few = ["--rounds=2", "--model=mlp", "--norm=none", "--clients=2", "--progress=lines"]
    few += [f"--workdir={tmp_path / 'run'}"]
    script("train").main(parse(few))
    printed = capsys.readouterr().out
    for text in ("round 2/2", "test accuracy", "smashed_up", "total", "pictures: *.png"):
        assert text in printed


def test_scripts_stay_thin():
    for path in (ROOT / "experiments").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 10, path


CLAIM = "It sends less | MB sent | split / whole < 1"
CASES = ["--case=split: --cut=pool1", "--case=whole: --algorithm=fedavg", "--seeds=3"]


def test_named_settings_are_compared(tmp_path, capsys):
    study = script("cases_study")
    few = ["--rounds=1", "--local_steps=1", "--batch_size=2", "--clients=2", "--progress=none"]
    config = parse([*few, "--train_examples=60", f"--workdir={tmp_path / 'study'}"])
    own = ["--figure=both: split, whole", "--reference=whole", f"--claim={CLAIM}"]
    study.main(config, given(study, *CASES, *own))
    printed = capsys.readouterr().out
    assert "Against whole. With one seed there is no interval" in printed
    assert "| split | 0." in printed and "| whole | 0." in printed
    assert "| It sends less | **not shown** | MB sent | split / whole < 1 | " in printed
    assert "| MB to target |" in printed and (tmp_path / "study" / "both.png").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--seeds=3"], "--case must be named settings"),
        ([*CASES, "--figure=both: split, hole"], "--figure must be one of split, whole, not hole"),
        (
            [*CASES, "--claim=It sends less | MB | split / whole < 1"],
            "--claim must be about one of",
        ),
        ([*CASES, f"--claim={CLAIM.replace('whole', 'hole')}"], "--claim must be about the settin"),
        ([*CASES, "--reference=hole"], "--reference must be one of split, whole, not hole"),
        ([*CASES, "--figure=split"], "--figure must be NAME: setting"),
        ([*CASES, "--figure=a: split", "--figure=a: whole"], "--figure must be NAME: setting"),
    ],
)
def test_wrong_cases_and_figures_are_refused(arguments, error, tmp_path):
    study = script("cases_study")
    with pytest.raises(UserError, match=error):
        study.main(parse([f"--workdir={tmp_path / 'study'}"]), given(study, *arguments))


@pytest.mark.parametrize("name", ["algorithms", "algorithms_resnet18", "quorum"])
def test_the_settings_of_the_studies_of_algorithms_make_runs(name, tmp_path):
    """Rates are those that the grid of rates tried, and each figure has its settings."""
    study = script("cases_study")
    preset = ROOT / "experiments" / "studies" / f"{name}.flags"
    first, *lines = preset.read_text().splitlines()
    assert first == f"# python experiments/cases_study.py --flagfile={preset.relative_to(ROOT)}"
    own = [line for line in lines if line.startswith(("--case", "--figure", "--claim"))]
    values, base = given(study, *own), parse([x for x in lines if x[:2] == "--" and x not in own])
    settings = grid(base, values.case, ())
    assert study.figures_of(values.figure, settings)
    tried = (preset.parent / f"{name}_rates.flags").read_text()
    algorithms = set()
    for changes in settings.values():
        config = dataclasses.replace(base, **changes)
        algorithms.add(config.algorithm)
        assert config.optimizer == "adam" and config.validation_fraction > 0
        rates = {changes[flag] for flag in LEARNING_RATES if flag in changes}
        assert rates and all(f"_rate={rate:g}" in tried for rate in rates)
    # With one edge or a quorum of all they are fedsl; they came after the study.
    assert name != "algorithms" or algorithms == set(ALGORITHMS) - {"hierarchical", "semi_async"}
