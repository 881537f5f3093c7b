"""The help of programs: what it lists, and in which words."""

import dataclasses
import sys
from collections import Counter

import pytest
from absl import flags

from jfedsl.commands import sweep
from jfedsl.config import Config
from jfedsl.config.flags import define_flags
from jfedsl.config.topics import MAIN_FLAGS, flags_by_topic
from jfedsl.run.sources import define_sources
from jfedsl.run.usage import HelpFlag, help_text


def test_every_flag_of_a_run_has_one_topic() -> None:
    topics = flags_by_topic()
    listed = Counter(name for names in topics.values() for name in names)
    assert listed == Counter(field.name for field in dataclasses.fields(Config))
    for topic, names in MAIN_FLAGS.items():
        assert set(names) <= set(topics[topic])


def helped(everything: bool) -> str:
    values = flags.FlagValues()
    define_flags(values)
    sources = define_sources(False, values)
    sweep.define(values)
    return help_text(sweep.__doc__ or "", ["seeds", "vary"], sources, everything, values)


def test_the_help_starts_with_an_example_that_the_user_can_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments/sweep.py"])
    assert "\npython experiments/sweep.py --workdir=runs/sweep" in helped(False)
    monkeypatch.setattr(sys, "argv", ["jfedsl sweep"])
    text = helped(False)
    assert "\njfedsl sweep --workdir=runs/sweep" in text
    assert "  --seeds=0\n" in text and "  --vary\n" in text, "lists without brackets"


def test_the_help_lists_what_matters_first_and_all_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["jfedsl sweep"])
    short, long = helped(False), helped(True)
    assert short.count("\n  --") < 30 and "--quantizer" not in short
    assert "\nwireless network:\n" in long and "  --[no]remat_clients\n" in long
    assert "  --prune_ladder=1,0.75,0.5,0.25\n" in long
    assert all(len(line) <= 100 for line in long.splitlines())


@pytest.mark.parametrize(("arguments", "everything"), [(["--help"], False), (["--help=all"], True)])
def test_the_flag_prints_and_ends(
    arguments: list[str], everything: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    values = flags.FlagValues()
    flags.DEFINE_flag(HelpFlag("help", lambda all_: f"all: {all_}"), values)
    with pytest.raises(SystemExit) as ended:
        values(["program", *arguments])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"all: {everything}\n"
    values(["program", "--nohelp"])
    with pytest.raises(flags.IllegalFlagValueError, match="must be all, or have no value"):
        values(["program", "--help=some"])
