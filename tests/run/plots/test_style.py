"""One style inside of its context alone; files without dates, whole, in every format."""

import os
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure

from jfedsl.errors import UserError
from jfedsl.run.plots.style import COLUMN, new_figure, save, save_each, style, styled


@styled
def picture(title: str = "") -> Figure:
    figure = new_figure(COLUMN, 2.0, title)
    axis = figure.subplots()
    axis.plot([1, 2], [3, 4])
    axis.set_xlabel("round")
    return figure


def test_the_same_figure_has_the_same_bytes_in_every_format(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        files = save_each(picture("a title"), tmp_path / folder / "it", ("png", "pdf", "svg"))
        assert sorted(files) == sorted((tmp_path / folder).iterdir()), "nothing else is left"
    contents = {path.suffix: path.read_bytes() for path in files}
    assert all((tmp_path / "one" / f"it{k}").read_bytes() == v for k, v in contents.items())
    assert contents[".png"].startswith(b"\x89PNG")
    assert b"CreationDate" not in contents[".pdf"] and b"/Type3" not in contents[".pdf"]
    assert b"/CIDFontType2" in contents[".pdf"], "TrueType"
    assert b"<dc:date>" not in contents[".svg"]


def test_the_style_acts_inside_alone_and_can_be_changed() -> None:
    before = dict(matplotlib.rcParams)
    assert picture().axes[0].xaxis.label.get_fontsize() == 8
    with style({"font.size": 11, "font.family": "serif"}):
        axis = picture().axes[0].xaxis
        assert {axis.label.get_fontsize(), axis.get_ticklabels()[0].get_fontsize()} == {11}
        with style({"axes.labelsize": 9}):
            label = picture().axes[0].xaxis.label
            assert label.get_fontsize() == 9 and label.get_fontfamily() == ["serif"]
    assert picture().axes[0].xaxis.label.get_fontsize() == 8
    assert dict(matplotlib.rcParams) == before


def test_titles_wrap_and_are_drawn_as_they_are() -> None:
    figure = picture("a $title$ " + "that is longer than a column is wide " * 2)
    lines = figure.get_suptitle().splitlines()
    assert len(lines) > 1 and r"\$title\$" in lines[0]
    figure.draw_without_rendering()
    assert figure._suptitle.get_window_extent().width <= figure.bbox.width


def test_two_that_write_one_picture_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, path = Figure.savefig, tmp_path / "it.png"

    def with_another(self: Figure, *args: Any, **kwargs: Any) -> None:
        draw(self, *args, **kwargs)
        with monkeypatch.context() as patch:
            patch.setattr(Figure, "savefig", draw)
            patch.setattr(os, "getpid", lambda: 1)
            save(picture(), path)

    monkeypatch.setattr(Figure, "savefig", with_another)
    save(picture("a title"), path)
    assert list(tmp_path.iterdir()) == [path]


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a picture must end in .png, .pdf or .svg, not .*it.gif"):
        save(picture(), tmp_path / "it.gif")
    assert not list(tmp_path.iterdir())
