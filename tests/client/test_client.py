from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

import faktory
from faktory import connection
from faktory.client import Client, get_client
from faktory.exceptions import (
    FaktoryAuthenticationError,
    FaktoryBulkError,
    FaktoryConnectionError,
    FaktoryConnectionResetError,
    FaktoryHandshakeError,
    FaktoryJSONError,
    FaktoryNotUnique,
    FaktoryOutcomeUnknown,
    FaktoryPayloadError,
    FaktoryProtocolError,
    FaktoryServerError,
    FaktoryTimeout,
)
from faktory.wire import commands

OK = b"+OK\r\n"
NO_SUCH_JOB = b"-ERR Job not found 12345678\r\n"
SHUTDOWN = b"-ERR shutdown in progress\r\n"
FULL = b"-ERR too many connections: 2001\r\n"
IMPATIENT = 0.5
"""Seconds to wait for what does not come."""

JOB = {"jid": "12345678", "jobtype": "Resize", "args": [1]}


def payload(line: bytes):
    return json.loads(line.partition(b" ")[2])


def job(number: int, **fields):
    return {"jid": f"job-{number:04}", "jobtype": "Resize", "args": [number], **fields}


# Connecting


def test_a_client_connects_when_first_needed_and_stays_connected(scripted):
    server = scripted([":greet", "PUSH", OK, "PUSH", OK, ":silence"])
    client = Client(server.url)
    assert not client.is_connected
    assert server.lines == [[]]
    client.push(JOB)
    assert client.is_connected
    client.push(JOB)
    client.close()
    assert not client.is_connected


def test_hello_carries_host_pid_labels_and_wid(scripted):
    server = scripted([":greet", ":silence"], [":greet", ":silence"])
    with Client(server.url, labels=("python", "blue"), worker_id="w1"):
        pass
    with Client(server.url):
        pass
    ours = {"hostname": socket.gethostname(), "pid": os.getpid(), "v": 2}
    assert payload(server.lines[0][0]) == {**ours, "labels": ["python", "blue"], "wid": "w1"}
    assert payload(server.lines[1][0]) == {**ours, "labels": []}


def test_connect_says_true_and_connects_once(scripted):
    server = scripted([":greet", ":silence"])
    client = Client(server.url)
    assert client.connect() is True
    assert client.connect() is True
    client.close()


def test_after_disconnect_the_next_command_connects_anew(scripted):
    server = scripted([":greet", "ACK", OK, "END"], [":greet", "ACK", OK, "END"])
    client = Client(server.url)
    for _ in range(2):
        client.ack("12345678")
        client.disconnect()
        client.disconnect()


def test_a_with_block_connects_and_disconnects_whatever_happens_in_it(scripted):
    client = Client(scripted([":greet", "END"]).url)

    def fail_in_it():
        with client as same:
            assert same is client
            assert client.is_connected
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_it()
    assert not client.is_connected


def test_connection_and_get_client_make_clients(scripted):
    server = scripted([":greet", "ACK", OK, "END"])
    with connection(server.url, timeout=7) as client:
        client.ack("12345678")
        assert client.timeout == 7
    assert not client.is_connected
    assert not get_client(server.url, worker_id="w").is_connected


def test_the_environment_names_the_server_where_nothing_else_does(monkeypatch):
    monkeypatch.delenv("FAKTORY_PROVIDER", raising=False)
    monkeypatch.setenv("FAKTORY_URL", "tcp://:secret@example.com:99")
    client = Client()
    assert (client.faktory.host, client.faktory.port) == ("example.com", 99)
    assert client.faktory.password == "secret"


def test_no_password_is_shown():
    client = Client("tcp://:secret@example.com:99")
    assert repr(client) == "<faktory.Client tcp://:***@example.com:99, not connected>"


def test_a_timeout_is_seconds_or_a_timedelta():
    assert Client(timeout=0.5).timeout == 0.5
    assert Client(timeout=timedelta(minutes=1)).timeout == 60
    for wrong in (0, -1, None, "5", timedelta(0)):
        with pytest.raises(ValueError, match="timeout is"):
            Client(timeout=wrong)


def test_an_address_that_is_none_is_refused_at_once():
    with pytest.raises(ValueError, match="is no Faktory address"):
        Client("localhost")


# Commands


def test_push_returns_the_jid_and_makes_one_where_there_is_none(scripted):
    server = scripted([":greet", "PUSH", OK, "PUSH", OK, ":silence"])
    with Client(server.url) as client:
        assert client.push(JOB) == "12345678"
        made = client.push({"jobtype": "Resize", "args": []})
    sent = [payload(line) for line in server.lines[0][1:3]]
    assert sent[0] == {**JOB, "queue": "default", "retry": 25}
    assert sent[1]["jid"] == made
    assert sent[1]["retry"] == 25


@pytest.mark.parametrize(
    "wrong",
    [
        {**JOB, "queue": "no queue"},
        {**JOB, "args": [{1, 2}]},
        {**JOB, "args": [2**60]},
        {**JOB, "args": ["\ud800"]},
        {**JOB, "custom": {"x": float("nan")}},
        {"jobtype": "Resize"},
        None,
    ],
)
def test_a_job_that_cannot_be_sent_is_refused_without_a_connection(wrong):
    client = Client("tcp://127.0.0.1:1")  # where nobody listens
    with pytest.raises(FaktoryPayloadError):
        client.push(wrong)


def test_a_refusal_is_raised_and_the_connection_stays_good(scripted):
    server = scripted(
        [":greet", "PUSH", b"-NOTUNIQUE Job not unique\r\n", "PUSH", b"-ERR no\r\n", "PUSH", OK]
    )
    client = Client(server.url)
    with pytest.raises(FaktoryNotUnique):
        client.push(JOB)
    with pytest.raises(FaktoryServerError, match="no"):
        client.push(JOB)
    client.push(JOB)
    client.close()


def test_each_method_says_its_line_and_reads_its_answer(scripted):
    server = scripted(
        [
            ":greet",
            *("FETCH", {"jid": "12345678"}, "FETCH", b"$-1\r\n", "ACK", OK),
            *("FAIL", OK, "FAIL", OK, "BEAT", OK, "BEAT", {"state": "quiet"}),
            *("INFO", {"faktory": {}}, "FLUSH", OK, "MUTATE", OK, "MUTATE", OK),
            *("QUEUE", b"$3\r\nabc\r\n", "TRACK", OK, ":silence"),
        ]
    )
    with Client(server.url, worker_id="w1") as client:
        assert client.fetch("critical", "default") == {"jid": "12345678"}
        assert client.fetch("default") is None
        assert client.ack("12345678") is None
        assert client.fail("12345678", ValueError("boom"), backtrace=1) is None
        client.fail("12345678", errtype="E", message="m", backtrace=["x"])
        assert client.beat() is None
        assert client.beat("quiet", rss_kb=5) == "quiet"
        assert client.info() == {"faktory": {}}
        client.flush()
        client.requeue("dead", jobtype="Resize")
        client.requeue("retries", jids=["12345678"])
        assert client.command("QUEUE", "LATENCY", "a") == b"abc"
        assert client.command("TRACK", "SET", json={"jid": "x"}) == "OK"
    assert server.ended[0].wait(5)
    assert server.lines[0][1:] == [
        b"FETCH critical default\r\n",
        b"FETCH default\r\n",
        b'ACK {"jid":"12345678"}\r\n',
        b'FAIL {"jid":"12345678","errtype":"ValueError","message":"boom",'
        b'"backtrace":["ValueError: boom"]}\r\n',
        b'FAIL {"jid":"12345678","errtype":"E","message":"m","backtrace":["x"]}\r\n',
        b'BEAT {"wid":"w1"}\r\n',
        b'BEAT {"wid":"w1","current_state":"quiet","rss_kb":5}\r\n',
        b"INFO\r\n",
        b"FLUSH\r\n",
        b'MUTATE {"cmd":"requeue","target":"dead","filter":{"jobtype":"Resize"}}\r\n',
        b'MUTATE {"cmd":"requeue","target":"retries","filter":{"jids":["12345678"]}}\r\n',
        b"QUEUE LATENCY a\r\n",
        b'TRACK SET {"jid":"x"}\r\n',
        b"END\r\n",
    ]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"timeout": 0}, "timeout is 0: it must be more than 0 seconds"),
        ({"timeout": 1e20}, "timeout is 1e\\+20: .* 1,000,000 at most"),
        ({"labels": "python"}, "labels is 'python': pass a list of texts"),
        ({"labels": 5}, "labels is 5: pass a list of texts"),
        ({"labels": [1]}, r"labels is \[1\]: pass a list of texts"),
        ({"worker_id": 5}, "worker_id is 5: it must be text"),
        ({"worker_id": ""}, "worker_id is ''"),
        ({"ssl_context": object()}, r"begins with tcp\+tls://"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_once(setting, complaint):
    with pytest.raises(ValueError, match=complaint):
        Client("tcp://:s3cret@127.0.0.1:1", **setting)


def refusals():
    wrong = Client("tcp://127.0.0.1:1")
    return {
        "percent is '5': it must be a whole number": lambda: wrong.track_set("12345678", "5"),
        "percent is 5.5: it must be a whole number": lambda: wrong.track_set("12345678", 5.5),
        "percent is 101: it must be a whole number": lambda: wrong.track_set("12345678", 101),
        "desc is 5: it must be text": lambda: wrong.track_set("12345678", desc=5),
        "backtrace is 5.5: pass lines": lambda: wrong.fail("12345678", backtrace=5.5),
        "takes many jobs, not a NoneType": lambda: wrong.push_bulk(None),
        "takes many jobs, not a int": lambda: wrong.push_bulk(5),
        "batch_size is 'x': it must be a whole number": lambda: wrong.push_bulk([], "x"),
        "batch_size is 1.5: it must be a whole number": lambda: wrong.push_bulk([], 1.5),
    }


@pytest.mark.parametrize("complaint", refusals())
def test_a_value_that_makes_no_sense_is_named_and_nothing_is_sent(complaint):
    with pytest.raises(ValueError, match=complaint):
        refusals()[complaint]()


def test_only_a_worker_beats():
    with pytest.raises(ValueError, match="only a worker beats"):
        Client("tcp://127.0.0.1:1").beat()


def test_requeuing_no_jobs_says_nothing():
    Client("tcp://127.0.0.1:1").requeue("dead", jids=[])


def test_an_answer_that_is_no_json_leaves_the_connection_good(scripted):
    server = scripted([":greet", "INFO", b"$1\r\n{\r\n", "INFO", {"a": 1}, ":silence"])
    with Client(server.url) as client:
        with pytest.raises(FaktoryJSONError):
            client.info()
        assert client.info() == {"a": 1}


# Pushing many


def test_a_bulk_push_goes_out_in_chunks_and_tells_what_the_server_refused(scripted):
    server = scripted([":greet", "PUSHB", {}, "PUSHB", {"job-0003": "no"}, "PUSHB", {}, ":silence"])
    with Client(server.url) as client:
        assert client.push_bulk([job(n) for n in range(5)], batch_size=2) == {"job-0003": "no"}
    chunks = [payload(line) for line in server.lines[0][1:4]]
    assert [[sent["args"][0] for sent in chunk] for chunk in chunks] == [[0, 1], [2, 3], [4]]
    assert all(sent["retry"] == 25 for chunk in chunks for sent in chunk)


def test_a_generator_is_drawn_from_no_more_than_a_chunk_ahead(scripted):
    drawn = []
    seen = []

    def look():
        seen.append(len(drawn))

    def jobs():
        for number in range(12):
            drawn.append(number)
            yield job(number)

    chunk = ("PUSHB", look, {})
    with Client(scripted([":greet", *chunk * 4, ":silence"]).url) as client:
        assert client.push_bulk(jobs(), batch_size=3) == {}
    assert len(seen) == 4
    assert all(3 * n <= drawn_then <= 3 * (n + 1) for n, drawn_then in enumerate(seen, 1))


def test_what_we_refuse_ourselves_is_told_by_jid_and_the_others_go_out(scripted):
    server = scripted([":greet", "PUSHB", {}, ":silence"])
    wrong = [
        job(1, queue="no queue"),
        job(2, args=[{3}]),
        {"jobtype": "Resize", "args": [2**60], "jid": "own-jid-9"},
        {"args": []},
        None,
        {**job(0), "jid": "short"},
    ]
    with Client(server.url) as client:
        refused = client.push_bulk([*wrong, job(7)])
    assert [sent["jid"] for sent in payload(server.lines[0][1])] == ["job-0007"]
    assert len(refused) == len(wrong)
    assert refused["job-0001"].startswith("queue is 'no queue'")
    assert refused["job-0002"].startswith("args[0] is a set")
    assert refused["own-jid-9"].startswith("args[0] is an integer beyond")
    assert refused["short"].startswith("jid is 'short'")
    made = [jid for jid in refused if len(jid) == 24]
    assert sorted(refused[jid] for jid in made) == [
        "jobs[3]: the job has no 'jobtype': it needs 'jobtype' and 'args'.",
        "jobs[4]: a job is a dict with at least 'jobtype' and 'args', not None (NoneType).",
    ]


def test_a_bulk_push_of_nothing_that_can_be_sent_needs_no_connection():
    client = Client("tcp://127.0.0.1:1")
    assert client.push_bulk([]) == {}
    assert list(client.push_bulk([job(1, retry="x")])) == ["job-0001"]


def test_a_chunk_that_the_server_refuses_whole_is_refused_and_the_next_goes_out(scripted):
    server = scripted([":greet", "PUSHB", b"-ERR invalid JSON\r\n", "PUSHB", {}, ":silence"])
    with Client(server.url) as client:
        refused = client.push_bulk([job(n) for n in range(3)], batch_size=2)
    assert refused == {"job-0000": "ERR invalid JSON", "job-0001": "ERR invalid JSON"}


def test_a_bulk_push_whose_line_breaks_tells_what_is_unknown(scripted):
    server = scripted([":greet", "PUSHB", {"job-0001": "no"}, "PUSHB"])
    client = Client(server.url)
    with pytest.raises(FaktoryBulkError, match="2 jobs may or may not be queued") as error:
        client.push_bulk([job(n) for n in range(6)], batch_size=2)
    assert error.value.refused == {"job-0001": "no"}
    assert error.value.unknown == ["job-0002", "job-0003"]
    assert error.value.unsent == ["job-0004", "job-0005"]
    assert isinstance(error.value.__cause__, FaktoryOutcomeUnknown)


def test_a_bulk_answer_that_is_no_json_leaves_the_jobs_unknown(scripted):
    server = scripted([":greet", "PUSHB", b"$1\r\n{\r\n", ":silence"])
    with Client(server.url) as client, pytest.raises(FaktoryBulkError) as error:
        client.push_bulk([job(1)])
    assert error.value.unknown == ["job-0001"]
    assert error.value.unsent == []


def test_a_bulk_push_that_finds_no_server_tells_what_never_left(closed_port):
    client = Client(f"tcp://127.0.0.1:{closed_port}")
    with pytest.raises(FaktoryBulkError, match="2 jobs were not queued: nothing listens") as error:
        client.push_bulk([job(1), job(2), job(3, retry=-5)])
    assert error.value.unsent == ["job-0001", "job-0002"]
    assert error.value.unknown == []
    assert list(error.value.refused) == ["job-0003"]


@pytest.mark.parametrize("size", [0, -1])
def test_a_chunk_holds_a_job_at_least(size):
    with pytest.raises(ValueError, match=f"batch_size is {size}"):
        Client("tcp://127.0.0.1:1").push_bulk([], batch_size=size)


# A server that cannot be had


def test_no_server_is_one_clear_error(closed_port):
    client = Client(f"tcp://127.0.0.1:{closed_port}")
    for _ in range(2):
        with pytest.raises(FaktoryConnectionError, match="nothing listens on"):
            client.push(JOB)
        assert not client.is_connected


ASKS_FOR_PASSWORD = [b'+HI {"v":2,"i":4321,"s":"abcd"}\r\n']


def test_a_missing_password_is_one_clear_error(scripted):
    client = Client(scripted(ASKS_FOR_PASSWORD).url)
    with pytest.raises(FaktoryAuthenticationError, match="requires a password and none"):
        client.push(JOB)
    assert not client.is_connected


def test_a_wrong_password_is_one_clear_error(scripted):
    server = scripted([*ASKS_FOR_PASSWORD, "HELLO", b"-ERR Invalid password\r\n"])
    client = Client(server.url.replace("://", "://:s3cret@"))
    with pytest.raises(FaktoryAuthenticationError, match="refused the password") as refusal:
        client.push(JOB)
    assert "s3cret" not in str(refusal.value)


def test_what_is_no_faktory_server_is_one_clear_error(scripted):
    client = Client(scripted([b"SSH-2.0-OpenSSH_9.2p1\r\n"]).url)
    with pytest.raises(FaktoryHandshakeError):
        client.info()


def test_a_silent_server_is_a_timeout_and_not_tried_twice(scripted):
    client = Client(scripted([":silence"]).url, timeout=IMPATIENT)
    with pytest.raises(FaktoryTimeout):
        client.info()


# A line that breaks

CLOSED = [":greet"]
RESET = [":greet", ":reset"]


@pytest.mark.parametrize("end", [CLOSED, RESET])
def test_a_push_over_a_line_that_the_server_closed_meanwhile_goes_over_a_new_one(scripted, end):
    server = scripted(end, [":greet", "PUSH", OK, ":silence"])
    client = Client(server.url)
    client.connect()
    assert server.ended[0].wait(5)
    client.push(JOB)
    client.close()
    assert server.verbs(0) == ["HELLO"]


@pytest.mark.parametrize("end", [[], [":reset"]])
def test_a_push_that_was_sent_and_not_answered_is_unknown_and_never_repeated(scripted, end):
    server = scripted([":greet", "PUSH", *end], [":greet", "PUSH", OK, ":silence"])
    client = Client(server.url)
    with pytest.raises(FaktoryOutcomeUnknown, match="PUSH of 12345678 was sent") as error:
        client.push(JOB)
    assert error.value.jids == ["12345678"]
    assert isinstance(error.value.__cause__, FaktoryConnectionResetError)
    assert not client.is_connected
    assert server.lines[1] == []
    client.push(JOB)  # the next one is not the worse for it
    client.close()


def test_a_push_that_times_out_is_unknown(scripted):
    server = scripted([":greet", "PUSH", ":silence"])
    client = Client(server.url, timeout=IMPATIENT)
    with pytest.raises(FaktoryOutcomeUnknown, match="no answer from") as error:
        client.push(JOB)
    assert isinstance(error.value.__cause__, FaktoryTimeout)
    assert not client.is_connected


def test_a_push_that_never_left_whole_is_repeated(scripted):
    large = {**JOB, "args": ["x" * 20_000_000]}
    server = scripted([":greet", ":reset"], [":greet", "PUSH", OK, ":silence"])
    with Client(server.url) as client:
        assert client.push(large) == "12345678"


def test_a_push_with_a_senseless_answer_is_unknown(scripted):
    client = Client(scripted([":greet", "PUSH", b"$-1\r\n", ":silence"]).url)
    with pytest.raises(FaktoryOutcomeUnknown, match="the server answered None where OK"):
        client.push(JOB)
    assert not client.is_connected


def test_a_fetch_that_was_sent_and_not_answered_is_unknown_with_no_jid(scripted):
    server = scripted([":greet", "FETCH"])
    with pytest.raises(FaktoryOutcomeUnknown, match="after FETCH was sent") as error:
        Client(server.url).fetch("default")
    assert error.value.jids == []


@pytest.mark.parametrize("end", [[], [":reset"], [b"$-1\r\n", ":silence"], [b"junk", ":silence"]])
def test_ack_and_info_are_repeated_once_on_a_new_connection(scripted, end):
    server = scripted(
        [":greet", "ACK", *end], [":greet", "ACK", OK, "INFO", *end], [":greet", "INFO", {}, "END"]
    )
    client = Client(server.url)
    client.ack("12345678")
    assert client.info() == {}
    client.close()


def test_what_may_be_repeated_is_repeated_once_and_no_more(scripted):
    server = scripted([":greet", "INFO"], [":greet", "INFO"], [":greet", "INFO", {}, "END"])
    client = Client(server.url)
    with pytest.raises(FaktoryConnectionResetError, match="closed the connection") as error:
        client.info()
    assert server.lines[2] == []
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__
    assert client.info() == {}
    client.close()


def test_what_times_out_twice_is_a_timeout(scripted):
    server = scripted([":greet", "INFO", ":silence"], [":greet", "INFO", ":silence"])
    client = Client(server.url, timeout=IMPATIENT)
    with pytest.raises(FaktoryTimeout):
        client.info()
    assert not client.is_connected


def test_the_repetition_may_find_no_server(scripted):
    client = Client(scripted([":greet", "INFO"]).url)
    with pytest.raises(FaktoryConnectionError, match="nothing listens"):
        client.info()


def test_a_senseless_answer_twice_is_the_servers_fault(scripted):
    client = Client(scripted(*[[":greet", "INFO", b"+OK\r\n", ":silence"] for _ in range(2)]).url)
    with pytest.raises(FaktoryProtocolError):
        client.info()
    assert not client.is_connected


def test_a_repeated_failure_that_had_arrived_is_settled(scripted):
    server = scripted([":greet", "FAIL"], [":greet", "FAIL", NO_SUCH_JOB, "FAIL", NO_SUCH_JOB])
    client = Client(server.url)
    client.fail("12345678", ValueError("boom"))
    assert server.lines[0][1] == server.lines[1][1]
    with pytest.raises(FaktoryServerError, match="Job not found"):
        client.fail("12345678", ValueError("boom"))  # this one was not repeated
    client.close()


def test_a_failure_that_had_not_left_before_is_not_settled(scripted):
    server = scripted(CLOSED, [":greet", "FAIL", NO_SUCH_JOB, ":silence"])
    with Client(server.url) as client:
        assert server.ended[0].wait(5)
        with pytest.raises(FaktoryServerError, match="Job not found"):
            client.fail("12345678")


@pytest.mark.parametrize("goodbye", [SHUTDOWN, FULL])
def test_a_goodbye_for_an_answer_repeats_the_push_on_a_new_connection(scripted, goodbye):
    server = scripted([":greet", "PUSH", goodbye], [":greet", "PUSH", OK, ":silence"])
    with Client(server.url) as client:
        client.push(JOB)


@pytest.mark.parametrize("goodbye", [SHUTDOWN, FULL])
def test_a_goodbye_on_the_new_connection_too_is_an_error_that_says_it(scripted, goodbye):
    server = scripted(*[[b'+HI {"v":2}\r\n', "HELLO", OK + goodbye] for _ in range(2)])
    client = Client(server.url)
    with pytest.raises(FaktoryConnectionResetError) as error:
        client.push(JOB)
    assert goodbye.decode()[1:-2] in str(error.value)
    assert not isinstance(error.value, FaktoryOutcomeUnknown)
    assert not client.is_connected


def test_a_pair_whose_line_breaks_between_the_answers_repeats_the_rest(scripted):
    server = scripted([":greet", "ACK", "INFO", OK], [":greet", "INFO", {"a": 1}, ":silence"])
    with Client(server.url) as client:
        acked, told = client.exchange(commands.ack("12345678"), commands.info())
    assert (acked.command.name, acked.error) == ("ACK", None)
    assert told.value == {"a": 1}


def test_of_two_failures_the_one_that_was_repeated_is_settled(scripted):
    server = scripted(
        [":greet", "FAIL", "FAIL", NO_SUCH_JOB], [":greet", "FAIL", NO_SUCH_JOB, ":silence"]
    )
    sent = [commands.fail(jid, "E", "m", []) for jid in ("aaaaaaaa", "bbbbbbbb")]
    with Client(server.url) as client:
        answers = client.exchange(*sent)
    assert [answer.command for answer in answers] == sent
    assert type(answers[0].error) is FaktoryServerError
    assert answers[1].error is None


def test_a_pair_with_a_fetch_that_left_is_unknown_and_not_repeated(scripted):
    server = scripted([":greet", "ACK", "FETCH", OK])
    with pytest.raises(FaktoryOutcomeUnknown, match="after FETCH was sent"):
        Client(server.url).exchange(commands.ack("12345678"), commands.fetch(["a"]))


@pytest.mark.parametrize("stray", [OK, b"-ERR what\r\n", b"$2\r\n{}\r\n"])
def test_what_the_server_says_unasked_answers_no_command(scripted, stray):
    said = threading.Event()
    server = scripted(
        [":greet", stray, said.set, ":silence"], [":greet", "INFO", {"a": 1}, ":silence"]
    )
    with Client(server.url) as client:
        assert said.wait(5)
        assert client.info() == {"a": 1}


def test_an_interrupt_between_send_and_answer_drops_the_connection(scripted):
    answered = threading.Event()

    def interrupt():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        answered.wait(5)

    server = scripted(
        [":greet", "INFO", interrupt, {"late": 1}], [":greet", "INFO", {"right": 1}, ":silence"]
    )
    client = Client(server.url)
    with pytest.raises(KeyboardInterrupt):
        client.info()
    assert not client.is_connected
    answered.set()
    assert client.info() == {"right": 1}
    client.close()


def test_an_interrupt_while_connecting_leaves_nothing_open(scripted):
    def interrupt():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    server = scripted([b'+HI {"v":2}\r\n', "HELLO", interrupt, ":silence"])
    client = Client(server.url)
    with pytest.raises(KeyboardInterrupt):
        client.connect()
    assert not client.is_connected


# Threads and forks


def test_threads_share_a_client_and_each_gets_its_own_answers(scripted):
    server = scripted([":greet", ":echo"])
    start = threading.Barrier(8)

    def ask(thread: int) -> None:
        start.wait()
        for number in range(25):
            assert client.command("ECHO", f"{thread}-{number}") == f"{thread}-{number}"

    with Client(server.url) as client, ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))
    assert len(server.lines[0]) >= 1 + 8 * 25


def test_disconnect_waits_for_the_command_under_way(scripted):
    heard, go_on = threading.Event(), threading.Event()
    server = scripted([":greet", "INFO", heard.set, lambda: go_on.wait(5), {"a": 1}, "END"])
    client = Client(server.url)
    with ThreadPoolExecutor(2) as threads:
        told = threads.submit(client.info)
        assert heard.wait(5)
        ended = threads.submit(client.disconnect)
        go_on.set()
        assert told.result(5) == {"a": 1}
        ended.result(5)


def test_a_forked_child_has_a_connection_of_its_own(scripted, in_child):
    server = scripted([":greet", ":echo"], [":greet", ":echo"])
    client = Client(server.url, labels=["x"])
    assert client.command("ECHO", "before") == "before"
    line = client._connection._transport._socket.fileno()

    def act():
        try:
            os.fstat(line)
            inherited = True
        except OSError:
            inherited = False
        connected = client.is_connected
        answer = client.command("ECHO", "child")
        client.close()
        return [connected, inherited, answer, os.getpid()]

    connected, inherited, answer, pid = in_child(act)
    assert (connected, inherited, answer) == (False, False, "child")
    assert client.command("ECHO", "after") == "after"
    client.close()
    for ended in server.ended:
        assert ended.wait(5)
    assert server.lines[0][1:] == [b"ECHO before\r\n", b"ECHO after\r\n", b"END\r\n"]
    assert server.lines[1][1:] == [b"ECHO child\r\n", b"END\r\n"]
    assert payload(server.lines[1][0])["pid"] == pid


@pytest.mark.parametrize("act", ["close", "forget", "exit"])
def test_a_child_that_ends_or_closes_does_not_end_the_parents_connection(scripted, in_child, act):
    server = scripted([":greet", ":echo"])
    holder = [Client(server.url)]
    holder[0].connect()

    def in_there():
        if act == "close":
            holder[0].close()
        elif act == "forget":
            holder.clear()

    in_child(in_there)
    assert holder[0].command("ECHO", "after") == "after"
    holder[0].close()
    assert server.ended[0].wait(5)
    assert server.verbs(0) == ["HELLO", "ECHO", "END"]


def test_a_fork_while_a_thread_waits_for_an_answer_does_not_block_the_child(scripted, in_child):
    heard, go_on = threading.Event(), threading.Event()
    server = scripted(
        [":greet", "INFO", heard.set, lambda: go_on.wait(5), {"a": 1}, ":silence"],
        [":greet", ":echo"],
    )
    client = Client(server.url)
    with ThreadPoolExecutor(1) as threads:
        told = threads.submit(client.info)
        assert heard.wait(5)

        def act():
            answer = client.command("ECHO", "child")
            client.close()
            return answer

        assert in_child(act) == "child"
        go_on.set()
        assert told.result(5) == {"a": 1}
    client.close()


def test_a_grandchild_has_a_connection_of_its_own_too(scripted, in_child):
    server = scripted(*[[":greet", ":echo"] for _ in range(3)])
    client = Client(server.url)

    def ask():
        answer = client.command("ECHO", "x")
        client.close()
        return answer

    def child():
        client.connect()
        return [in_child(ask), ask()]

    client.connect()
    assert in_child(child) == ["x", "x"]
    assert ask() == "x"


# A real server


@pytest.fixture
def queue():
    return f"test-client-{os.getpid()}-{time.time_ns()}"


@pytest.fixture
def real(real_server_url, queue):
    with faktory.Client(real_server_url, worker_id=queue, labels=["test"]) as client:
        yield client
        client.command("QUEUE", "REMOVE", queue)


def test_a_real_server_takes_a_job_and_hands_it_out(real, queue):
    sent = {"jobtype": "Resize", "args": [1, "é", None, {"a": [1.5]}], "queue": queue, "retry": 0}
    jid = real.push({**sent, "reserve_for": 60.5, "custom": {"x": 1}, "backtrace": 2})
    job = real.fetch(queue)
    assert {name: job[name] for name in sent} == sent
    assert (job["jid"], job["reserve_for"], job["backtrace"]) == (jid, 61, 2)
    assert job["custom"] == {"x": 1}
    real.ack(jid)
    with pytest.raises(FaktoryServerError, match="Job not found"):
        real.fail(jid, ValueError("boom"))


def test_a_real_server_takes_many_jobs(real, queue):
    jobs = [job(number, queue=queue) for number in range(2500)]
    assert real.push_bulk(iter(jobs)) == {}
    assert real.info()["faktory"]["queues"][queue] == 2500


def test_a_real_server_refuses_a_chunk_for_the_sake_of_one(real, queue):
    jobs = [job(1, queue=queue), job(2, queue=queue, failure={"retry_count": "x"})]
    refused = real.push_bulk([*jobs, job(3, queue=queue)], batch_size=2)
    assert list(refused) == ["job-0001", "job-0002"]
    assert real.info()["faktory"]["queues"][queue] == 1


def test_a_real_server_buries_a_failure_and_beats_back(real, queue):
    jid = real.push({"jobtype": queue, "args": [], "queue": queue, "retry": -1})
    assert real.fetch(queue)["jid"] == jid
    real.fail(jid, ValueError("\x00\udcff" + "é" * 5000), backtrace=50)
    real.requeue("dead", jids=[jid])
    buried = real.fetch(queue)
    assert buried["jid"] == jid
    assert buried["failure"]["errtype"] == "ValueError"
    real.ack(jid)
    assert real.beat(rss_kb=1) is None
    assert real.beat("quiet") == "quiet"


def test_a_job_as_a_real_server_hands_it_out_can_be_pushed_again(real, queue):
    jid = real.push({"jobtype": queue, "args": [], "queue": queue, "at": 0})
    fetched = real.fetch(queue)
    real.ack(jid)
    assert real.push(fetched) == jid
    assert real.fetch(queue)["jid"] == jid
    real.ack(jid)


# Choices


def test_at_least_once_sends_a_push_of_unknown_outcome_again(scripted):
    server = scripted([":greet", "PUSH"], [":greet", "PUSH", OK, ":silence"])
    with Client(server.url, at_least_once=True) as client:
        assert client.push(job(1)) == "job-0001"
    assert server.lines[0][1] == server.lines[1][1]


def test_at_least_once_is_no_reason_to_fetch_twice(scripted):
    client = Client(scripted([":greet", "FETCH"]).url, at_least_once=True)
    with pytest.raises(FaktoryOutcomeUnknown):
        client.fetch("default")


def test_at_least_once_says_so_when_the_second_time_is_not_answered_either(scripted):
    client = Client(scripted([":greet", "PUSH"], [":greet", "PUSH"]).url, at_least_once=True)
    with pytest.raises(FaktoryOutcomeUnknown) as error:
        client.push(job(1))
    assert error.value.jids == ["job-0001"]


SECRET = "s3cret-password"


def conversation(server, caplog, **options):
    caplog.set_level("DEBUG", "faktory.connection")
    url = server.url.replace("tcp://", f"tcp://:{SECRET}@")
    with Client(url, **options) as client:
        client.push(job(1, args=["a private thing"]))
        assert client.info() == {"private": "answer"}
    return "\n".join(record.getMessage() for record in caplog.records)


def test_the_debug_log_leaves_out_what_jobs_hold_and_the_password(scripted, caplog):
    server = scripted([":greet", "PUSH", OK, "INFO", {"private": "answer"}, ":silence"])
    text = conversation(server, caplog)
    assert "> PUSH of job-0001 (" in text
    assert "> INFO (6 bytes)" in text
    assert "< a dict" in text
    assert "private" not in text
    assert SECRET not in text


def test_the_debug_log_shows_what_jobs_hold_where_that_was_asked_for(scripted, caplog):
    server = scripted([":greet", "PUSH", OK, "INFO", {"private": "answer"}, ":silence"])
    text = conversation(server, caplog, log_payloads=True)
    assert "a private thing" in text
    assert "{'private': 'answer'}" in text
    assert SECRET not in text
