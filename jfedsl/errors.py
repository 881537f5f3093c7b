"""Errors that are printed as a single clear line, without a traceback."""

from typing import Any


class UserError(ValueError):
    """Something the user can put right."""


class BusyError(UserError):
    """A folder that another run is using."""


class TrainingError(RuntimeError):
    """Training cannot go on, such as a loss that is not finite."""


def flag_error(flag: str, value: Any, allowed: str) -> UserError:
    """Returns an error that names the flag, the value given and what is allowed.

    >>> print(flag_error("dropout_rate", 1.5, "a rate in [0, 1)"))
    --dropout_rate=1.5: allowed is a rate in [0, 1)
    """
    return UserError(f"--{flag}={value}: allowed is {allowed}")
