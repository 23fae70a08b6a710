"""Jobs that no real server hands out, and some that it does: none of them ends a thread."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import faktory
from faktory import Worker
from faktory.worker import timing as worker_timing

from ..support import AnsweringServer, bulk, counts_memory, wait_until

JID = "0123456789ab"
GOOD = {"jid": "the-good-one", "jobtype": "work", "args": [1], "queue": "default", "retry": 3}
QUICK = worker_timing.Timing(backoff=lambda attempt, random: 0.0, refused_fetch_interval=0.0)

MOST_LOGGED = 1500
"""Characters of a log line; the longest has 1,000 of a server's error."""


def odd(**fields: object) -> dict[str, Any]:
    return {**GOOD, "jid": JID, **fields}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in odd().items() if name not in names}


@contextmanager
def worked_off(*replies: bytes, **options: Any) -> Iterator[tuple[AnsweringServer, list[Any]]]:
    """Have a worker fetch these replies and then the good job; yield what it sent and ran."""
    left = [*replies, bulk(GOOD)]
    ran: list[Any] = []
    lock = threading.Lock()

    def answer(line: str) -> bytes:
        if not line.startswith("FETCH"):
            return b"+OK\r\n"
        with lock:
            return next_of(left)

    with AnsweringServer(answer) as server:
        worker = Worker(server.url, timing=options.pop("timing", QUICK), **options)
        worker.register("work", lambda *args: ran.append(args))
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            wait_until(lambda: acked(server, GOOD["jid"]) or not thread.is_alive())
            assert thread.is_alive(), "the worker has ended"
            yield server, ran
        finally:
            worker.stop()
            thread.join(15)
            assert not thread.is_alive()


def next_of(replies: list[bytes]) -> bytes:
    """Return the next answer to FETCH; without one, nil after a while."""
    if replies:
        return replies.pop(0)
    time.sleep(0.01)
    return b"$-1\r\n"


def acked(server: AnsweringServer, jid: object) -> bool:
    return {"jid": jid} in [json.loads(text) for text in server.sent("ACK")]


def failures(server: AnsweringServer) -> list[dict[str, Any]]:
    return [json.loads(text) for text in server.sent("FAIL")]


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that is logged is long, or says that the server refused what it did not refuse."""
    caplog.set_level(logging.DEBUG, "faktory")
    yield
    for record in caplog.get_records("call"):
        line = record.getMessage()
        assert len(line) <= MOST_LOGGED, line[:200]
        assert "refused FETCH" not in line or "ERR" in line


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (odd(reserve_for="60"), "reserve_for is '60': it must be a whole number of seconds"),
        (odd(reserve_for=[60]), "reserve_for is [60] (list)"),
        (odd(reserve_for=10**400), "reserve_for is 1000"),
        (odd(reserve_for=86_401), "reserve_for is 86401 (int)"),
        (odd(reserve_for=True), "reserve_for is True (bool)"),
        (odd(reserve_for=60.5), "reserve_for is 60.5 (float)"),
        (odd(args={"a": 1}), "args is {'a': 1} (dict): it must be a list, [] for no arguments"),
        (odd(args="text"), "args is 'text'"),
        (odd(args=None), "args is None"),
        (odd(args=5), "args is 5 (int)"),
        (without("args"), "args is missing"),
        (odd(jobtype=5), "jobtype is 5 (int): it must be text"),
        (odd(jobtype=None), "jobtype is None"),
        (odd(jobtype=["work"]), "jobtype is ['work'] (list)"),
        (without("jobtype"), "jobtype is missing"),
        (odd(queue=["default"]), "queue is ['default'] (list): it must be text"),
        (odd(custom=[1]), "custom is [1] (list): it must be an object"),
        (odd(custom="text"), "custom is 'text'"),
        (odd(retry="3"), "retry is '3': it must be a whole number of attempts"),
        (odd(retry=1.5), "retry is 1.5 (float)"),
        (odd(retry={}), "retry is {} (dict)"),
        (odd(failure=[]), "failure is [] (list)"),
        (odd(failure={"retry_count": "x"}), "failure is {'retry_count': 'x'} (dict)"),
        (odd(backtrace="all"), "backtrace is 'all'"),
        (odd(args="x" * 5_000_000), "args is 'xxx"),
        (odd(custom=["y"] * 1_000_000), "custom is ['y', 'y'"),
        ({"jid": JID}, "jobtype is missing"),
    ],
)
def test_an_odd_job_fails_with_what_is_wrong(
    job: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with worked_off(bulk(job)) as (server, ran):
        [failure] = failures(server)
    assert (failure["jid"], failure["errtype"]) == (JID, "InvalidJob")
    assert failure["message"].startswith(message)
    assert len(failure["message"]) < 300
    assert ran == [(1,)]
    assert not acked(server, JID)
    [line] = lines(caplog, logging.WARNING)
    assert line.startswith(f"the job {JID} fails, since it cannot be run: {message}")


@pytest.mark.parametrize(
    "job",
    [
        odd(reserve_for=0),
        odd(reserve_for=-5),
        odd(reserve_for=None),
        odd(reserve_for=86_400),
        odd(retry=None),
        odd(retry=-(2**63)),
        odd(custom=None),
        odd(failure=None),
        odd(failure={"retry_count": 2, "remaining": 1}),
        without("queue", "retry"),
        odd(priority=5, unknown=[1]),
        odd(jid="with space\nand \x1b line end"),
        odd(jid="é" * 5),
        odd(jid="j" * 5_000_000),
    ],
)
def test_a_job_that_is_only_unusual_runs(
    job: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with worked_off(bulk(job)) as (server, ran):
        assert acked(server, job["jid"])
        assert failures(server) == []
    assert ran == [(1,), (1,)]
    assert lines(caplog, logging.WARNING) == []


@pytest.mark.parametrize(
    ("reply", "fault", "shown"),
    [
        (bulk({}), "jid is missing", "{}"),
        (bulk(without("jid")), "jid is missing", "'jobtype': 'work'"),
        (bulk(odd(jid="")), "jid is ''", "'jid': ''"),
        (bulk(odd(jid=None)), "jid is None", "'jid': None"),
        (bulk(odd(jid=5)), "jid is 5 (int)", "'jid': 5"),
        (bulk(odd(jid=["a"])), "jid is ['a'] (list)", "'jid': ['a']"),
        (bulk(odd(jid="\ud800abcdefgh")), r"jid is '\ud800abcdefgh'", r"\ud800abcdefgh"),
        (bulk(b"hello"), "invalid JSON at byte 0", "b'hello'"),
        (bulk(b""), "invalid JSON at byte 0", "b''"),
        (bulk(b'{"jid":5,"args":[}'), "invalid JSON at byte 17", 'b\'{"jid":5'),
        (bulk(b'{"a":"\\x"}' + b" " * 5_000_000), "invalid JSON at byte 6", 'b\'{"a"'),
    ],
)
def test_a_job_without_a_usable_jid_is_logged_and_skipped(
    reply: bytes, fault: str, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    with worked_off(reply) as (server, ran):
        assert failures(server) == []
    assert ran == [(1,)]
    [line] = lines(caplog, logging.WARNING)
    assert line.startswith(
        f"the answer to FETCH is not a job that can be run or failed: {fault}"
    ), line
    assert shown in line


@pytest.mark.parametrize("value", [[], ["a"], "text", 5, 1.5, True, ["x"] * 1_000_000])
def test_an_answer_that_is_not_an_object_is_logged_and_the_thread_fetches_on(
    value: object, caplog: pytest.LogCaptureFixture
) -> None:
    with worked_off(bulk(value)) as (server, ran):
        assert failures(server) == []
    assert ran == [(1,)]
    [line] = lines(caplog, logging.ERROR)
    assert line.startswith("the answer to FETCH cannot be read: the server answered ")
    assert repr(value)[:30] in line


def test_null_means_that_there_was_nothing_to_fetch(caplog: pytest.LogCaptureFixture) -> None:
    with worked_off(bulk(None), b"$-1\r\n"):
        pass
    assert lines(caplog, logging.WARNING) == []


DEEP = b"[" * 5000 + b"]" * 5000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"jid":"%b","args":%b}', "nested deeper than 512 levels"),
        (b'{"args":%.0b%b,"jid":"0123456789ab"}', "nested deeper than 512 levels"),
        (b' {\n"custom" : {"jid":"wrong"}, "jid" : "%b", "args":%b}', "nested deeper"),
        (b'{"jobtype":"\\"jid\\":\\"wrong\\"","jid":"%b","args":["\\q"]}%.0b', "an invalid escape"),
        (b'{"jid":"%b","args":[1e999]}%.0b', "the number is too large for a double"),
        (b'{"jid":"%b","args":[' + b"1" * 10_000 + b"]}%.0b", "of 10000 digits is too long"),
        (b'{"jid":"%b","args":["\xff"]}%.0b', "invalid UTF-8"),
        (b'{"jid":"%b","args":[NaN]}%.0b', "NaN is not a JSON number"),
        (b'{"jid":"%b","args":["a\nb"]}%.0b', "the control character"),
        (b'{"jid":"%b","args":[}%.0b', "expected a value"),
        (b'{"jid":"%b","args":["cut%.0b', "an unterminated string"),
        (b'{"jid":"%b","jid":"%.0bsecond","args":[', "expected a value"),
    ],
)
def test_a_job_whose_json_cannot_be_read_fails_all_the_same(
    body: bytes, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = body % (JID.encode(), DEEP)
    with worked_off(bulk(body)) as (server, ran):
        [failure] = failures(server)
    assert (failure["jid"], failure["errtype"]) == (JID, "InvalidJob")
    assert failure["message"].startswith("invalid JSON at byte ")
    assert message in failure["message"]
    assert ran == [(1,)]


def test_a_job_with_the_same_key_twice_runs_with_the_last() -> None:
    body = json.dumps(odd(jid="not-this-one")).encode()[:-1] + b',"jid":"%b"}' % JID.encode()
    with worked_off(bulk(body)) as (server, ran):
        assert acked(server, JID)
    assert ran == [(1,), (1,)]


def test_many_odd_jobs_end_no_thread_of_many(caplog: pytest.LogCaptureFixture) -> None:
    replies = [bulk({}), bulk(odd(args="x")), bulk([]), bulk(b'{"jid":"abc","args":')] * 10
    with worked_off(*replies, concurrency=3) as (server, ran):
        wait_until(lambda: len(failures(server)) >= 20)
    assert ran == [(1,)]


def test_a_long_refusal_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    left = [b"-ERR " + b"x" * 500_000 + b"\r\n", bulk(odd())]

    def answer(line: str) -> bytes:
        if line.startswith("FETCH"):
            return next_of(left)
        return b"-ERR invalid " + b"y" * 500_000 + b"\r\n"

    with AnsweringServer(answer) as server:
        worker = Worker(server.url, timing=QUICK)
        worker.register("work", lambda *args: worker.stop())
        worker.run()
    found = [re.sub(r"(x|y)\1+", r"\1", line) for line in lines(caplog, logging.WARNING)]
    assert found == [
        "the server refused FETCH: ERR x...",
        f"the server refused ACK of {JID}: ERR invalid y...",
    ]


LARGE = b"[" + b"[]," * 3_200_000 + b"[]]"
"""Three bytes an array, which takes 64 as a value."""

MEMORY = """
import resource, sys, threading
from faktory import Worker

def limit(more):
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, size + more))

worker = Worker(sys.argv[1])

def work(*args):
    print("ran", len(args), flush=True)
    if len(args) == 1:
        worker.stop()

worker.register("work", work)
worker.on("startup", lambda: limit(int(sys.argv[2])))
threading.stack_size(256 * 1024)
worker.run()
print("stopped", flush=True)
"""


@counts_memory
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory so")
@pytest.mark.parametrize(
    ("more", "failed"),
    [(100_000_000, True), (8_000_000, False)],
    ids=["no room for the values", "no room for the bytes"],
)
def test_a_job_that_is_larger_than_the_memory_does_not_end_the_worker(
    more: int, failed: bool
) -> None:
    before, after = json.dumps(odd(args=[[]])).encode().split(b"[[]]")
    left = [bulk(before + LARGE + after), bulk(GOOD)]

    def answer(line: str) -> bytes:
        if line.startswith("FETCH"):
            return next_of(left)
        return b"+OK\r\n"

    with AnsweringServer(answer) as server:
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, server.url, str(more)],
            env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # else each thread takes 64 MiB at once
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout == "ran 1\nstopped\n", done.stderr
        assert acked(server, GOOD["jid"])
        found = failures(server)
    if failed:
        assert [(failure["jid"], failure["errtype"]) for failure in found] == [(JID, "InvalidJob")]
        assert "they need more memory than there is" in found[0]["message"]
    assert JID in done.stderr


IN_A_CLIENT = """
import json, resource, sys
import faktory

with open("/proc/self/statm") as statm:
    size = int(statm.read().split()[0]) * resource.getpagesize()
client = faktory.Client(sys.argv[1])
client.connect()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]),) * 2)
for ask in (client.info, lambda: client.fetch("default"), lambda: client.batch_status("b")):
    try:
        ask()
    except faktory.FaktoryError as error:
        print(json.dumps([type(error).__name__, str(error), getattr(error, "jid", None)]))
    client.flush()
"""


@counts_memory
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory so")
@pytest.mark.parametrize("more", [100_000_000, 8_000_000])
def test_a_client_without_memory_for_an_answer_says_so_and_goes_on(more: int) -> None:
    large = bulk(b'{"jid":"%b","args":%b}' % (JID.encode(), LARGE))
    with AnsweringServer(lambda line: b"+OK\r\n" if line == "FLUSH" else large) as server:
        done = subprocess.run(
            [sys.executable, "-c", IN_A_CLIENT, server.url, str(more)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.stderr == ""
    errors = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(errors) == 3
    for name, text, jid in errors:
        # Without room for the values, or for the bytes: of a FETCH, or of an idempotent command.
        assert name in ("FaktoryJSONError", "FaktoryOutcomeUnknown", "FaktoryProtocolError")
        assert "more memory than there is" in text
        assert JID in (jid or text)


@pytest.fixture
def fetch() -> Callable[[bytes], Any]:
    """`fetch(reply)` has a client fetch this reply."""

    def fetch(reply: bytes) -> Any:
        with AnsweringServer(lambda line: reply) as server, faktory.Client(server.url) as client:
            return client.fetch("default")

    return fetch


@pytest.mark.parametrize("value", [{}, odd(args="text"), odd(jid=5), without("jobtype")])
def test_a_programs_own_fetch_returns_what_is_a_dict(
    value: object, fetch: Callable[[bytes], Any]
) -> None:
    assert fetch(bulk(value)) == value


def test_a_programs_own_fetch_learns_the_jid_of_what_cannot_be_read(
    fetch: Callable[[bytes], Any],
) -> None:
    with pytest.raises(faktory.FaktoryJSONError, match="nested deeper than 512") as caught:
        fetch(bulk(b'{"jid":"%b","args":%b}' % (JID.encode(), DEEP)))
    assert caught.value.jid == JID
    assert len(caught.value.excerpt) == 200


@pytest.mark.parametrize("value", [[], "text", 5, [1] * 1_000_000])
def test_a_programs_own_fetch_raises_for_what_is_not_a_job(
    value: object, fetch: Callable[[bytes], Any]
) -> None:
    with pytest.raises(faktory.FaktoryError, match="where a JSON object belongs") as caught:
        fetch(bulk(value))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "reply",
    [
        bulk([]),
        bulk({}),
        bulk({"state": 5}),
        bulk({"state": "dancing"}),
        bulk({"state": ["quiet"]}),
        bulk("quiet"),
        bulk(None),
        bulk(b"{"),
        bulk({"state": "x" * 1_000_000}),
        b":5\r\n",
        b"-ERR " + b"x" * 500_000 + b"\r\n",
        b"HTTP/1.1 400\r\n\r\n",
    ],
)
def test_an_odd_answer_to_a_heartbeat_does_not_end_the_worker(
    reply: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "send_heartbeat_every", 0.05)
    left = [bulk(GOOD)]

    def answer(line: str) -> bytes:
        if line.startswith("BEAT"):
            return reply
        return next_of(left) if line.startswith("FETCH") else b"+OK\r\n"

    with AnsweringServer(answer, beats=True) as server:
        worker = Worker(server.url, timing=QUICK)
        worker.register("work", lambda *args: None)
        thread = threading.Thread(target=worker.run)
        thread.start()
        wait_until(lambda: acked(server, GOOD["jid"]))
        before = len(server.sent("BEAT"))
        wait_until(lambda: len(server.sent("BEAT")) > before + 2)
        assert thread.is_alive()
        assert not worker.is_quiet
        worker.stop()
        thread.join(15)
        assert not thread.is_alive()
