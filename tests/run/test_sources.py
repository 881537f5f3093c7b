"""Settings from files: `--config`, `--resume` and what a command line adds."""

import dataclasses
from pathlib import Path

import pytest
from absl import flags

from jfedsl.config import Config
from jfedsl.config.canonical import refuse_idle
from jfedsl.config.flags import define_flags, from_flags, set_defaults
from jfedsl.errors import UserError
from jfedsl.run.sources import defaults, define_sources, free_flags, without_idle
from jfedsl.run.storage import workdir

OLD = Config(
    clients=3, cut="pool2", prune_rate=(0.1, 0.2, 0.3), rounds=7, remat_clients=True,
    smashed="topk(0.1)", coordinator="host:1", processes=2, process=1, workdir="where/it/began",
    compilation_cache="of/another/user",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has been moved since."""
    workdir.record(OLD, tmp_path)
    return tmp_path


def parse(*arguments: str) -> Config:
    command = ["program", *arguments]
    base, values = defaults(command), flags.FlagValues()
    define_flags(values)
    define_sources(True, values)
    set_defaults(base, values)
    values(command)
    return without_idle(from_flags(values), values)


def test_resume_takes_all_settings_but_the_place(run: Path):
    alone = {"coordinator": "", "processes": None, "process": None, "workdir": str(run)}
    alone["compilation_cache"] = Config.compilation_cache
    here = dataclasses.replace(OLD, **alone)
    assert parse(f"--resume={run}") == here
    longer = parse("--rounds", "9", "--resume", str(run))
    assert longer == dataclasses.replace(here, rounds=9)
    workdir.check(longer, "resume")
    with pytest.raises(UserError, match=r"--resume must be .*; differing: cut \(pool2 -> pool1\)$"):
        workdir.check(parse(f"--resume={run}", "--cut=pool1"), "resume")


def test_free_flags_that_were_given_are_repeated(run: Path):
    values = flags.FlagValues()
    define_flags(values)
    set_defaults(OLD, values)
    assert free_flags(values) == []
    values(["program", "--workdir=x", "--compilation_cache=", "--cut=pool1", "--eval_every", "3"])
    assert free_flags(values) == ["--compilation_cache=", "--eval_every=3"]


def test_a_config_is_the_base_of_a_run_elsewhere(run: Path):
    path = run / "config.json"
    config = parse(f"--config={path}", "--rounds=9", "--noremat_clients")
    assert config.workdir == "" and config.coordinator == "" and config.cut == "pool2"
    assert config.rounds == 9 and not config.remat_clients and config.prune_rate == (0.1, 0.2, 0.3)
    dense = ["--prune_kind=none", "--optimizer=adam", f"--config={path}"]
    refuse_idle([parse(*dense)])
    assert parse(*dense, "--momentum=0.5").momentum == 0.5, "given, and so refused"
    (run / "some.flags").write_text(f"--config={path}\n--cut=pool1\n")
    assert parse(f"--flagfile={run / 'some.flags'}", "--workdir=new").cut == "pool1"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--resume=nowhere"], "--resume must be the folder of a run"),
        (["--resume=a", "--workdir=b"], "--workdir=b has no effect with --resume"),
        (["--resume=a", "--config=b"], "--config=b has no effect with --resume"),
        (
            ["--config=nowhere"],
            "--config must be the config.json of a run, not .*nowhere; no such file",
        ),
        (["--config=bda.json"], "did you mean .*bad.json[?]"),
        (["--config=bad.json"], "bad.json: not a config of this program"),
    ],
)
def test_what_names_no_run_is_refused(arguments, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match=text):
        parse(*arguments)
