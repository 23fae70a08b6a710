"""A connection: signal handlers in the middle of a command, and what is logged."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pytest

from faktory.client import Client, connections, network
from faktory.exceptions import FaktoryOutcomeUnknown, FaktoryServerError
from faktory.wire.session import Answer

from ..support import FakeNetwork

JOB = {"jobtype": "Resize", "args": ["secret"], "jid": "12345678"}


class Interrupted:
    """A fake transport: `handler` runs in the middle of the first exchange."""

    def __init__(self, handler):
        self.handlers = [handler]
        self.ended = []

    def exchange(self, sent):
        while self.handlers:
            self.handlers.pop()()
        return [Answer(command, None, None) for command in sent]

    def close(self):
        self.ended.append("close")

    def abort(self):
        self.ended.append("abort")


@pytest.fixture
def interrupted(monkeypatch):
    """`interrupted(handler)` makes a client whose first command a signal handler interrupts."""

    def make(handler):
        transport = Interrupted(lambda: handler(client))
        monkeypatch.setattr(network, "current", FakeNetwork(lambda *_: transport))
        client = Client("tcp://127.0.0.1:1")
        return client, transport

    return make


def test_a_signal_handler_that_uses_the_interrupted_client_gets_an_error(
    interrupted,
):
    errors = []

    def handler(client):
        with pytest.raises(RuntimeError, match="give it a client of its own") as caught:
            client.push(JOB)
        errors.append(caught.value)

    client, transport = interrupted(handler)
    assert client.push(JOB) == "12345678"
    assert client.push(JOB) == "12345678"
    assert len(errors) == 1
    assert transport.ended == []


def test_a_signal_handler_cannot_use_a_client_that_is_connecting(interrupted, monkeypatch):
    errors = []

    def connect(*_):
        for use in (client.connect, client.info):
            with pytest.raises(RuntimeError, match="give it a client of its own"):
                use()
            errors.append(use)
        return transport

    client, transport = interrupted(lambda _: None)
    monkeypatch.setattr(network, "current", FakeNetwork(connect))
    assert client.push(JOB) == "12345678"
    assert len(errors) == 2


def test_a_signal_handler_may_close_the_interrupted_client(interrupted):
    def handler(client):
        client.close()
        raise SystemExit

    client, transport = interrupted(handler)
    with pytest.raises(SystemExit):
        client.push(JOB)
    assert transport.ended == ["abort"]  # no END into the middle of a command
    assert client.push(JOB) == "12345678"
    client.close()
    assert transport.ended == ["abort", "close"]


@pytest.mark.parametrize("shown", [False, True])
def test_the_log_shows_the_job_that_an_error_repeats_only_if_asked_for(scripted, caplog, shown):
    server = scripted([":greet", "PUSH", b'-ERR no such {"args":["secret"]}\r\n', ":silence"])
    caplog.set_level(logging.DEBUG, "faktory.connection")
    client = Client(server.url, log_payloads=shown)
    with pytest.raises(FaktoryServerError, match="secret"):
        client.push(JOB)
    client.close()
    assert "< ERR no such" in caplog.text
    assert ("secret" in caplog.text) is shown


def test_a_reconnect_is_logged(scripted, caplog):
    server = scripted([":greet"], [":greet", "PUSH", b"+OK\r\n", ":silence"])
    caplog.set_level(logging.DEBUG, "faktory.connection")
    client = Client(server.url)
    client.connect()
    assert server.ended[0].wait(20)
    client.push(JOB)
    client.close()
    assert "once more, over a new connection: " in caplog.text


@pytest.mark.parametrize("takes", [5, 10])
def test_a_scheduled_job_that_became_due_while_connecting_is_not_pushed_again(
    scripted, monkeypatch, takes
):
    """Its outcome is unknown: the server may have queued the first one."""
    clock = Clock(datetime(2030, 1, 1, tzinfo=UTC))
    monkeypatch.setattr(connections, "time", clock)
    open_socket = network.SOCKETS.connect
    monkeypatch.setattr(
        network, "current", FakeNetwork(lambda *given: clock.tick(takes) or open_socket(*given))
    )
    job = {**JOB, "at": "2030-01-01T00:00:12Z", "created_at": "2030-01-01T00:00:00Z"}
    again = ["PUSH", b"+OK\r\n"] if takes == 5 else []
    server = scripted([":greet", "PUSH"], [":greet", *again, ":silence"])
    client = Client(server.url)
    if takes == 5:
        assert client.push(job) == "12345678"
    else:
        with pytest.raises(FaktoryOutcomeUnknown, match="PUSH of 12345678 was sent") as caught:
            client.push(job)
        assert caught.value.jids == ["12345678"]
    client.close()


class Clock:
    """The time, in seconds since the epoch."""

    def __init__(self, now):
        self.now = now.timestamp()

    def __call__(self):
        return self.now

    def tick(self, seconds):
        self.now += seconds
