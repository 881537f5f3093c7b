"""Errors that scripts print as one line, without a traceback."""

import difflib
import re
from collections.abc import Collection
from typing import Any

_LONGEST_VALUE = 200  # characters; paths on clusters are long
_LONGEST_LINE = 1000


def one_line(text: str, longest: int = _LONGEST_LINE) -> str:
    r"""A text as one printable line: line breaks become spaces, and a long middle is left out.

    >>> one_line("a\n  b\x07")
    'a b\\x07'
    >>> one_line("0123456789", 5)
    '0123…9'
    """
    return _printable(re.sub(r"\s*[\r\n]\s*", " ", _cut(text.strip(), longest)))


def line_of(error: BaseException, longest: int = _LONGEST_LINE) -> str:
    """The text of an error on one line, or its type if it has no text.

    >>> line_of(OSError(28, "No space left on device")), line_of(ValueError())
    ('[Errno 28] No space left on device', 'ValueError')
    """
    return one_line(str(error), longest) or type(error).__name__


def as_text(value: Any) -> str:
    r"""The text of a value in a message: line breaks are escaped, and a long middle is left out.

    >>> as_text("two\nlines")
    'two\\nlines'
    """
    try:
        text = str(value)
    except ValueError:  # an integer with more digits than Python converts
        text = hex(value)
    return _printable(_cut(text, _LONGEST_VALUE))


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    end = longest // 4
    return f"{text[: longest - end]}…{text[-end:]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UserError(ValueError):
    """An error that the user can correct."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class BusyError(UserError):
    """A folder that another run is using."""


class TrainingError(RuntimeError):
    """Training cannot go on, for instance because a loss is not finite."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class DivergedError(TrainingError):
    """A loss or a weight is not finite."""


def close_to(word: str, names: Collection[str], prefix: str = "") -> str:
    """The end of an error that proposes similar names; "" if there is none.

    >>> close_to("pool4", ["conv1", "pool1", "dense"])
    '; did you mean pool1?'
    >>> close_to("rates", ["client_rate", "server_rate", "rated"])
    '; did you mean rated?'
    """
    by_lower, wanted = {name.lower(): name for name in names}, as_text(word).lower()
    matches = difflib.get_close_matches(wanted, by_lower, n=2)
    ratios = [difflib.SequenceMatcher(None, name, wanted).ratio() for name in matches]
    # The second match is proposed only if it is about as similar as the first.
    pairs = zip(matches, ratios, strict=True)
    close = [by_lower[name] for name, ratio in pairs if ratio > ratios[0] - 0.1]
    return f"; did you mean {' or '.join(prefix + name for name in close)}?" if close else ""


class Stopped(KeyboardInterrupt):
    """A signal stopped a run; `--resume` continues it from the state in its folder."""

    def __init__(self, text: str, number: int) -> None:
        """The error for one signal; a `KeyboardInterrupt`, as SIGINT is one in other programs.

        Args:
          text: how far the run has come.
          number: number of the signal.
        """
        super().__init__(text)
        self.number, self.folder = number, ""  # the folder of the run, if it has one


def flag_error(
    flag: str, value: Any, allowed: str, names: Collection[str] = (), reason: str = ""
) -> UserError:
    """An error for a value that a flag cannot have.

    Args:
      flag: name of the flag, without dashes.
      value: the value that was given; None or "" where the flag was not set.
      allowed: what the value must be, to follow "must be".
      names: the names that the value may be a misspelling of.
      reason: why the value is not allowed, where it is not obvious.

    >>> print(flag_error("dropout_rate", 1.5, "a rate in [0, 1)"))
    --dropout_rate must be a rate in [0, 1), not 1.5
    >>> print(flag_error("workdir", "", "a folder"))
    --workdir must be a folder; it is not set
    >>> print(flag_error("model", "cnm", "one of cnn, mlp", ["cnn", "mlp"]))
    --model must be one of cnn, mlp, not cnm; did you mean cnn?
    """
    text = as_text(value)
    given = f", not {text}" if text and value is not None else "; it is not set"
    why = f"; {reason}" if reason else ""
    return UserError(f"--{flag} must be {allowed}{given}{why}{close_to(text, names)}")


def no_effect(flag: str, value: Any, because: str) -> UserError:
    """An error for a flag that was set though nothing uses it.

    Args:
      flag: name of the flag, without dashes.
      value: the value that was given.
      because: what leaves the flag without effect, such as "with --algorithm=fedavg".

    >>> print(no_effect("cut", "pool1", "with --algorithm=fedavg"))
    --cut=pool1 has no effect with --algorithm=fedavg; remove it
    """
    return UserError(f"--{flag}={as_text(value)} has no effect {because}; remove it")


def conflict(flag: str, value: Any, other: str, reason: str = "") -> UserError:
    """An error for a flag that cannot be set together with another one.

    Args:
      flag: name of the flag, without dashes.
      value: the value that was given.
      other: what it cannot be combined with, such as "--norm=batch".
      reason: why.

    >>> print(conflict("deadline_s", 2.0, "--norm=batch"))
    --deadline_s=2.0 cannot be combined with --norm=batch
    """
    why = f"; {reason}" if reason else ""
    return UserError(f"--{flag}={as_text(value)} cannot be combined with {other}{why}")
