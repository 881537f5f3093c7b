"""Progress of a run, as a bar on a terminal or as plain lines."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Shows rounds, loss, accuracy and the time left.

    The time left follows from what rounds took since `start`, with all that is done between them.
    """

    def __init__(self, style: str, done: int, rounds: int) -> None:
        """Shows that `done` of `rounds` are done; style is auto, bar, lines or none."""
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "lines"
        self._style, self._rounds = style, rounds
        self._start: tuple[int, float] | None = None  # rounds done by then, and when that was
        self._text, self._accuracy = "", "-"  # until the first evaluation
        self._bar = self._new_bar(done) if style == "bar" else None

    def note(self, text: str) -> None:
        """Says what is going on before the first round is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif self._style == "lines":
            print(text, flush=True)

    def start(self, round_: int) -> None:
        """The first call starts the clock: compiling, loading and warming up are over."""
        if self._start is not None:
            return
        self._start = round_, time.monotonic()
        if self._bar is not None:  # a bar counts from when it was made
            self._bar.leave = False
            self._bar.close()
            self._bar = self._new_bar(round_)

    def update(self, round_: int, loss: float | None, accuracy: float | None) -> None:
        """Shows that `round_` rounds are done; `accuracy` None repeats the last one."""
        if accuracy is not None:
            self._accuracy = f"{accuracy:.4f}"
        shown = "-" if loss is None else f"{loss:.4f}"
        self._text = f"loss {shown}, accuracy {self._accuracy}"
        if self._bar is not None:
            self._bar.set_postfix_str(self._text, refresh=False)
            self._bar.update(round_ - self._bar.n)
        elif self._style == "lines":
            print(f"round {round_}/{self._rounds}: {self._text}{self._left(round_)}", flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _left(self, round_: int) -> str:
        if self._start is None or round_ == self._start[0]:
            return ""
        first, began = self._start
        each = (time.monotonic() - began) / (round_ - first)
        return f", {each * (self._rounds - round_):.0f} s left"

    def _new_bar(self, done: int) -> tqdm:
        return tqdm(
            total=self._rounds, initial=done, unit="round", dynamic_ncols=True, postfix=self._text
        )
