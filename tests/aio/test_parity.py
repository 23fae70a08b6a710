"""The async client has the methods and parameters of the blocking one, and sends the same bytes."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime

import pytest

from faktory import AsyncClient, Client
from faktory.client import bulk, network
from faktory.wire import payload
from faktory.wire.session import Answer

from ..support import FakeNetwork
from .support import run_in

ONLY_BLOCKING = {
    "queue": "for code of faktory 1.0.0",
    "random_job_id": "for `queue`",
    "interrupt": "a task is cancelled instead",
    "close": "aclose",
}

METHODS = [
    name
    for name, value in vars(Client).items()
    if not name.startswith("_") and callable(value) and name not in ONLY_BLOCKING
]


def parameters(method):
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(method).parameters.values()
    ]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_parameters_of_the_blocking_one(name):
    method = getattr(AsyncClient, name)
    assert inspect.iscoroutinefunction(method)
    assert parameters(method) == parameters(getattr(Client, name))
    blocking = inspect.signature(getattr(Client, name)).return_annotation
    assert inspect.signature(method).return_annotation == blocking


def test_there_is_no_other_method():
    own = {name for name, value in vars(AsyncClient).items() if callable(value) and name[0] != "_"}
    assert own == {*METHODS, "aclose"}


def test_the_arguments_of_the_clients_are_the_same():
    blocking = inspect.signature(Client).parameters.keys()
    ours = inspect.signature(AsyncClient).parameters
    assert blocking - ours.keys() == {"connection", "buffer_size"}
    assert ours.keys() <= blocking
    kinds = {each.kind for name, each in ours.items() if name != "faktory"}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


JOB = {"jid": "12345678", "jobtype": "Resize", "args": [1, "é"], "at": 4102444800}
BULK = [{"jobtype": "Resize", "args": [number, "<&>"]} for number in range(2005)]
CALLS = {
    "connect": [()],
    "disconnect": [()],
    "push": [(JOB,), ({"jobtype": "a", "args": ()},), ({**JOB, "retry": 3},)],
    "push_bulk": [(BULK,), (iter([{"args": 1}, JOB, {**JOB, "args": [{1}]}] * 3), 2), ([],)],
    "fetch": [("a", "b")],
    "ack": [("12345678",)],
    "fail": [("12345678",), ("12345678", ValueError("x")), {"jid": "1", "backtrace": ["x"]}],
    "beat": [(), ("quiet", 5)],
    "info": [()],
    "flush": [()],
    "pause_queues": [("*",), ("a", "b")],
    "resume_queues": [("a",)],
    "remove_queues": [("a",)],
    "queue_latency": [("a", "b")],
    "clear": [("dead",)],
    "discard": [("dead",), {"target": "dead", "jobtype": "A"}],
    "kill": [{"target": "retries", "matching": "*x*"}],
    "requeue": [{"target": "dead", "jids": []}, {"target": "dead", "jids": ["12345678"]}],
    "batch_new": [{"success": JOB, "description": "d"}, {"complete": JOB, "parent_bid": "b-1"}],
    "batch_open": [("b1",)],
    "batch_commit": [("b1",)],
    "batch_status": [("b1",)],
    "track_get": [("12345678",)],
    "track_set": [("12345678", 5, "x", datetime(2030, 1, 1, tzinfo=UTC))],
    "command": [("QUEUE", "LATENCY", "a"), {"verb": "ECHO", "json": {"a": 1}}],
}


class Recorder:
    """A transport that records bytes; its answers are values of the right kind."""

    VALUES = {"PUSHB": {}, "QUEUE LATENCY": {"a": 1}}

    def __init__(self):
        self.sent = b""

    def exchange(self, sent):
        self.sent += b"".join(command.data for command in sent)
        return [Answer(each, self.VALUES.get(each.name), None) for each in sent]

    def close(self):
        pass

    abort = close


@pytest.fixture
def recorded(monkeypatch):
    """`recorded()`: a recorder that takes the server's place; jids are counted from 1."""

    complete_job = payload.complete_job

    def complete(*args):
        completed = complete_job(*args)
        return completed and {**completed, "jid": payload.new_jid()}

    def record():
        recorder, numbers = Recorder(), iter(range(10**8, 10**9))
        using = FakeNetwork(lambda *_: recorder)
        using.in_process = True
        monkeypatch.setattr(network, "current", using)
        monkeypatch.setattr(payload, "new_jid", lambda: str(next(numbers)))
        for module in (payload, bulk):
            monkeypatch.setattr(module, "complete_job", complete)  # which makes jids itself
        return recorder

    return record


def test_every_method_is_called_below():
    assert CALLS.keys() | {"call", "exchange"} == set(METHODS)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_sends_the_bytes_of_the_blocking_client(recorded, name):
    for given in CALLS[name]:
        args, kwargs = (given, {}) if isinstance(given, tuple) else ((), given)
        if args and not hasattr(args[0], "__len__"):  # an iterator for each client
            jobs = list(args[0])
            given_to = [(iter(jobs), *args[1:]), (iter(jobs), *args[1:])]
        else:
            given_to = [args, args]
        blocking = recorded()
        expected = getattr(Client(worker_id="w1"), name)(*given_to[0], **kwargs)
        asynchronous = recorded()

        async def main(args=given_to[1], kwargs=kwargs):
            return await getattr(AsyncClient(worker_id="w1"), name)(*args, **kwargs)

        result = run_in("asyncio", main())
        assert asynchronous.sent == blocking.sent
        if name == "push_bulk":  # jobs without a jid get one
            assert sorted(result.values()) == sorted(expected.values())
        else:
            assert result == expected


@pytest.mark.parametrize("name", ["fail", "beat", "batch_new", "track_set", "push", "command"])
def test_a_bad_value_is_refused_in_the_same_words(name):
    bad = {
        "fail": {"jid": "12345678", "backtrace": 5.5},
        "beat": {},
        "batch_new": {},
        "track_set": {"jid": "12345678", "percent": 101},
        "push": {"job": None},
        "command": {"verb": "A B"},
    }[name]
    url = "tcp://127.0.0.1:1"
    with pytest.raises(ValueError, match=r"\w") as expected:
        getattr(Client(url), name)(**bad)

    async def main():
        with pytest.raises(type(expected.value)) as caught:
            await getattr(AsyncClient(url), name)(**bad)
        assert str(caught.value) == str(expected.value)

    run_in("asyncio", main())
