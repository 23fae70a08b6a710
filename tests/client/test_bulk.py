"""Chunks of jobs: what is sent, how much is held, and how each job ends after a fault."""

from __future__ import annotations

import threading
from threading import Event

import pytest

from faktory.client.bulk import push_all, push_chunk
from faktory.exceptions import (
    FaktoryBulkError,
    FaktoryConnectionError,
    FaktoryJSONError,
    FaktoryOutcomeUnknown,
    FaktoryPayloadError,
    FaktoryServerError,
)
from faktory.wire import commands

from .conftest import job


class Server:
    """A fake of a client's `call`: answers each chunk by the next of `answers`, then by {}."""

    def __init__(self, *answers):
        self.chunks = []
        self._answers = list(answers)

    def __call__(self, command):
        self.chunks.append(list(command.jids))
        answer = self._answers.pop(0) if self._answers else {}
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7])
def test_every_job_is_sent_once_in_order(count):
    server = Server()
    assert push_all(server, (job(n) for n in range(count)), 2) == {}
    assert [jid for chunk in server.chunks for jid in chunk] == [
        job(n)["jid"] for n in range(count)
    ]
    assert all(len(chunk) <= 2 for chunk in server.chunks)


def test_one_chunk_and_no_more_is_prepared_while_another_is_in_flight():
    taken = []
    ready = Event()

    def jobs():
        for number in range(10):
            taken.append(number)
            if number == 3:
                ready.set()
            yield job(number)

    ahead = []

    def call(command):
        assert ready.wait(20)
        ahead.append(len(taken) - int(command.jids[-1][-4:]) - 1)
        return {}

    push_all(call, jobs(), 2)
    assert max(ahead) <= 2


def test_jobs_refused_by_us_and_by_the_server_are_returned():
    server = Server({"job-0000": "no"}, {"job-0004": "never"})
    jobs = [job(0), job(1, retry="x"), job(2), job(3, args=[{1}]), job(4)]
    refused = push_all(server, jobs, 3)
    assert server.chunks == [["job-0000", "job-0002"], ["job-0004"]]
    assert refused.keys() == {"job-0000", "job-0001", "job-0003", "job-0004"}
    assert "retry" in refused["job-0001"]
    assert "args[0] is a set" in refused["job-0003"]


def test_a_refused_chunk_does_not_stop_the_next_one():
    server = Server(FaktoryServerError("ERR invalid"), {})
    assert push_all(server, [job(0), job(1)], 1) == {"job-0000": "ERR invalid"}
    assert server.chunks == [["job-0000"], ["job-0001"]]


def test_a_broken_connection_says_which_jobs_are_unknown_and_which_were_not_sent():
    server = Server({"job-0000": "no"}, FaktoryOutcomeUnknown("broke", ["job-0002", "job-0003"]))
    with pytest.raises(FaktoryBulkError, match="2 jobs may or may not be queued: broke") as caught:
        push_all(server, [job(n) for n in range(9)], 2)
    assert caught.value.refused == {"job-0000": "no"}
    assert caught.value.unknown == ["job-0002", "job-0003"]
    assert caught.value.unsent == ["job-0004", "job-0005"]


def test_jobs_that_could_not_be_sent_are_unsent():
    server = Server(FaktoryConnectionError("nothing listens"))
    with pytest.raises(FaktoryBulkError, match="2 jobs were not queued: nothing listens") as caught:
        push_all(server, [job(n) for n in range(3)], 2)
    assert caught.value.unknown == []
    assert caught.value.unsent == ["job-0000", "job-0001", "job-0002"]


def breaks_after(count):
    yield from map(job, range(count))
    raise RuntimeError("no more")


def test_an_error_of_the_source_before_anything_was_sent_is_raised_unchanged():
    server = Server()
    with pytest.raises(RuntimeError, match="no more"):
        push_all(server, breaks_after(2), 3)
    assert server.chunks == []


def test_a_later_error_of_the_source_says_which_jobs_were_not_sent():
    server = Server()
    with pytest.raises(FaktoryBulkError, match=r"1 jobs were not sent.*no more") as caught:
        push_all(server, breaks_after(5), 2)
    assert server.chunks == [["job-0000", "job-0001"], ["job-0002", "job-0003"]]
    assert caught.value.unsent == ["job-0004"]
    assert type(caught.value.__cause__) is RuntimeError


def test_a_broken_connection_comes_before_an_error_of_the_source():
    def breaks(command):
        raise FaktoryOutcomeUnknown("broke", command.jids)

    with pytest.raises(FaktoryBulkError, match="may or may not be queued") as caught:
        push_all(breaks, breaks_after(3), 2)
    assert caught.value.unknown == ["job-0000", "job-0001"]
    assert caught.value.unsent == ["job-0002"]


def test_a_chunk_is_sent_before_the_next_one_is_complete():
    server = Server()
    sent = threading.Event()

    def answer(command):
        sent.set()
        return server(command)

    def jobs():
        yield from (job(0), job(1))
        assert sent.wait(20)
        yield job(2)

    assert push_all(answer, jobs(), 2) == {}


def test_an_interrupt_does_not_wait_for_the_chunk_in_flight():
    answered = threading.Event()

    def jobs():
        yield from (job(0), job(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push_all(lambda command: answered.wait(20) and {}, jobs(), 2)
    answered.set()


def test_many_chunks_can_be_pushed_without_a_thread(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    server = Server()
    assert push_all(server, map(job, range(5)), 2) == {}
    assert [len(chunk) for chunk in server.chunks] == [2, 2, 1]


@pytest.mark.parametrize("one", [job(1), "job", b"job"])
def test_the_error_for_a_single_job_has_the_remedy(one):
    with pytest.raises(FaktoryPayloadError, match=r"For a single one: \[job\]"):
        push_all(Server(), one, 10)


@pytest.mark.parametrize(
    ("fault", "refused", "unknown", "unsent"),
    [
        (FaktoryServerError("ERR no"), ["job-0001"], [], []),
        (FaktoryOutcomeUnknown("broke"), [], ["job-0001"], []),
        (FaktoryJSONError("no JSON"), [], ["job-0001"], []),
        (FaktoryConnectionError("nothing listens"), [], [], ["job-0001"]),
    ],
)
def test_a_chunk_is_refused_unknown_or_unsent(fault, refused, unknown, unsent):
    chunk = commands.push_bulk([job(1)])
    if refused:
        assert list(push_chunk(Server(fault), chunk)) == refused
        return
    with pytest.raises(FaktoryBulkError) as caught:
        push_chunk(Server(fault), chunk)
    assert (caught.value.unknown, caught.value.unsent) == (unknown, unsent)
