"""Presets and studies: they say what they give, and run."""

import dataclasses
import re
from pathlib import Path

import pytest
import stand_ins
from helpers import given, parse, script, slow

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.commands.evidence_tasks import CASES as CASE_STUDIES
from jfedsl.data.datasets import DATASETS
from jfedsl.errors import UserError
from jfedsl.run.storage import metrics
from jfedsl.run.storage.task_record import read_record
from jfedsl.run.storage.workdir import read_summary
from jfedsl.studies.tuning import LEARNING_RATES

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
    own = ["--figure=both: split; whole", "--reference=whole", f"--claim={CLAIM}"]
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
        ([*CASES, "--figure=both: split; hole"], "--figure must be one of split, whole, not hole"),
        (
            [*CASES, "--claim=It sends less | MB | split / whole < 1"],
            "--claim must be about one of",
        ),
        ([*CASES, f"--claim={CLAIM.replace('whole', 'hole')}"], "--claim must be about the settin"),
        ([*CASES, "--reference=hole"], "--reference must be one of split, whole, not hole"),
        ([*CASES, "--figure=split"], "--figure must be NAME: setting"),
        ([*CASES, "--figure=a: split", "--figure=a: whole"], "--figure must be NAME: setting"),
        ([*CASES, "--tries=2"], "--validation_fraction must be above 0"),
        ([*CASES, "--tune_seeds=x", "--tries=3"], "--tune_seeds must be whole numbers .*, not x"),
        ([*CASES, "--follow=whole: hole"], "--follow must be one of split, whole, not hole"),
        ([*CASES, "--follow=hole: whole"], "--follow must be NAME: setting"),
    ],
)
def test_wrong_cases_and_figures_are_refused(arguments, error, tmp_path):
    study = script("cases_study")
    with pytest.raises(UserError, match=error):
        study.main(parse([f"--workdir={tmp_path / 'study'}"]), given(study, *arguments))


def study_of(name, *more):
    """The study of a preset of named settings, with the flags of `more` besides."""
    study = script("cases_study")
    preset = ROOT / "experiments" / "studies" / f"{name}.flags"
    first, *lines = preset.read_text().splitlines()
    assert first == f"# python experiments/cases_study.py --flagfile={preset.relative_to(ROOT)}"
    own = ("--case", "--vary", "--figure=", "--follow", "--tries", "--tune_", "--seeds", "--claim")
    flags = [line for line in lines if line.startswith("--")]
    ours = [line for line in flags if line.startswith(own)]
    config = parse([line for line in flags if line not in ours] + list(more))
    return study.study_of(config, given(study, *ours))


STUDIES = [*CASE_STUDIES, "source_claims_cifar10"]


@pytest.mark.usefixtures("standard_promotion", "tables")
@pytest.mark.parametrize("name", STUDIES)
def test_every_method_of_a_study_is_tuned_or_follows_one_that_is(name, tmp_path):
    DATASETS.update(bbc_news=stand_ins.texts, debian_packages=stand_ins.texts)
    place = stand_ins.write_model(tmp_path, "bert")
    pretrained = name in ("fine_tuning", "natural_clients")
    one = study_of(name, *([f"--pretrained={place}", "--tokens=6"] if pretrained else []))
    assert one.tuning and len(one.seeds) >= 5 and one.base.validation_fraction > 0
    algorithms = {
        dataclasses.replace(one.base, **one.settings[setting]).algorithm for setting in one.tuned
    }
    every = {dataclasses.replace(one.base, **c).algorithm for c in one.settings.values()}
    assert algorithms == every, "an algorithm has a setting that is tuned"
    if name == "methods":  # with one edge or a quorum of all, these are fedsl
        assert every == set(ALGORITHMS) - {"hierarchical", "semi_async"}
    for setting, leader in one.tuning.follow.items():
        rates = [
            [getattr(dataclasses.replace(one.base, **one.settings[s]), f) for f in LEARNING_RATES]
            for s in (setting, leader)
        ]
        assert rates[0] == rates[1], "a factor of the same rates"
