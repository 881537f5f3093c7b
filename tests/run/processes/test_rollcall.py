"""Processes that meet before JAX joins them, as threads here."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock

import pytest

from jfedsl.errors import UserError
from jfedsl.run.processes import rollcall


def free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def said(call: Callable[..., None], *arguments: object) -> str:
    try:
        call(*arguments)
    except UserError as error:
        return str(error)
    return ""


def met(address: str, processes: int, *others: tuple[int, int]) -> list[str]:
    """Errors of process 0 and of others, each given by (processes, process); "" for none."""
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(said, rollcall.answer_all, address, processes)]
        calls += [pool.submit(said, rollcall.admit, address, *other) for other in others]
        return [call.result() for call in calls]


def test_all_meet_whoever_else_calls() -> None:
    address = free()
    host, port = address.split(":")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(said, rollcall.answer_all, address, 3)
        rollcall._connected(address, 1e9).close()
        others = [pool.submit(said, rollcall.admit, address, 3, number) for number in (1, 2)]
        assert [call.result() for call in (first, *others)] == ["", "", ""]


@pytest.mark.parametrize(
    ("processes", "others", "text"),
    [
        (3, [(3, 1), (3, 1)], "two processes have --process=1; give each another number"),
        (
            3,
            [(2, 1)],
            "--processes must be the same in all processes, not 3; process 1 has 2",
        ),
        (3, [(3, 2)], "processes 1 did not come in 0.5 s"),
    ],
)
def test_who_does_not_fit_is_named_to_all(
    processes: int, others: list[tuple[int, int]], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollcall, "_SECONDS", 0.5)
    assert all(text in line for line in met(free(), processes, *others))


def test_a_host_that_is_not_known_yet_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = socket.getaddrinfo, Mock(side_effect=socket.gaierror(-2, "not known"))

    def look_up(*arguments: Any, **named: Any) -> Any:
        return known(*arguments, **named) if asked.called else asked()

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert met(free(), 2, (2, 1)) == ["", ""]
    assert asked.called
    monkeypatch.setattr(rollcall, "_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    text = said(rollcall.admit, "host:1", 2, 1)
    assert "at about the same time, not host:1; [Errno -2] not known" in text


def test_a_port_in_use_and_nobody_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollcall, "_SECONDS", 0.3)
    monkeypatch.setattr(rollcall, "_ANSWER_SECONDS", 0)
    address = free()
    assert "HOST:PORT of process 0, which starts at" in said(rollcall.admit, address, 2, 1)
    with socket.create_server(("", int(address.split(":")[1]))):
        text = said(rollcall.answer_all, address, 2)
        assert "a port that is free on the machine" in text and "started twice" in text
        assert "no process answers there" in said(rollcall.admit, address, 2, 1)
