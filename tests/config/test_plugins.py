"""A user's own entries: loaded before they are looked up, once, found again, or one clear line."""

import re
import sys
from pathlib import Path

import pytest

from jfedsl.config import Config, plugins
from jfedsl.data.partition import PARTITIONS
from jfedsl.errors import UserError
from jfedsl.files.seals import beside
from jfedsl.run.sources import defaults
from jfedsl.run.storage import workdir
from jfedsl.run.storage.checkpoint import Checkpoints
from jfedsl.run.storage.kept import VERSION

pytestmark = pytest.mark.usefixtures("tables")
MINE = """
from jfedsl.data.partition import PARTITIONS, Kind, iid
assert "mine" not in PARTITIONS, "imported twice"
PARTITIONS["mine"] = Kind(iid, None)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def forget():
    """As in a new process."""
    plugins._loaded.clear()
    del PARTITIONS["mine"]


def test_a_plugin_is_loaded_once_before_values_are_looked_up(mine):
    config = Config(plugin="mine.py", partition="mine")
    assert config.plugin == str(mine)
    assert Config(plugin=str(mine), partition="mine") == config
    forget()
    assert defaults(["train", "--partition=mine", "--plugin", "mine.py"]).plugin == str(mine)
    assert "mine" in PARTITIONS, "so that --help shows it"


def test_a_config_finds_its_plugin_from_every_folder(mine, tmp_path, monkeypatch):
    workdir.record(Config(plugin="mine.py", partition="mine"), tmp_path)
    forget()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert workdir.read_config(tmp_path).partition == "mine"
    assert defaults(["train", f"--resume={tmp_path}"]).partition == "mine"


def test_a_plugin_that_has_moved_is_named_and_told(mine, tmp_path):
    workdir.record(Config(plugin="mine.py", partition="mine"), tmp_path)
    forget()
    mine.rename(tmp_path / "other.py")
    with pytest.raises(
        UserError, match=rf"--plugin must be a .*, not {mine}; no such file; if it has moved, "
    ):
        workdir.read_config(tmp_path)
    for named in ("other.py", Path("other.py")):
        assert workdir.read_config(tmp_path, named).plugin == str(tmp_path / "other.py")


def test_a_checkpoint_is_known_as_the_runs_whose_plugin_has_moved(mine, tmp_path, monkeypatch):
    text = Config(plugin="mine.py", partition="mine").to_json()
    mine.rename(tmp_path / "other.py")
    forget()
    now = Config.from_json(text, str(tmp_path / "other.py"))
    checkpoints = Checkpoints(tmp_path / "checkpoints", now)
    plain = {"version": VERSION, "round": 2, "config": text, "data": None}
    checkpoints._check_owner(2, plain, signed_=True)
    checkpoints.close()
    workdir.record(now, tmp_path)
    monkeypatch.setattr(workdir.kept, "newest", lambda folder: {"config": text})
    assert workdir.read_config(tmp_path) == workdir.read_config(tmp_path, "other.py") == now


def test_a_config_without_its_plugin_says_that_there_are_plugins(mine, tmp_path):
    workdir.record(Config(plugin="mine.py", partition="mine"), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace(str(mine), ""))
    beside(path).unlink()
    forget()
    with pytest.raises(UserError, match="--partition must be .* .--plugin adds others., not mine"):
        workdir.read_config(tmp_path)
    assert workdir.read_config(tmp_path, "mine.py").partition == "mine"


def test_modules_and_neighbours_are_imported(mine):
    Path("my_package").mkdir()
    Path("my_package", "__init__.py").write_text("")
    Path("my_package", "entries.py").write_text("import my_neighbour\n")
    Path("my_neighbour.py").write_text("import mine\n")
    Path("my_file.py").write_text("import my_neighbour\n")
    config = Config(plugin="my_package.entries, my_file.py", partition="mine")
    assert config.plugin == f"my_package.entries,{mine.parent / 'my_file.py'}"
    sums = plugins.checksums(config.plugin)
    assert list(sums) == ["my_package.entries", "my_file.py"] and all(sums.values())


def test_the_program_that_runs_is_not_imported_again(mine, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(mine), raising=False)
    assert Config(plugin="mine.py").plugin == str(mine) and "mine" not in PARTITIONS


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_there", "bad.py, line 1: ModuleNotFoundError: No module named 'nothing"),
        ("def f():\n    return {}['a']\n\n\nf()", "bad.py, line 2: KeyError: 'a'"),
        ("\nx = (", "bad.py, line 2: SyntaxError: '(' was never closed"),
        ("raise SystemExit(3)", "bad.py, line 1: SystemExit: 3"),
        ("raise ValueError('a\\n' * 10_000)", "bad.py, line 1: ValueError: a a"),
    ],
)
@pytest.mark.parametrize("place", ["bad.py", "bad"])
def test_a_plugin_that_fails_is_one_line_with_its_place(code, reason, place, mine):
    Path("bad.py").write_text(code)
    before = set(sys.modules)
    with pytest.raises(UserError, match=re.escape(reason)) as error:
        Config(plugin=f"mine.py,{place}")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1200
    assert not any("bad" in name for name in set(sys.modules) - before)


@pytest.mark.parametrize(
    "place", ["no.py", "./no", ".", "no_such.module", "mine.", "..mine", "a b"]
)
def test_what_is_no_plugin_is_one_line(place, mine):
    with pytest.raises(UserError, match=r"--plugin must be a Python file"):
        Config(plugin=place)


@pytest.mark.parametrize(("place", "meant"), [("mnie", "mine"), ("mnie.py", ".*/mine.py")])
def test_a_misspelt_plugin_is_told_which_was_meant(place, meant, mine):
    with pytest.raises(UserError, match=f"; did you mean {meant}[?]$"):
        Config(plugin=place)
