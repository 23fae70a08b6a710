"""A network takes the place of another under clients that exist already."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faktory.client import Client, network
from faktory.testing import MemoryServer
from faktory.wire.session import Answer

from ..support import FakeNetwork

JOB = {"jobtype": "Resize", "args": []}


class Transport:
    """Answers OK to everything; its uses are added to `events`."""

    def __init__(self, name: str, events: list[str]) -> None:
        self._name = name
        self._events = events

    def exchange(self, sent):
        self._events.append(f"{self._name} {sent[0].name}")
        return [Answer(command, None, None) for command in sent]

    def close(self) -> None:
        self._events.append(f"{self._name} close")

    def abort(self) -> None:
        self._events.append(f"{self._name} abort")


@pytest.fixture(autouse=True)
def sockets_are_back() -> Iterator[None]:
    yield
    network.use(network.SOCKETS)


def named(name: str, events: list[str]) -> FakeNetwork:
    def connect(*_: object) -> Transport:
        events.append(f"{name} connect")
        return Transport(name, events)

    return FakeNetwork(connect)


def test_a_client_uses_the_network_of_the_moment_and_drops_the_connection_of_another() -> None:
    events: list[str] = []
    client = Client("tcp://127.0.0.1:1")
    for name in "ab":
        network.use(named(name, events))
        client.push(JOB)
        client.push(JOB)
    client.close()
    network.use(named("c", events))
    client.connect()
    assert events == [
        *("a connect", "a PUSH", "a PUSH", "a abort"),
        *("b connect", "b PUSH", "b PUSH", "b close"),
        "c connect",
    ]


def test_a_connection_waits_for_the_end_of_a_test_mode() -> None:
    events: list[str] = []
    client = Client("tcp://127.0.0.1:1")
    before = named("a", events)
    network.use(before)
    client.push(JOB)
    memory = MemoryServer()
    network.use(memory)
    client.push(JOB)
    network.use(before)
    client.push(JOB)
    assert events == ["a connect", "a PUSH", "a PUSH"]
    assert len(memory.jobs) == 1


def test_in_a_test_mode_a_client_is_connected_without_connecting() -> None:
    client = Client("tcp://127.0.0.1:1")
    assert not client.is_connected
    network.use(MemoryServer())
    assert client.is_connected
    assert client.connect()
    client.close()
    network.use(network.SOCKETS)
    assert not client.is_connected


def test_only_a_test_mode_keeps_jobs() -> None:
    with pytest.raises(RuntimeError, match=r"`with faktory\.testing\.fake\(\):` say"):
        network.memory()
    memory = MemoryServer()
    network.use(memory)
    assert network.memory() is memory
