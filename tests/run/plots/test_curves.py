"""Pictures show the numbers they are given."""

import numpy as np
import pytest

from jfedsl.run.plots import curves as pictures
from jfedsl.run.storage.metrics import STREAMS


def rows(rounds: int) -> list[dict[str, object]]:
    """Metrics of a run evaluated every second round."""
    made = []
    for i in range(1, rounds + 1):
        shown = i % 2 == 0 or i == rounds
        made.append(
            {
                "round": i,
                "train_loss": 1 / i,
                "test_loss": 2 / i if shown else None,
                "test_accuracy": i / 10 if shown else None,
                "test_accuracy_dense": i / 20 if shown else None,
                "test_accuracy_deployed": i / 15 if shown else None,
                "cumulative_bytes": 10_000_000 * i,
                **{f"{s}_bytes": 1_000_000 * (k + 1) for k, s in enumerate(STREAMS)},
            }
        )
    return made


def test_curves_against_round_and_megabytes() -> None:
    figure = pictures.curves(rows(5), 0.35, "title")
    accuracy, accuracy_by_bytes, loss, loss_by_bytes = figure.axes
    for axis, unit in ((accuracy, 1), (accuracy_by_bytes, 10)):
        trained, dense, deployed, target = axis.lines
        np.testing.assert_allclose(
            trained.get_xydata(), [(2 * unit, 0.2), (4 * unit, 0.4), (5 * unit, 0.5)]
        )
        np.testing.assert_allclose(dense.get_ydata(), [0.1, 0.2, 0.25])
        np.testing.assert_allclose(deployed.get_ydata(), [2 / 15, 4 / 15, 5 / 15])
        assert set(target.get_ydata()) == {0.35}
    for axis, unit in ((loss, 1), (loss_by_bytes, 10)):
        train, test = axis.lines
        np.testing.assert_allclose(train.get_xydata(), [(i * unit, 1 / i) for i in range(1, 6)])
        np.testing.assert_allclose(test.get_xdata(), [2 * unit, 4 * unit, 5 * unit])
    assert figure.get_suptitle() == "title"
    assert [axis.get_xlabel() for axis in (loss, loss_by_bytes)] == ["round", "megabytes sent"]


def test_without_title_and_target_neither_is_drawn() -> None:
    figure = pictures.curves(rows(5))
    assert figure.get_suptitle() == "" and len(figure.axes[0].lines) == 3


@pytest.mark.parametrize("rounds", [1, 4])
def test_traffic_adds_up_over_rounds_and_streams(rounds: int) -> None:
    figure = pictures.traffic(rows(rounds))
    (axis,) = figure.axes
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in axis.collections]
    np.testing.assert_allclose(tops, np.cumsum([1, 2, 3, 4]) * rounds)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["smashed up", "cut gradient down", "model up", "model down"]


def test_masks_show_overlap_and_what_is_kept_of_each_layer() -> None:
    made = [
        {**row, "mask_overlap": 0.9 if i % 2 else None, "kept_conv1": 1.0, "kept_conv2": 0.5}
        for i, row in enumerate(rows(6))
    ]
    moving, kept = pictures.masks(made).axes
    assert moving.lines[0].get_ydata().tolist() == [0.9, 0.9, 0.9]
    assert {line.get_label(): set(line.get_ydata()) for line in kept.lines} == {
        "conv1": {1.0}, "conv2": {0.5}
    }  # fmt: skip


@pytest.mark.parametrize("layers", [2, 40])
def test_legends_cover_no_panel(layers: int) -> None:
    kept = {f"kept_block{n}.conv": 1 - n / 100 for n in range(layers)}
    made = [{**row, "mask_overlap": 0.9, **kept} for row in rows(6)]
    for figure in (pictures.curves(rows(6)), pictures.traffic(rows(6)), pictures.masks(made)):
        figure.draw_without_rendering()
        panels = [axis.get_window_extent() for axis in figure.axes]
        legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
        assert legends
        for legend in legends:
            box = legend.get_window_extent()
            assert not any(box.overlaps(panel) for panel in panels)
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0
