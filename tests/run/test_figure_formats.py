"""--figure_format: what it may be, and which files a run and its evaluation then have."""

from pathlib import Path

import pytest
from helpers import given, plain

from jfedsl.commands import evaluate
from jfedsl.errors import UserError
from jfedsl.run.finished import already_done
from jfedsl.run.training import train


@pytest.mark.parametrize("text", ["", "gif", "png,png", "png, pdf"])
def test_other_formats_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--figure_format must be some of png, pdf, svg, separated"):
        plain(figure_format=text)


def test_a_run_has_its_pictures_in_every_format(tmp_path: Path) -> None:
    config = plain(rounds=2, figure_format="pdf,svg", workdir=str(tmp_path / "run"))
    train(config)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    stems = ("curves", "labels", "traffic")
    assert {f"{stem}.{kind}" for stem in stems for kind in ("pdf", "svg")} <= names
    assert not any(name.endswith(".png") for name in names)
    assert (tmp_path / "run" / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert already_done(config) is not None
    (tmp_path / "run" / "traffic.svg").unlink()
    assert already_done(config) is None, "the run draws it again"


def test_an_evaluation_refuses_other_formats_before_it_looks_for_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--figure_format must be .*, not tiff"):
        evaluate.main(given(evaluate, f"--workdir={tmp_path / 'run'}", "--figure_format=tiff"))
