"""`Client.queue`, and what else of faktory 1.0.0 a client keeps."""

from __future__ import annotations

import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

import faktory
from faktory import Client, FaktoryOutcomeUnknown, FaktoryPayloadError, connection, get_client
from faktory.server import EmbeddedServer

from .conftest import OK, payload

REFUSED = b"-ERR jobs must have a reasonable jid parameter\r\n"
FUTURE = "2100-01-01T00:00:00Z"


class FakeConnection:
    """A connection as tests written for faktory 1.0.0 make one; `calls` are those to it."""

    def __init__(self, *answers: str) -> None:
        self.calls: list[object] = []
        self._answers = iter(answers)

    def connect(self) -> bool:
        self.calls.append("connect")
        return True

    def disconnect(self) -> None:
        self.calls.append("disconnect")

    def reply(self, command: str, data: object = None) -> None:
        self.calls.append((command, data))

    def get_message(self):
        yield from self._answers


@pytest.fixture
def queued(scripted):
    """`queued(*args, **kwargs)` calls `Client.queue` and returns the job that was sent."""

    def queued(*args, **kwargs):
        server = scripted([":greet", "PUSH", OK, "END"])
        assert Client(server.url).queue(*args, **kwargs) is True
        return payload(server.lines[0][1])

    return queued


# What is sent


def test_a_job_is_sent_with_the_defaults_of_1_0_0(queued):
    sent = queued("resize")
    jid = sent.pop("jid")
    assert len(jid) == 32
    assert int(jid, 16)
    assert sent == {
        "queue": "default",
        "jobtype": "resize",
        "priority": 5,
        "args": [],
        "retry": 5,
        "backtrace": 0,
    }


def test_every_argument_is_sent_unchanged_in_the_order_of_1_0_0(queued):
    sent = queued("resize", [1], "images", 9, "my-own-jid", {"a": 1}, 60, FUTURE, 0, 3)
    assert sent == {
        "jid": "my-own-jid",
        "queue": "images",
        "jobtype": "resize",
        "priority": 9,
        "args": [1],
        "custom": {"a": 1},
        "reserve_for": 60,
        "at": FUTURE,
        "retry": 0,
        "backtrace": 3,
    }


@pytest.mark.parametrize("falsy", [{"custom": {}}, {"reserve_for": 0}, {"at": ""}])
def test_an_optional_field_is_left_out_only_for_none(queued, falsy):
    assert queued("resize", **falsy).items() >= falsy.items()


@pytest.mark.parametrize(
    "make",
    [
        lambda: [1, 2],
        lambda: (1, 2),
        lambda: {1, 2},
        lambda: iter([1, 2]),
        lambda: (number for number in (1, 2)),
    ],
)
def test_arguments_are_a_list_tuple_set_or_iterator(queued, make):
    assert queued("resize", make())["args"] == [1, 2]


def test_a_retry_of_none_is_sent_as_the_servers_default(queued):
    assert queued("resize", retry=None)["retry"] == 25


def test_an_empty_jid_is_replaced(queued):
    assert len(queued("resize", jid="")["jid"]) == 32


def test_the_jid_comes_from_random_job_id_which_may_be_overridden(scripted):
    class Numbered(Client):
        def random_job_id(self) -> str:
            return "number-1"

    server = scripted([":greet", "PUSH", OK, "END"])
    assert Numbered(server.url).queue("resize")
    assert payload(server.lines[0][1])["jid"] == "number-1"


def test_random_job_ids_differ():
    client = Client("tcp://nowhere")
    assert client.random_job_id() != client.random_job_id()


# What is refused


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"task": ""}, "Empty task name"),
        ({"task": None}, "Empty task name"),
        ({"task": "resize", "queue": ""}, "Empty queue name"),
        ({"task": "resize", "queue": None}, "Empty queue name"),
        *(
            (
                {"task": "resize", "args": args},
                "Argument `args` must be an iterator, generator, list, tuple or a set",
            )
            for args in (
                *("text", b"bytes", {"a": 1}, 7, 0, range(3)),
                *(frozenset({1}), {1: 0}.keys(), {1: 0}.values()),
            )
        ),
    ],
)
def test_the_three_errors_of_1_0_0_are_raised_without_a_connection(closed_port, wrong, text):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Client(f"tcp://127.0.0.1:{closed_port}").queue(**wrong)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    "wrong",
    [
        {"args": [2**53 + 1]},
        {"args": ["\ud800"]},
        {"args": [{1: "one"}]},
        {"args": [float("nan")]},
        {"args": [datetime(2026, 1, 2)]},
        {"custom": {"a": object()}},
        {"at": datetime(2026, 1, 2)},
    ],
)
def test_a_job_that_json_cannot_hold_is_refused_without_a_connection(closed_port, wrong):
    with pytest.raises(FaktoryPayloadError):
        Client(f"tcp://127.0.0.1:{closed_port}").queue("resize", **wrong)


@pytest.mark.parametrize("name", ["retry", "backtrace", "reserve_for"])
def test_a_number_that_is_too_large_is_refused_with_the_limit(closed_port, name):
    with pytest.raises(FaktoryPayloadError, match=f"{name} is .*, {2**53} at most") as caught:
        Client(f"tcp://127.0.0.1:{closed_port}").queue("resize", **{name: 2**60})
    assert "Send text" not in str(caught.value)


@pytest.mark.parametrize(
    "rejection", [REFUSED, b"-NOTUNIQUE Job not unique\r\n", b"-ERR internal error\r\n"]
)
def test_a_rejection_by_the_server_is_false_and_logged(scripted, caplog, rejection):
    server = scripted([":greet", "PUSH", rejection, "PUSH", OK, ":silence"])
    with Client(server.url) as client:
        assert client.queue("resize", jid="x") is False
        assert client.queue("resize") is True
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.name == "faktory.connection"
    assert warning.getMessage().startswith("resize x is not queued: ")
    assert rejection[5:-2].decode() in warning.getMessage()


@pytest.mark.parametrize(
    "wrong",
    [
        {"jid": "short"},
        {"jid": 12345678},
        {"retry": "5"},
        {"retry": True},
        {"backtrace": 1.5},
        {"reserve_for": 86_401},
        {"reserve_for": "60"},
        {"custom": [1]},
        {"at": "2026-01-01"},
        {"at": 1_700_000_000},
        {"queue": "two words"},
        {"queue": "two words", "at": ""},
        {"queue": 7},
        {"task": 7},
    ],
)
def test_nothing_else_is_checked_before_the_server_refuses_it(caplog, wrong):
    with EmbeddedServer() as server, Client(server.url) as client:
        assert client.queue(**{"task": "resize", **wrong}) is False
        assert "PUSH" in [verb for verb, _ in server.commands]
        assert client.info()["faktory"]["total_enqueued"] == 0
    assert "is not queued" in caplog.text


@pytest.mark.parametrize("name", ["two words", "umlaut-ü", "line\n", 7])
def test_a_scheduled_job_that_the_server_would_lose_is_false(caplog, name):
    with EmbeddedServer() as server, Client(server.url) as client:
        assert client.queue("resize", queue=name, at=FUTURE) is False
        assert client.info()["faktory"]["tasks"]["Scheduled"]["size"] == 0
        assert client.queue("resize", queue="fine", at=FUTURE) is True
        assert client.info()["faktory"]["tasks"]["Scheduled"]["size"] == 1
    assert "lose the job when it is due" in caplog.text


def test_a_job_with_an_unknown_outcome_raises(scripted):
    server = scripted([":greet", "PUSH"])
    client = Client(server.url)
    with pytest.raises(FaktoryOutcomeUnknown):
        client.queue("resize")
    assert not client.is_connected


# Connecting


def test_a_client_that_is_not_connected_connects_and_disconnects_around_each_job(scripted):
    server = scripted([":greet", "PUSH", OK, "END"], [":greet", "PUSH", REFUSED, "END"])
    client = Client(server.url)
    assert client.queue("resize")
    assert not client.is_connected
    assert not client.queue("resize")
    assert not client.is_connected


def test_a_client_that_is_connected_stays_so(scripted):
    server = scripted([":greet", "PUSH", OK, "PUSH", OK, "END"])
    with Client(server.url) as client:
        assert client.queue("resize")
        assert client.queue("resize")
        assert client.is_connected
    assert server.ended[0].wait(20)


def test_threads_that_share_an_unconnected_client_leave_it_unconnected():
    with EmbeddedServer() as server:
        client = Client(server.url)
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(lambda number: client.queue("resize", [number]), range(200)))
        assert not client.is_connected
        with client:
            assert client.info()["faktory"]["queues"] == {"default": 200}


def test_a_child_forked_while_a_job_is_queued_can_queue_too(scripted, in_child):
    children = []
    server = scripted(
        [":greet", "PUSH", lambda: children.append(in_child(lambda: client.queue("b"))), OK, "END"],
        [":greet", "PUSH", OK, "END"],
    )
    client = Client(server.url)
    assert client.queue("a")
    assert children == [True]
    assert not client.is_connected


def test_connect_and_disconnect_may_be_overridden(scripted):
    calls = []

    class Watched(Client):
        def connect(self):
            calls.append("connect")
            return super().connect()

        def disconnect(self):
            calls.append("disconnect")
            super().disconnect()

    server = scripted([":greet", "PUSH", OK, "END"])
    assert Watched(server.url).queue("resize")
    assert calls == ["connect", "disconnect"]


# What the constructor takes


def test_the_arguments_of_1_0_0_are_accepted(scripted):
    server = scripted([":greet", "END"])
    with connection(
        server.url, None, timeout=7, buffer_size=8192, labels=["a"], worker_id="w-1", log=None
    ) as client:
        assert client.timeout == 7
    hello = payload(server.lines[0][0])
    assert hello["labels"] == ["a"]


def test_an_empty_address_is_the_default(monkeypatch):
    monkeypatch.delenv("FAKTORY_PROVIDER", raising=False)
    monkeypatch.setenv("FAKTORY_URL", "tcp://somewhere:7500")
    assert Client("").faktory[:2] == ("somewhere", 7500)


def test_the_address_has_host_and_port():
    client = get_client("tcp+tls://:secret@faktory.example")
    assert isinstance(client, faktory.Client)
    assert (client.faktory.host, client.faktory.port) == ("faktory.example", 7419)


def test_connecting_and_disconnecting_are_logged(scripted, caplog):
    server = scripted([":greet", "END"])
    caplog.set_level(logging.DEBUG, "faktory.connection")
    client = Client(server.url)
    client.disconnect()
    client.connect()
    client.connect()
    client.disconnect()
    client.disconnect()
    assert caplog.record_tuples == [
        ("faktory.connection", logging.INFO, f"Connecting to 127.0.0.1:{server.port}"),
        ("faktory.connection", logging.DEBUG, "Connected to Faktory"),
        ("faktory.connection", logging.INFO, "Disconnected"),
    ]


def test_another_log_may_be_passed_and_tls_is_logged(closed_port, caplog):
    caplog.set_level(logging.DEBUG, "mine")
    client = Client(f"tcp+tls://127.0.0.1:{closed_port}", log=logging.getLogger("mine"))
    with pytest.raises(ConnectionError):
        client.queue("resize")
    assert caplog.record_tuples == [
        ("mine", logging.INFO, f"Connecting to 127.0.0.1:{closed_port}"),
        ("mine", logging.DEBUG, "Using TLS"),
    ]


# A fake connection


def test_a_fake_connection_gets_the_dict_of_1_0_0_between_connect_and_disconnect():
    fake = FakeConnection("OK")
    client = Client(connection=fake)
    assert client.faktory is fake
    assert client.queue("resize", (1,), jid="x", at=datetime(2026, 1, 2), retry=None) is True
    connect, (command, job), disconnect = fake.calls
    assert (connect, command, disconnect) == ("connect", "PUSH", "disconnect")
    assert type(job) is dict
    assert job == {
        "jid": "x",
        "queue": "default",
        "jobtype": "resize",
        "priority": 5,
        "args": [1],
        "at": datetime(2026, 1, 2),
        "retry": None,
        "backtrace": 0,
    }


def test_any_other_answer_of_a_fake_connection_is_false(caplog):
    assert Client(None, FakeConnection("ERR no")).queue("resize", jid="x") is False
    assert caplog.messages == ["resize x is not queued: ERR no"]


def test_a_with_block_connects_and_disconnects_a_fake_connection():
    fake = FakeConnection("OK", "OK")
    with get_client(connection=fake) as client:
        assert client.is_connected
        assert client.queue("resize")
        assert client.is_connected
    assert not client.is_connected
    assert [call for call in fake.calls if isinstance(call, str)] == ["connect", "disconnect"]


def test_a_fake_connection_that_does_not_connect_leaves_the_client_unconnected():
    fake = FakeConnection()
    fake.connect = lambda: False
    client = Client(connection=fake)
    assert client.connect() is False
    assert not client.is_connected


def test_a_fake_connection_is_disconnected_when_it_fails():
    fake = FakeConnection()
    with pytest.raises(StopIteration):
        Client(connection=fake).queue("resize")
    assert fake.calls[-1] == "disconnect"


@pytest.mark.parametrize(
    "act",
    [
        lambda client: client.push({"jobtype": "resize", "args": []}),
        lambda client: client.push_bulk([{"jobtype": "resize", "args": []}]),
        lambda client: client.fetch("default"),
        lambda client: client.info(),
        lambda client: client.command("PING"),
    ],
)
def test_a_fake_connection_knows_no_other_command(act):
    fake = FakeConnection("OK")
    with pytest.raises(NotImplementedError, match="only knows `queue`"):
        act(Client(connection=fake))
    assert fake.calls == []


def test_a_fake_connection_needs_no_address(monkeypatch):
    monkeypatch.setenv("FAKTORY_URL", "no address at all")
    assert not Client(connection=FakeConnection()).is_connected


# A real server


def test_a_real_server_takes_and_refuses_as_the_embedded_one(real_server_url, caplog):
    queue = f"compat-{socket.gethostname()}-{id(caplog)}"
    with Client(real_server_url) as client:
        try:
            assert client.queue("resize", [1], queue=queue, custom={"a": 1}) is True
            assert client.queue("resize", jid="short", queue=queue) is False
            assert client.queue("resize", queue="two words") is False
            job = client.fetch(queue)
            assert job is not None
            assert (job["args"], job["retry"], job["custom"]) == ([1], 5, {"a": 1})
            client.ack(job["jid"])
        finally:
            client.remove_queues(queue)
