"""Progress of a run, as a bar on a terminal or as plain lines."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Shows rounds, loss, accuracy and the time left."""

    def __init__(self, style: str, start: int, rounds: int) -> None:
        """Starts at round `start` of `rounds`; style is auto, bar, lines or none."""
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "lines"
        self._style, self._start, self._rounds = style, start, rounds
        self._began = time.monotonic()
        self._accuracy = float("nan")
        self._bar = None
        if style == "bar":
            self._bar = tqdm(total=rounds, initial=start, unit="round", dynamic_ncols=True)

    def note(self, text: str) -> None:
        """Says what is going on before the first round is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif self._style == "lines":
            print(text, flush=True)

    def update(self, round_: int, loss: float | None, accuracy: float | None) -> None:
        """Shows that `round_` rounds are done; `accuracy` None repeats the last one."""
        if accuracy is not None:
            self._accuracy = accuracy
        shown = "-" if loss is None else f"{loss:.4f}"
        text = f"loss {shown}, accuracy {self._accuracy:.4f}"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(round_ - self._bar.n)
        elif self._style == "lines":
            elapsed = time.monotonic() - self._began
            left = elapsed / (round_ - self._start) * (self._rounds - round_)
            print(f"round {round_}/{self._rounds}: {text}, {left:.0f} s left", flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
