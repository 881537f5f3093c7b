"""Curves of several settings: their numbers, lines that can be told apart, and their legend."""

from itertools import combinations

import numpy as np
import pytest

from jfedsl.run.plots.lines import line
from jfedsl.run.plots.spread import spread
from jfedsl.run.plots.style import COLOURS, PAGE, PALETTE


def test_spread_shows_mean_and_range_over_seeds() -> None:
    curves = {
        "a": [[(1, 5.0, 0.2), (2, 9.0, 0.4)], [(1, 7.0, 0.4), (2, 11.0, 0.8)]],
        "b": [[(1, 3.0, 0.1), (2, 6.0, 0.2)]],
    }
    figure = spread(curves, ("round", "megabytes sent"), "title")
    by_round, by_megabytes = figure.axes
    np.testing.assert_allclose(by_round.lines[0].get_ydata(), [0.3, 0.6])
    np.testing.assert_allclose(by_megabytes.lines[0].get_xdata(), [6.0, 10.0])
    assert [line.get_label() for line in by_round.lines] == ["a", "b"]
    assert [line.get_color() for line in by_round.lines] == list(PALETTE[:2])
    assert len(by_round.collections) == len(by_megabytes.collections) == 2


def test_a_setting_keeps_its_line_where_others_have_diverged() -> None:
    curve = [[(1, 0.2), (2, 0.3)]]
    (axis,) = spread({"a": [[]], "b": curve}, ["round"]).axes
    assert [drawn.get_color() for drawn in axis.lines] == [COLOURS[line(1).colour]]


def test_the_place_beside_a_third_panel_stays_empty() -> None:
    curve = [[(1, 5.0, 7.0, 0.2), (2, 9.0, 8.0, 0.4)]]
    figure = spread({"a": curve}, ("round", "megabytes sent", "energy (J)"))
    assert [len(axis.lines) for axis in figure.axes] == [1, 1, 1, 0]


def test_lines_can_be_told_apart() -> None:
    every = [line(number) for number in range(28)]
    assert len(set(every)) == 28
    assert len({(one.dashes, one.marker) for one in every}) == 28, "without colours too"
    assert b'stroke="#D55E00"' in line(1).sample


NAMES = {
    "short": [chr(65 + n) for n in range(14)],
    "long": [
        f"cut=pool1, prune_rate=0.{n}, cut_gradient_bits=8, dropout_rate=0.{n}" for n in range(14)
    ],
    "three": ["light fedsl", "plain fedsl", "sfl_v1"],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_the_legend_covers_neither_curves_nor_labels(names: list[str]) -> None:
    points = [(n, 10.0 * n, n / 10) for n in range(1, 6)]
    figure = spread({name: [points] for name in names}, ("round", "energy (J)"), "a title")
    figure.draw_without_rendering()
    boxes = [axis.get_tightbbox() for axis in figure.axes] + [figure.legends[0].get_window_extent()]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)
    assert figure.get_figwidth() == PAGE
    heights = [axis.get_window_extent().height / figure.dpi for axis in figure.axes]
    assert min(heights) > 1.5, "inches: the legend leaves room for the panels"
