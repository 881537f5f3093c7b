"""The processes of a run tell process 0 their numbers before JAX joins them.

If a process is missing or started twice, or if the port is in use, JAX would abort with dozens of
lines. Here each of these mistakes is an error of one line.
"""

import errno
import json
import socket
import time
from typing import Any

from jfedsl.errors import UserError, flag_error

_SECONDS = 30  # until all processes have called
_ANSWER_SECONDS = 5  # more, until process 0 answers
_MOST_BYTES = 1000  # in a message


def answer_all(address: str, processes: int) -> None:
    """Waits, in process 0, until all other processes have called.

    Args:
      address: HOST:PORT of process 0.
      processes: how many there are, process 0 included.

    Raises:
      UserError: the port is in use, or a process does not call or calls twice; the others get the
        same error.
    """
    until = time.monotonic() + _SECONDS
    callers: dict[int, socket.socket] = {}  # by number of the process
    error: UserError | None = None
    try:
        with _listening(address) as server:
            while error is None and len(callers) < processes - 1:
                server.settimeout(max(0.001, until - time.monotonic()))
                try:
                    caller, _ = server.accept()
                except TimeoutError:
                    missing = sorted(set(range(1, processes)) - set(callers))
                    error = _missing(address, missing)
                else:
                    error = _enter(callers, caller, address, processes)
        for caller in callers.values():
            _say(caller, {"error": "" if error is None else str(error)})
    finally:
        for caller in callers.values():
            caller.close()
    if error is not None:
        raise error


def admit(address: str, processes: int, process: int) -> None:
    """Calls process 0, and waits until all processes have.

    Args:
      address: HOST:PORT of process 0.
      processes: how many there are.
      process: number of this process, from 1.

    Raises:
      UserError: process 0 cannot be reached, or a process does not call or calls twice.
    """
    until = time.monotonic() + _SECONDS
    with _connected(address, until) as caller:
        _say(caller, {"process": process, "processes": processes})
        caller.settimeout(max(1, until - time.monotonic()) + _ANSWER_SECONDS)
        answer = _heard(caller)
    if "error" not in answer:
        allowed = "HOST:PORT of process 0 of a run that starts now"
        raise flag_error("coordinator", address, allowed, reason="no process answers there")
    if answer["error"]:
        raise UserError(str(answer["error"]))


def _listening(address: str) -> socket.socket:
    port = int(address.rpartition(":")[2])
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        allowed = "HOST:PORT with a port that is free on the machine of process 0"
        reason = str(error)
        if error.errno == errno.EADDRINUSE:
            reason += "; --process=0 may have been started twice"
        raise flag_error("coordinator", address, allowed, reason=reason) from None


def _connected(address: str, until: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    while True:
        try:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=1)
        except OSError as error:  # an unknown host too: a cluster may learn names late
            if time.monotonic() > until:
                allowed = "HOST:PORT of process 0, which starts at about the same time"
                raise flag_error("coordinator", address, allowed, reason=str(error)) from None
            time.sleep(0.2)


def _enter(
    callers: dict[int, socket.socket], caller: socket.socket, address: str, processes: int
) -> UserError | None:
    """Enters a caller by its number; returns the error if the number is wrong or taken."""
    caller.settimeout(1)
    said = _heard(caller)
    number = said.get("process")
    if not isinstance(number, int):  # not a process of a run
        caller.close()
        return None
    fits = said.get("processes") == processes and 0 < number < processes
    if fits and number not in callers:
        callers[number] = caller
        return None
    callers[-1] = caller  # so that it gets the error too
    if fits:
        return UserError(f"two processes have --process={number}; give each another number")
    reason = f"process {number} has {said.get('processes')}"
    return flag_error("processes", processes, "the same in all processes", reason=reason)


def _missing(address: str, missing: list[int]) -> UserError:
    numbers = ", ".join(map(str, missing))
    return UserError(f"--coordinator={address}: processes {numbers} did not come in {_SECONDS} s")


def _say(to: socket.socket, message: dict[str, Any]) -> None:
    try:
        to.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # that process has ended, and joining will fail


def _heard(caller: socket.socket) -> dict[str, Any]:
    """One message; an empty dictionary if it cannot be read."""
    text = b""
    try:
        while not text.endswith(b"\n") and len(text) < _MOST_BYTES:
            part = caller.recv(_MOST_BYTES)
            if not part:
                break
            text += part
        message = json.loads(text)
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}
