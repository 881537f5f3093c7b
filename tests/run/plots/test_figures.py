"""Pictures show the numbers they are given."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from jfedsl.run.plots import figures
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


def test_curves_against_round_and_megabytes(drawn: list[Figure], tmp_path: Path) -> None:
    figures.curves(rows(5), 0.35, "title", tmp_path / "curves.png")
    accuracy, accuracy_by_bytes, loss, loss_by_bytes = drawn[0].axes
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
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("rounds", [1, 4])
def test_traffic_adds_up_over_rounds_and_streams(
    drawn: list[Figure], tmp_path: Path, rounds: int
) -> None:
    figures.traffic(rows(rounds), "title", tmp_path / "traffic.png")
    (axis,) = drawn[0].axes
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in axis.collections]
    np.testing.assert_allclose(tops, np.cumsum([1, 2, 3, 4]) * rounds)
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == ["smashed up", "cut gradient down", "model up", "model down"]


def test_masks_show_overlap_and_what_is_kept_of_each_layer(
    drawn: list[Figure], tmp_path: Path
) -> None:
    made = [
        {**row, "mask_overlap": 0.9 if i % 2 else None, "kept_conv1": 1.0, "kept_conv2": 0.5}
        for i, row in enumerate(rows(6))
    ]
    figures.masks(made, "title", tmp_path / "masks.png")
    moving, kept = drawn[0].axes
    assert moving.lines[0].get_ydata().tolist() == [0.9, 0.9, 0.9]
    assert {line.get_label(): set(line.get_ydata()) for line in kept.lines} == {
        "conv1": {1.0}, "conv2": {0.5}
    }  # fmt: skip


def test_spread_shows_mean_and_range_over_seeds(drawn: list[Figure], tmp_path: Path) -> None:
    curves = {
        "a": [[(1, 5.0, 0.2), (2, 9.0, 0.4)], [(1, 7.0, 0.4), (2, 11.0, 0.8)]],
        "b": [[(1, 3.0, 0.1), (2, 6.0, 0.2)]],
    }
    figures.spread(curves, ("round", "megabytes sent"), "title", tmp_path / "spread.png")
    by_round, by_megabytes = drawn[0].axes
    np.testing.assert_allclose(by_round.lines[0].get_ydata(), [0.3, 0.6])
    np.testing.assert_allclose(by_megabytes.lines[0].get_xdata(), [6.0, 10.0])
    assert [line.get_label() for line in by_round.lines] == ["a", "b"]
    assert len(by_round.collections) == len(by_megabytes.collections) == 2
