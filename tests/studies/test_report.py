"""A report: its numbers are those of the runs' files, and its page needs no other file."""

import base64
import csv
import dataclasses
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import given, plain

from jfedsl.commands import report
from jfedsl.config import Config
from jfedsl.config.canonical import recorded
from jfedsl.errors import UserError, one_line
from jfedsl.run.storage.workdir import differences
from jfedsl.run.training import train
from jfedsl.studies import study
from jfedsl.studies.collect import find_runs, settings_of
from jfedsl.studies.configs import folder_name
from jfedsl.studies.key import short_names
from jfedsl.studies.records import Known
from jfedsl.studies.report import comparison, write

COMMON: dict[str, Any] = {
    "clients": 2, "rounds": 2, "batch_size": 4, "train_examples": 100, "eval_every": 1,
    "network": "macro_cell", "target_accuracy": 0.3,
}  # fmt: skip
SETTINGS = {"one|step": {}, "half of it": {"prune_kind": "channel", "prune_rate": (0.5,)}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    one = study.Study(plain(**COMMON, workdir=str(folder)), SETTINGS, (0, 1))
    study.train(one, {}, Known())
    return folder


def test_tables_hold_what_summaries_say(runs: Path, tmp_path: Path):
    page, text = write([runs], tmp_path, "A <title>", None)
    lines = text.read_text().splitlines()
    assert "4 runs of 2 settings." in lines
    for name in ("one_step", "half_of_it"):
        summaries = [
            json.loads((runs / name / f"seed_{seed}" / "summary.json").read_text())
            for seed in (0, 1)
        ]
        cells = [row.split(" | ") for row in lines if f".svg) {name} |" in row][1:]
        accuracy = [s["final_accuracy"] for s in summaries]
        reached, totals, *against = cells
        assert len(against) == (name == "one_step"), "half_of_it is the first"
        assert reached[1] == totals[1] == "2"
        assert reached[2].startswith(f"{sum(accuracy) / 2:.4g}")
        assert f"({min(accuracy):.4g} to {max(accuracy):.4g})" in reached[2]
        model_up = sum(s["bytes"]["model_up"] for s in summaries) / 2e6
        assert totals[5] == f"{model_up:.4g}"
    head, body = page.read_text().split("<body>")
    assert "<title>A &lt;title&gt;</title>" in head and "<title>" not in body
    assert "A &#60;title&#62;" in body


def test_the_page_needs_no_other_file(runs: Path, tmp_path: Path):
    page, text = write([runs], tmp_path, "title", 0.3, ("pdf",))
    files = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    assert files.pop("curves.pdf").startswith(b"%PDF")
    sources = re.findall(r'src="data:image/(png|svg\+xml);base64,([^"]*)"', page.read_text())
    assert len(sources) == text.read_text().count("](pictures/")
    assert {base64.b64decode(data) for _, data in sources} == set(files.values())
    kinds = {kind for kind, data in sources if base64.b64decode(data) == files["curves.svg"]}
    assert kinds == {"svg+xml"}
    assert "http" not in re.sub(r'src="[^"]*"', "", page.read_text())
    assert set(files) == {
        "curves.svg", "line_1.svg", "line_2.svg", "1_labels.png", "1_timeline.png", "1_masks.png",
    }, "those of the other setting are the same in tests, which draw none"  # fmt: skip


def test_runs_elsewhere_are_named_by_what_differs(runs: Path, tmp_path: Path):
    for n, name in enumerate(("one_step", "half_of_it")):
        shutil.copytree(runs / name / "seed_0", tmp_path / f"run{n}")
    names = [s.name for s in settings_of(find_runs([tmp_path / "run0", tmp_path / "run1"])[0])]
    assert names == ["prune_kind=none", "prune_kind=channel, prune_rate=0.5"]
    turned = settings_of(find_runs([tmp_path / "run1", tmp_path / "run0"])[0])
    assert [setting.name for setting in turned] == names[::-1], "in the order given"
    assert len(find_runs([tmp_path, tmp_path / "run0"])[0]) == 2, "each once"
    both = settings_of(find_runs([runs, tmp_path])[0])
    assert [len(setting.runs) for setting in both] == [2, 2], "a copy of a run is no other seed"


def renamed(run: Path, folder: Path, **values: object) -> None:
    """A copy of a run with other values in its config.json, which no table knows."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", ".*.seal"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_a_report_needs_no_tables(runs: Path, tmp_path: Path) -> None:
    names = ("algorithm", "model", "dataset", "partition", "norm", "optimizer", "network")
    unknown = {name: f"my_{name}" for name in names}
    compressor = {"smashed": "positive(3)", "dropout_rate": None, "smashed_bits": None}
    for seed in (0, 1):
        renamed(runs / "one_step" / f"seed_{seed}", tmp_path / "runs" / f"{seed}", **unknown)
    renamed(runs / "one_step" / "seed_0", tmp_path / "runs" / "2", **unknown, **compressor)
    _, text = write([tmp_path / "runs"], tmp_path / "report", "title", None)
    lines = text.read_text().splitlines()
    assert "3 runs of 2 settings." in lines
    assert all(f"| `{name}` | my_{name} |" in lines for name in names)
    settings = settings_of(find_runs([tmp_path / "runs"])[0])
    assert [setting.name for setting in settings] == ["smashed=none", "smashed=positive(3)"]
    text_of_config = (tmp_path / "runs" / "2" / "config.json").read_text()
    copies = recorded(text_of_config), recorded(text_of_config)
    assert differences(*copies) == [], "a run's config and that of its checkpoint are compared so"
    (tmp_path / "runs" / "2" / "config.json").write_text('{"model": "mine", "rounds": "many"}')
    with pytest.raises(UserError, match="2/config.json: "):
        find_runs([tmp_path / "runs"])


WEIRD = [
    "$x", "a $x_ b$", 'src="pictures/none.png"', '<img src="x.png">', "[a](javascript:alert(1))",
    "<javascript:x>", "b\nc | d", "`code` *em* _em_ ~~no~~", "# title", "&lt;", "\udcff\x02", "_z",
    "x" * 300, "word " * 60, "word " * 59 + "other", "10", "9", "\u6a21\u578b \U0001f600",
]  # fmt: skip


def test_names_neither_break_the_page_nor_put_anything_into_it(runs: Path, tmp_path: Path) -> None:
    sweep, source = tmp_path / "sweep", runs / "one_step" / "seed_0"
    rows = [{"setting": name} for name in WEIRD]
    for n, name in enumerate(WEIRD):
        renamed(source, sweep / folder_name(name) / "seed_0", model=name, momentum=n / 100)
        for kind in ("png", "svg"):
            picture = sweep / folder_name(name) / "seed_0" / f"labels.{kind}"
            picture.write_text("no picture: a secret")
    with open(sweep / "results.csv", "w", newline="", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ["setting"])
        writer.writeheader()
        writer.writerows(rows)
    page, text = write([sweep], tmp_path / "report $", "a $title$ <b>\udcff", None)
    html_text = page.read_text()
    assert "javascript" in html_text and "secret" not in html_text
    addresses = re.findall(r"<(?!img)[^>]* (?:src|href)=", html_text)
    assert not addresses and html_text.count("<img ") == len(re.findall("!\\[", text.read_text()))
    assert all(
        source.startswith("data:") for source in re.findall(r'<img [^>]*src="([^"]*)"', html_text)
    )
    key, *tables = html_text.split("<h2>")[1:4]
    columns = [re.findall("<td[^>]*>(.*?)</td>", row)[2] for row in key.split("<tr>")[2:]]
    assert [html.unescape(cell) for cell in columns] == [one_line(name) for name in WEIRD], (
        "names and order as given"
    )
    letters = [chr(ord("A") + n) for n in range(len(WEIRD))]
    for table in tables:
        assert re.findall(r"<tr>\s*<td[^>]*><img [^>]*> (.*?)</td>", table) == letters
    figure = comparison(settings_of(find_runs([sweep])[0]), letters, "title")
    assert [entry.get_text() for entry in figure.legends[0].get_texts()] == letters


@pytest.mark.parametrize(
    ("count", "first", "last"), [(1, "A", "A"), (26, "A", "Z"), (27, "S1", "S27")]
)
def test_settings_with_long_names_get_short_ones(count: int, first: str, last: str) -> None:
    names = short_names([f"a name that is long, {n}" for n in range(count)])
    assert (names[0], names[-1]) == (first, last) and len(set(names)) == count


def test_the_report_lies_in_the_one_folder_given(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    report.main([str(tmp_path / "runs")], given(report, "--figure_format=png,pdf"))
    folder = tmp_path / "runs" / "report"
    assert (folder / "report.html").exists() and (folder / "pictures" / "curves.pdf").exists()
    report.main([str(tmp_path / "runs")], given(report))  # a report is no run
    with pytest.raises(UserError, match="--output must be a folder for the report of several"):
        report.main([str(runs), str(tmp_path / "runs")], given(report))
    with pytest.raises(UserError, match="--figure_format must be .*, not gif"):
        report.main([str(runs)], given(report, "--figure_format=gif"))


def test_a_seed_that_missed_the_target_is_counted(runs: Path, tmp_path: Path):
    held = [min(row["test_accuracy"] for row in run.rows) for run in find_runs([runs])[0]]
    between = sorted(held[:2])
    assert between[0] < between[1], "else there is nothing to test"
    _, text = write([runs / "half_of_it"], tmp_path, "title", between[1])
    assert "(1 of 2)" in text.read_text()
    _, text = write([runs], tmp_path, "title", 1.0)
    assert "| - | - | - | - |" in text.read_text()


def test_runs_of_different_targets_need_one(runs: Path, tmp_path: Path):
    base = plain(**COMMON, workdir=str(tmp_path / "other"))
    train(dataclasses.replace(base, target_accuracy=0.5))
    with pytest.raises(UserError, match="--target must be one number; it is not set; runs have"):
        write([runs, tmp_path / "other"], tmp_path / "report", "title", None)
    assert not (tmp_path / "report").exists()


def test_folders_without_runs_are_refused(runs: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(UserError, match=f"{folder} must be a folder with a run"):
            write([runs, tmp_path / folder], tmp_path / "report", "title", None)
    config = Config.from_json((runs / "one_step" / "seed_0" / "config.json").read_text())
    (tmp_path / "empty" / "config.json").write_text(config.to_json())
    with pytest.raises(UserError, match="empty must be a folder with a run"):
        write([tmp_path / "empty"], tmp_path / "report", "title", None)
    (tmp_path / "empty" / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not the metrics of a run"):
        write([tmp_path / "empty"], tmp_path / "report", "title", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output must be a writable folder, not .*file"):
        write([runs], tmp_path / "file", "title", None)
    with pytest.raises(UserError, match="no folders of runs"):
        report.main([], given(report))


def test_unfinished_runs_are_named_and_left_out(runs: Path, tmp_path: Path):
    shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns(".*.seal"))
    stopped = tmp_path / "runs" / "one_step" / "seed_1"
    rows = (stopped / "metrics.csv").read_text().splitlines(keepends=True)
    (stopped / "metrics.csv").write_text("".join(rows[:2]))
    never = tmp_path / "runs" / "half_of_it" / "seed_1"
    (never / "metrics.csv").unlink()
    _, text = write([tmp_path / "runs"], tmp_path / "report", "title", None)
    assert "2 runs of 2 settings." in text.read_text()
    assert f"- {stopped}: 1 of 2 rounds\n- {never}: not evaluated yet\n" in text.read_text()
    _, text = write([stopped], tmp_path / "alone", "title", None)
    assert "1 runs of 1 settings." in text.read_text(), "there is no other"


def test_every_setting_is_described_by_the_flags_that_distinguish_it(runs: Path, tmp_path: Path):
    lines = write([runs], tmp_path, "title", None)[1].read_text().splitlines()
    about = lines[lines.index("### half_of_it") + 2]
    assert about == "mlp on digits, seeds 0, 1: prune_kind=channel, prune_rate=0.5"
    key = lines.index("| setting | seeds | `prune_kind` | `prune_rate` |")
    assert lines[key + 2 : key + 4] == [
        "| ![blue line](pictures/line_1.svg) half_of_it | 0, 1 | channel | 0.5 |",
        "| ![vermillion line](pictures/line_2.svg) one_step | 0, 1 | none | - |",
    ]
    for row in (
        "| `clients` | 2 |",
        "| `rounds` | 2 |",
        "| `cut` | dense1 |",
        "| `momentum` | 0.0 |",
    ):
        assert row in lines
    common = lines[lines.index("## Common to all") :]
    assert not any("prune_rate" in line for line in common if line.startswith("|"))


def test_settings_are_compared_with_a_reference_by_seed(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "half_of_it" / "seed_0")
    _, text = write([tmp_path / "runs"], tmp_path / "report", "title", None, (), "one_step")
    heading, table = text.read_text().split("## Seed by seed\n\n")[1].split("\n\n")[:2]
    assert heading.startswith("Against ![vermillion line](pictures/line_2.svg) one_step. ")
    titles, _, row = (line.strip("| ").split(" | ") for line in table.splitlines())
    one, half = (
        json.loads((runs / name / "seed_1" / "summary.json").read_text())
        for name in ("one_step", "half_of_it")
    )
    expected = half["final_accuracy"] - one["final_accuracy"]
    found = row[titles.index("test accuracy, difference")]
    assert found == f"{expected:+.3g} (no interval, 1 of 2)"
    expected = half["simulated"]["seconds"] / one["simulated"]["seconds"]
    found = row[titles.index("simulated seconds, ratio")]
    assert found == f"{expected:.3g} (no interval, 1 of 2)"
    with pytest.raises(UserError, match="--reference must be .*, not whole"):
        write([tmp_path / "runs"], tmp_path / "report", "title", None, (), "whole")
