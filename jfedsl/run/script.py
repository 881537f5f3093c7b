"""How every experiment script starts: flags, one-line errors, exit status."""

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import jax
from absl import app, flags, logging

from jfedsl.config import Config
from jfedsl.config.flags import define_flags, from_flags, set_defaults
from jfedsl.errors import Stopped, TrainingError, UserError, as_text, close_to, one_line
from jfedsl.files.paths import path_error
from jfedsl.files.program import this_program
from jfedsl.run.presets import with_preset
from jfedsl.run.processes.stopping import take_signals
from jfedsl.run.sources import defaults, define_sources, free_flags, without_idle
from jfedsl.run.storage.workdir import check
from jfedsl.run.usage import define_help

Define = Callable[[list[str]], list[str]]


def _parse(arguments: list[str], operands: bool, define: Define) -> list[str]:
    for argument in arguments:
        if argument != argument.encode(errors="replace").decode():
            raise UserError(f"{as_text(argument)} must be text in UTF-8")
    try:
        rest = flags.FLAGS(define(arguments))
        if len(rest) > 1 and not operands:
            raise UserError(f"unexpected argument {rest[1]!r}; flags look like --name=value")
        return rest
    except SystemExit:  # absl exits with status 1 after it has printed the help
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        close = close_to(error.flagname, list(flags.FLAGS), "--") or "; --help lists all"
        raise UserError(f"unknown flag --{as_text(error.flagname)}{close}") from error
    except flags.CantOpenFlagFileError as error:
        cause = error.__context__
        assert isinstance(cause, OSError)
        file, reason = Path(str(cause.filename)), cause.strerror or ""
        raise path_error("flagfile", file, "a file that can be read", reason) from error
    except flags.Error as error:
        raise UserError(str(error).removeprefix("flag ")) from error


def run(
    main: Callable[[Config], object],
    one_run: bool = True,
    define: Callable[[], None] = lambda: None,
    about: str = "",
) -> None:
    """Runs `main` on the config that the command line describes, as `start` does.

    Args:
      main: takes the config.
      one_run: whether it trains one run, which `--resume` can continue.
      define: defines flags of the program's own.
      about: what `--help` says first; default the docstring of the script.
    """

    def prepare(arguments: list[str]) -> list[str]:
        arguments = with_preset(arguments, one_run)
        base = defaults(arguments, one_run)  # may add to the tables that the flags' help lists
        define_flags()
        sources = define_sources(one_run)
        set_defaults(base)
        define_help(about or _docstring(), _program_flags(define), sources)
        return arguments

    def configured(_: list[str]) -> None:
        config = without_idle(from_flags())
        if one_run and flags.FLAGS["resume"].value:
            check(config, "resume")
        main(config)

    def go_on(folder: str) -> str:
        resume = [f"--resume={folder}", *free_flags()]
        arguments = resume if one_run and folder else sys.argv[1:]
        return f"go on with: {shlex.join([*this_program(), *arguments])}"

    _run(configured, go_on, False, prepare)


def start(
    main: Callable[[list[str]], object],
    operands: bool = False,
    define: Callable[[], None] = lambda: None,
    about: str = "",
) -> None:
    """Parses the command line, then runs `main`.

    Some errors print one line in place of a traceback. The exit status is 2 after a user's mistake;
    1 after a failed training, a file that cannot be read or written, and a full standard output;
    128 plus the signal's number after an interruption (130 for Ctrl-C, 143 for SIGTERM, 129 for
    SIGHUP), which also prints how to go on.

    Args:
      main: takes the arguments that are not flags.
      operands: whether arguments that are not flags are allowed.
      define: defines flags of the program's own.
      about: what `--help` says first; default the docstring of the script.
    """

    def prepare(arguments: list[str]) -> list[str]:
        define_help(about or _docstring(), _program_flags(define), [])
        return arguments

    _run(main, lambda _: "the same command starts again", operands, prepare)


def _program_flags(define: Callable[[], None]) -> list[str]:
    """Defines a program's own flags; returns the names of them and of those of its script."""
    before = set(flags.FLAGS)
    define()
    of_script = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])]
    return [*of_script, *(name for name in flags.FLAGS if name not in before)]


def _docstring() -> str:
    return sys.modules["__main__"].__doc__ or ""


def _run(
    main: Callable[[list[str]], object],
    go_on: Callable[[str], str],
    operands: bool,
    define: Define,
) -> None:
    """Does what `start` says; `define` defines all flags and returns the arguments to parse."""

    def guarded(arguments: list[str]) -> None:
        try:
            main(arguments[1:])
            sys.stdout.flush()
        except UserError as error:
            _exit(str(error), 2)
        except TrainingError as error:
            _exit(str(error), 1)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            _exit(one_line(f"not enough memory: {error}"), 1)
        except KeyboardInterrupt as error:
            number = getattr(error, "number", signal.SIGINT)
            _exit(f"{str(error) or 'interrupted'}; {go_on(_folder(error))}", 128 + number)
        except OSError as error:
            _exit(f"{error}; {go_on(_folder(error))}", 1)

    def parse(arguments: list[str]) -> list[str]:
        try:
            return _parse(arguments, operands, define)
        except UserError as error:
            _exit(str(error), 2)
        except OSError as error:  # the help cannot be printed
            _exit(str(error), 1)

    _take_over()
    warnings.formatwarning = _warning
    jax.config.update("jax_enable_x64", False)  # a run has the same numbers either way
    logging.set_verbosity(logging.ERROR)
    app.run(guarded, flags_parser=parse)


def _take_over() -> None:
    """Replaces the handlers of `jfedsl.run.startup`: signals raise `Stopped` from now on."""
    take_signals(_stop)
    if startup := sys.modules.get("jfedsl.run.startup"):
        take_signals(_stop, (startup.end,))
        sys.excepthook = sys.__excepthook__


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped("interrupted", number)


def _warning(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as one line, without file and line number."""
    return f"warning: {one_line(str(message))}\n"


def _folder(error: BaseException) -> str:
    """The folder of the run that raised the error; empty if there is none."""
    folder: str = getattr(error, "folder", "")
    return folder


def _exit(message: str, status: int) -> NoReturn:
    take_signals(signal.SIG_IGN, (_stop,))  # one line is enough
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"error: {message}\n")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # full, or the terminal is gone; at exit Python would write again
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)
