"""Here figures are drawn: tests look at them."""

import drawing
import pytest
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def drawn_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn as a run draws them."""
    monkeypatch.setattr(Figure, "savefig", drawing.drawn)
