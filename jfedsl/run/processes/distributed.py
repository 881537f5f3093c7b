"""The processes and devices of a run: joining, agreeing, and ending together if one is lost."""

import contextlib
import dataclasses
import faulthandler
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.config.checks import one_device
from jfedsl.config.scale_fields import BY_CLUSTER
from jfedsl.errors import TrainingError, UserError, flag_error, one_line
from jfedsl.run.processes import rollcall
from jfedsl.sharding.slots import AXES

_JOIN_SECONDS = 30
_SILENT_SECONDS = 30  # after which a process counts as lost
_MOST_REASON = 300  # characters
_LOST = ("Gloo", "UNAVAILABLE", "DEADLINE", "ABORTED", "NCCL", "CANCELLED")
# Settings that may differ between processes.
_MAY_DIFFER = ("process", "data_dir", "plugin", "compilation_cache", "progress")


def join(config: Config) -> None:
    """Joins the other processes of the run, if it has several; does nothing the second time.

    Raises:
      UserError: they cannot be reached, or JAX knows no cluster that started them.
    """
    if not config.coordinator or jax.distributed.is_initialized():
        return
    address = None if config.coordinator == BY_CLUSTER else config.coordinator
    if address is not None:
        assert config.processes is not None and config.process is not None  # checked in the config
        if config.process:
            rollcall.admit(address, config.processes, config.process)
        else:
            rollcall.answer_all(address, config.processes)
    # If JAX is the first to learn that another process is lost, it prints a line and aborts this
    # process. absl would add a dump of all threads, which hides the line.
    faulthandler.disable()
    # A process that gets SIGTERM must end; the service would hold it back. The run stops then, and
    # resumes from its checkpoint.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address,
            config.processes,
            config.process,
            initialization_timeout=_JOIN_SECONDS,
            heartbeat_timeout_seconds=_SILENT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = one_line(str(error), _MOST_REASON)
        allowed = "the address of a run whose other processes start now"
        if address is None:
            allowed = "HOST:PORT where no cluster that JAX knows started the program"
        raise flag_error("coordinator", config.coordinator, allowed, reason=reason) from error


def start_devices() -> None:
    """Starts the devices that JAX uses, unless they have been started.

    Raises:
      UserError: there are no such devices here, or they cannot start.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: CUDA without its plugin
        reason = one_line(str(error), _MOST_REASON) or "its plugin is not installed"
        asked = getattr(jax.config, "jax_platforms", None)
        if not asked:
            raise UserError(f"no device can start here ({reason})") from None
        remedy = "set a platform that can, such as cpu, or none to let JAX choose"
        raise UserError(f"JAX_PLATFORMS={asked} cannot start here; {remedy} ({reason})") from None


def mesh_of(config: Config) -> Mesh | None:
    """The mesh of devices that a run uses; None for one device.

    Raises:
      UserError: there are fewer devices, or the algorithm cannot use several.
    """
    local, processes = jax.local_device_count(), jax.process_count()
    one_device(config, processes)
    hint = "XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of a CPU"
    reason = hint if jax.default_backend() == "cpu" else ""
    count = count_of(config, local, f"at most the {local} here", reason)
    if count * processes == 1:
        return None
    rows = [
        [device for device in jax.devices() if device.process_index == process][:count]
        for process in range(processes)
    ]
    return Mesh(np.array(rows), AXES)


def count_of(config: Config, present: int, allowed: str, reason: str = "") -> int:
    """How many devices of those that are present a run uses.

    Args:
      config: all settings of the run.
      present: number of devices of a process.
      allowed: what the flag may be, for the error.
      reason: what else to say there.

    Raises:
      UserError: there are fewer.
    """
    if config.devices is not None and config.devices > present:
        raise flag_error("devices", config.devices, allowed, reason=reason)
    alone = ALGORITHMS[config.algorithm].one_at_a_time(config)
    return config.devices or (1 if alone else present)


def first() -> bool:
    """Whether this process is the first one, which writes files and prints."""
    return jax.process_index() == 0


@contextlib.contextmanager
def only_first(open_: Callable[[], contextlib.AbstractContextManager[Any]]) -> Iterator[str]:
    """Enters a context in the first process; every process gets its value as text, or its error.

    Args:
      open_: makes the context.

    Raises:
      UserError: in all processes, if the first one cannot enter the context.
    """
    if jax.process_count() == 1:
        with open_() as value:
            yield str(value)
        return
    with contextlib.ExitStack() as stack:
        error, text = None, ""
        if first():
            try:
                text = str(stack.enter_context(open_()))
            except UserError as raised:
                error, text = raised, f"\0{raised}"
        text = texts(text)[0]
        if error is not None:
            raise error
        if text.startswith("\0"):
            raise UserError(text[1:])
        yield text


def texts(text: str) -> list[str]:
    """The texts of all processes, in their order; the processes wait for each other."""
    if jax.process_count() == 1:
        return [text]
    characters = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(characters.size)))
    padded = np.zeros(max(1, sizes.max()), np.uint8)  # of the same size in every process
    padded[: characters.size] = characters
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:size]).decode() for row, size in zip(gathered, sizes, strict=True)]


def largest(numbers: list[int]) -> list[int]:
    """For each position the largest number over all processes; they wait for each other.

    Args:
      numbers: of this process, int32; as many in every process.
    """
    if jax.process_count() == 1:
        return numbers
    gathered = multihost_utils.process_allgather(np.array(numbers, np.int32))
    maxima: list[int] = np.max(gathered, axis=0).tolist()
    return maxima


def total(array: np.ndarray) -> np.ndarray:
    """The sum over all processes of an int64 array, exact; they wait for each other."""
    if jax.process_count() == 1:
        return array
    # As uint32, because JAX without 64 bits would cut int64 off.
    gathered = multihost_utils.process_allgather(array.view(np.uint32))
    return np.asarray(gathered).view(np.int64).sum(axis=0)


def agree(config: Config) -> None:
    """Checks that all processes have the same settings and the same number of devices.

    Raises:
      UserError: in all processes, if one differs.
    """
    if jax.process_count() == 1:
        return
    settings = {n: v for n, v in dataclasses.asdict(config).items() if n not in _MAY_DIFFER}
    settings["number of devices"] = jax.local_device_count()
    every = [json.loads(text) for text in texts(json.dumps(settings))]
    names = [name for name in settings if any(one.get(name) != every[0].get(name) for one in every)]
    if names:
        differing = ", ".join(names)
        raise UserError(f"all processes of a run need the same settings; differing: {differing}")


def lost(error: BaseException) -> bool:
    """Whether an error means that another process of the run is lost."""
    of_jax = jax.process_count() > 1 and isinstance(error, (RuntimeError, ValueError))
    return of_jax and any(word in str(error) for word in _LOST)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends a process of several with one line if it fails or another one of the run is lost.

    It ends at once: an ordinary exit would wait for the other processes, and they for this one.
    They notice that it is gone. A run of one process raises its error.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        text, status, trace = one_line(str(error)), 1, ""
        if isinstance(error, UserError):
            status = 2
        elif isinstance(error, KeyboardInterrupt | OSError):
            if isinstance(error, KeyboardInterrupt):
                status = 128 + getattr(error, "number", signal.SIGINT)
            text = f"{text or 'interrupted'}; the same commands resume"
        elif lost(error):
            reason, text = one_line(text, _MOST_REASON), f"process {jax.process_index()}"
            text += f" of {jax.process_count()} stops: another one of the run is lost ({reason})"
            text += "; the same commands go on from the last checkpoint"
        elif not isinstance(error, TrainingError):
            trace = traceback.format_exc()
        with contextlib.suppress(OSError):  # standard error is full, or its terminal is gone
            print(f"{trace}error: {text}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(status)
