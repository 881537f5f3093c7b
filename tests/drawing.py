"""Figures that are saved without being drawn."""

from typing import Any

from matplotlib.figure import Figure

drawn = Figure.savefig


def blank(self: Figure, file: Any, *, metadata: Any, **kwargs: Any) -> None:
    """Saves an empty figure in place of this one; it differs by the title alone."""
    metadata = {"Title": self.get_suptitle(), **(metadata or {})}
    drawn(Figure((0.1, 0.1)), file, metadata=metadata, **kwargs)
