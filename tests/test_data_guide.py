"""The guide to data: its example runs as written, and names of classes are where it says."""

import json
from pathlib import Path

import numpy as np
import pytest
from documents import commands, files
from helpers import parse, script

from jfedsl.errors import UserError
from jfedsl.run.evaluate import evaluate_run, table
from jfedsl.run.plots import classes
from jfedsl.run.storage.workdir import read_config

GUIDE = "docs/guides/data.md"


@pytest.mark.usefixtures("tables")
def test_the_example_of_a_file_with_clients_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, code in files(GUIDE).items():
        Path(name).write_text(code)
    exec(compile(files(GUIDE)["series.py"], "series.py", "exec"), {})
    drawn, labels = [], classes.labels
    monkeypatch.setattr(classes, "labels", lambda *given: drawn.append(given) or labels(*given))
    command = commands(GUIDE)[1][2:]
    script("train").main(parse([*command, "--rounds=2", "--eval_every=2", "--progress=none"]))
    counts, _, names = drawn[0]
    assert names == ("still", "wave")
    folder = tmp_path / "runs" / "series"
    owners = np.load("series.npz")["client"]
    sizes = np.unique(owners, return_counts=True)[1]
    np.testing.assert_array_equal(counts.sum(axis=1), sizes - (sizes + 5) // 10)
    assert read_config(folder).dataset == f"file:{tmp_path / 'series.npz'}"
    result = evaluate_run(folder, tmp_path / "export")
    assert result["client_names"] == ["ann", "bob", "cid", "dot", "eve"]
    values = result["clients"]["accuracy"]
    least = values.index(min(values))
    assert f"(client {least}, {result['client_names'][least]})" in table(result)
    manifest = json.loads(Path("export/manifest.json").read_text())
    assert manifest["class_names"] == ["still", "wave"] and "client_names" not in manifest
    arrays = dict(np.load("series.npz"))
    np.savez("series.npz", **{**arrays, "label": np.char.add(arrays["label"], "!")})
    with pytest.raises(UserError, match="classes have other names than when the run began"):
        script("train").main(parse([*command, "--rounds=4", "--progress=none"]))
    with pytest.raises(UserError, match="--clients must be 5 with --partition=natural, not 4;"):
        script("train").main(parse([*command, "--clients=4", f"--workdir={tmp_path / 'other'}"]))
