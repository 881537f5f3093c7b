"""The processes and devices of a run: joining, who writes, and what if one is lost."""

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
from jfedsl.config.scale_fields import BY_CLUSTER
from jfedsl.errors import TrainingError, UserError, conflict, flag_error, one_line
from jfedsl.run.processes import rollcall
from jfedsl.sharding.slots import AXES

_JOIN_SECONDS = 30
_SILENT_SECONDS = 30  # after which a process counts as lost
_MOST_REASON = 300  # characters
_LOST = ("Gloo", "UNAVAILABLE", "DEADLINE", "ABORTED", "NCCL", "CANCELLED")
# Settings that processes need not have in common.
_OWN = ("process", "data_dir", "plugin", "compilation_cache", "progress")


def join(config: Config) -> None:
    """Joins the other processes of the run, if there are to be any; once in a process.

    Raises:
      UserError: they cannot be reached, or a cluster says nothing of any.
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
    # Where JAX is the first to hear that another process is lost, it says so and aborts this one:
    # a dump of all threads, which absl asks for, would hide that.
    faulthandler.disable()
    # A process that is told to end has to end: the others stop, and a checkpoint is there.
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
    """Starts the devices that JAX is to use, unless they have been started.

    Raises:
      UserError: there are none such here, or they cannot start.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of CUDA without its plugin
        reason = one_line(str(error), _MOST_REASON) or "its plugin is not installed"
        asked = getattr(jax.config, "jax_platforms", None)
        if not asked:
            raise UserError(f"no device can start here ({reason})") from None
        remedy = "set a platform that can, such as cpu, or none to let JAX choose"
        raise UserError(f"JAX_PLATFORMS={asked} cannot start here; {remedy} ({reason})") from None


def mesh_of(config: Config) -> Mesh | None:
    """The devices that a run is spread over; None for one.

    Raises:
      UserError: there are not so many, or the algorithm has no use for several processes.
    """
    local, processes = jax.local_device_count(), jax.process_count()
    alone = ALGORITHMS[config.algorithm].one_at_a_time(config)
    cause = " and ".join(f"--{flag}={getattr(config, flag)}" for flag in alone)
    if alone and processes > 1:
        reason = "one client computes at a time"
        raise conflict("coordinator", config.coordinator, cause, reason)
    if alone and config.devices not in (None, 1):
        raise flag_error("devices", config.devices, f"1 with {cause}")
    if config.devices is not None and config.devices > local:
        hint = "XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of a CPU"
        reason = hint if jax.default_backend() == "cpu" else ""
        raise flag_error("devices", config.devices, f"at most the {local} here", reason=reason)
    count = config.devices or (1 if alone else local)
    if count * processes == 1:
        return None
    rows = [
        [device for device in jax.devices() if device.process_index == process][:count]
        for process in range(processes)
    ]
    return Mesh(np.array(rows), AXES)


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


@contextlib.contextmanager
def only_first(open_: Callable[[], contextlib.AbstractContextManager[Any]]) -> Iterator[str]:
    """Enters a context in the first process; all get its text, or its error, as theirs.

    Raises:
      UserError: the first process's.
    """
    if jax.process_count() == 1:
        with open_() as found:
            yield str(found)
        return
    with contextlib.ExitStack() as stack:
        error, text = None, ""
        if first():
            try:
                text = str(stack.enter_context(open_()))
            except UserError as raised:
                error, text = raised, f"\0{raised}"
        found = texts(text)[0]
        if error is not None:
            raise error
        if found.startswith("\0"):
            raise UserError(found[1:])
        yield found


def texts(own: str) -> list[str]:
    """What every process has to say, in their order; all wait for each other."""
    if jax.process_count() == 1:
        return [own]
    words = np.frombuffer(own.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(words.size)))
    room = np.zeros(max(1, sizes.max()), np.uint8)
    room[: words.size] = words
    every = np.asarray(multihost_utils.process_allgather(room))
    return [bytes(row[:size]).decode() for row, size in zip(every, sizes, strict=True)]


def largest(own: list[int]) -> list[int]:
    """The largest of every process's int32 numbers, each; all wait for each other."""
    if jax.process_count() == 1:
        return own
    found: list[int] = np.max(
        multihost_utils.process_allgather(np.array(own, np.int32)), axis=0
    ).tolist()
    return found


def total(own: np.ndarray) -> np.ndarray:
    """The sum of every process's int64 array, exact."""
    if jax.process_count() == 1:
        return own
    every = multihost_utils.process_allgather(own.view(np.uint32))
    return np.asarray(every).view(np.int64).sum(axis=0)


def agree(config: Config) -> None:
    """Checks that all processes were started with the same settings and see as many devices.

    Raises:
      UserError: in all of them, if one differs.
    """
    if jax.process_count() == 1:
        return
    own = {n: v for n, v in dataclasses.asdict(config).items() if n not in _OWN}
    own["number of devices"] = jax.local_device_count()
    every = [json.loads(text) for text in texts(json.dumps(own))]
    names = [name for name in own if any(one.get(name) != every[0].get(name) for one in every)]
    if names:
        differing = ", ".join(names)
        raise UserError(f"all processes of a run need the same settings; differing: {differing}")


def lost(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone."""
    of_jax = jax.process_count() > 1 and isinstance(error, (RuntimeError, ValueError))
    return of_jax and any(word in str(error) for word in _LOST)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends this process with one line if it fails or another one of the run is lost.

    Of a run of several processes, that is: the usual way out would wait for the others, and these
    for this one. They notice that it is gone.
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
        with contextlib.suppress(OSError):  # full, or of a terminal that is gone
            print(f"{trace}error: {text}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(status)
