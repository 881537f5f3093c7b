"""Pictures of a run."""

from pathlib import Path

from matplotlib.figure import Figure

from jfedsl.runtime.metrics import Row


def accuracy(rows: list[Row], target: float, title: str, path: Path) -> None:
    """Draws test accuracy against round and against megabytes sent, as a PNG.

    Args:
      rows: of a metrics file.
      target: accuracy to mark, in [0, 1].
      title: over both panels.
      path: of the picture.
    """
    rows = [row for row in rows if row["test_accuracy"] is not None]
    accuracies = [row["test_accuracy"] for row in rows]
    dense = [row["test_accuracy_dense"] for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    panels = (
        ("round", [row["round"] for row in rows]),
        ("megabytes sent, all streams", [row["cumulative_bytes"] / 1e6 for row in rows]),
    )
    for axis, (label, x) in zip(axes, panels, strict=True):
        axis.plot(x, accuracies, marker=".", label="as trained")
        if dense != accuracies:
            axis.plot(x, dense, linestyle=":", label="without masks")
        axis.axhline(
            target, color="gray", linewidth=0.8, linestyle="--", label=f"target {target:g}"
        )
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(loc="lower right")
    figure.suptitle(title)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=150, format="png")
    temporary.replace(path)
