"""A line from the inside: who may come into the middle of a command, and what the log hears."""

from __future__ import annotations

import logging

import pytest

from faktory.client import Client, network
from faktory.exceptions import FaktoryServerError
from faktory.wire.session import Answer

from ..support import FakeNetwork

JOB = {"jobtype": "Resize", "args": ["secret"], "jid": "12345678"}


class Interrupted:
    """Stands in for a transport: `handler` runs in the middle of the first exchange."""

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
    """`interrupted(handler)` makes a client into whose first command a signal handler comes."""

    def make(handler):
        line = Interrupted(lambda: handler(client))
        monkeypatch.setattr(network, "current", FakeNetwork(lambda *_: line))
        client = Client("tcp://127.0.0.1:1")
        return client, line

    return make


def test_a_signal_handler_that_uses_the_client_in_use_is_told_so_and_does_no_harm(interrupted):
    told = []

    def handler(client):
        with pytest.raises(RuntimeError, match="give it a client of its own") as caught:
            client.push(JOB)
        told.append(caught.value)

    client, line = interrupted(handler)
    assert client.push(JOB) == "12345678"
    assert client.push(JOB) == "12345678"
    assert len(told) == 1
    assert line.ended == []


def test_so_it_is_while_the_client_connects(interrupted, monkeypatch):
    told = []

    def connect(*_):
        for use in (client.connect, client.info):
            with pytest.raises(RuntimeError, match="give it a client of its own"):
                use()
            told.append(use)
        return line

    client, line = interrupted(lambda _: None)
    monkeypatch.setattr(network, "current", FakeNetwork(connect))
    assert client.push(JOB) == "12345678"
    assert len(told) == 2


def test_a_signal_handler_may_close_the_client_in_use(interrupted):
    def handler(client):
        client.close()
        raise SystemExit

    client, line = interrupted(handler)
    with pytest.raises(SystemExit):
        client.push(JOB)
    assert line.ended == ["abort"]  # no END into the middle of a command
    assert client.push(JOB) == "12345678"
    client.close()
    assert line.ended == ["abort", "close"]


@pytest.mark.parametrize("shown", [False, True])
def test_the_log_shows_what_a_refusal_repeats_of_a_job_only_where_that_is_wanted(
    scripted, caplog, shown
):
    server = scripted([":greet", "PUSH", b'-ERR no such {"args":["secret"]}\r\n', ":silence"])
    caplog.set_level(logging.DEBUG, "faktory.connection")
    client = Client(server.url, log_payloads=shown)
    with pytest.raises(FaktoryServerError, match="secret"):
        client.push(JOB)
    client.close()
    assert "< ERR no such" in caplog.text
    assert ("secret" in caplog.text) is shown


def test_the_log_hears_of_a_line_that_is_made_anew(scripted, caplog):
    server = scripted([":greet"], [":greet", "PUSH", b"+OK\r\n", ":silence"])
    caplog.set_level(logging.DEBUG, "faktory.connection")
    client = Client(server.url)
    client.connect()
    assert server.ended[0].wait(5)
    client.push(JOB)
    client.close()
    assert "once more, over a new connection: " in caplog.text
