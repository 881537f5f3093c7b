"""The processes of a run tell process 0 their numbers before JAX joins them.

JAX aborts a process, with dozens of lines, if one does not come, comes twice, or if the port is in
use. Here each of these is one line.
"""

import errno
import json
import socket
import time
from typing import Any

from jfedsl.errors import UserError, flag_error

_SECONDS = 30  # for all to come
_MORE = 5  # for the answer
_LONGEST = 1000  # bytes of a message


def answer_all(address: str, processes: int) -> None:
    """Waits, as process 0, until all others have come.

    Raises:
      UserError: the port is in use, one does not come or comes twice; the others are told so.
    """
    until = time.monotonic() + _SECONDS
    came: dict[int, socket.socket] = {}
    error: UserError | None = None
    try:
        with _listening(address) as server:
            while error is None and len(came) < processes - 1:
                server.settimeout(max(0.001, until - time.monotonic()))
                try:
                    caller, _ = server.accept()
                except TimeoutError:
                    missing = sorted(set(range(1, processes)) - set(came))
                    error = _missing(address, missing)
                else:
                    error = _enter(came, caller, address, processes)
        for caller in came.values():
            _say(caller, {"error": "" if error is None else str(error)})
    finally:
        for caller in came.values():
            caller.close()
    if error is not None:
        raise error


def admit(address: str, processes: int, process: int) -> None:
    """Waits until process 0 has heard of all.

    Raises:
      UserError: it cannot be reached, or says that one does not come or comes twice.
    """
    until = time.monotonic() + _SECONDS
    with _connected(address, until) as caller:
        _say(caller, {"process": process, "processes": processes})
        caller.settimeout(max(1, until - time.monotonic()) + _MORE)
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
        except OSError as error:  # a name too: on a cluster it may be known only after a while
            if time.monotonic() > until:
                allowed = "HOST:PORT of process 0, which starts at about the same time"
                raise flag_error("coordinator", address, allowed, reason=str(error)) from None
            time.sleep(0.2)


def _enter(
    came: dict[int, socket.socket], caller: socket.socket, address: str, processes: int
) -> UserError | None:
    """Notes who calls; an error if that cannot be."""
    caller.settimeout(1)
    said = _heard(caller)
    number = said.get("process")
    if not isinstance(number, int):  # somebody else's
        caller.close()
        return None
    fits = said.get("processes") == processes and 0 < number < processes
    if fits and number not in came:
        came[number] = caller
        return None
    came[-1] = caller  # to be told as well
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
        pass  # it has ended, which the next one to need it will notice


def _heard(caller: socket.socket) -> dict[str, Any]:
    """One message; empty if that is none."""
    text = b""
    try:
        while not text.endswith(b"\n") and len(text) < _LONGEST:
            part = caller.recv(_LONGEST)
            if not part:
                break
            text += part
        found = json.loads(text)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
