from __future__ import annotations

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

from .conftest import OK, SHORT, job, payload

NO_SUCH_JOB = b"-ERR Job not found 12345678\r\n"
SHUTDOWN = b"-ERR shutdown in progress\r\n"
FULL = b"-ERR too many connections: 2001\r\n"

JOB = {"jid": "12345678", "jobtype": "Resize", "args": [1]}


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


def test_connect_returns_true_and_connects_once(scripted):
    server = scripted([":greet", ":silence"])
    client = Client(server.url)
    assert client.connect() is True
    assert client.connect() is True
    client.close()


def test_after_disconnect_the_next_command_connects_again(scripted):
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


def test_the_default_address_is_the_environments(monkeypatch):
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


def test_a_bad_address_is_refused_at_once():
    with pytest.raises(ValueError, match="is not a Faktory address"):
        Client("localhost")


# Commands


def test_push_returns_the_jid_and_makes_one_if_there_is_none(scripted):
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


def test_an_error_of_the_server_is_raised_and_the_connection_stays_open(scripted):
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


def test_each_method_sends_its_line_and_returns_its_answer(scripted):
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
    assert server.ended[0].wait(20)
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
        ({"labels": ["ok", "\udcff"]}, r"the label '\\udcff' holds a character that cannot"),
        ({"labels": ["a\nb"]}, r"the label 'a\\nb' holds a character"),
        ({"labels": ["a\0b"]}, r"the label 'a\\x00b' holds a character"),
        ({"worker_id": "w\udcff"}, r"the worker_id 'w\\udcff' holds a character"),
        ({"worker_id": "w\0"}, r"the worker_id 'w\\x00' holds a character"),
        ({"worker_id": ""}, "worker_id is ''"),
        ({"ssl_context": object()}, r"begins with tcp\+tls://"),
    ],
)
def test_a_bad_argument_is_refused_at_once(setting, complaint):
    with pytest.raises(ValueError, match=complaint):
        Client("tcp://:s3cret@127.0.0.1:1", **setting)


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("caf\udce9", "caf?"),
        ("a\nb\0c\x1b", "a?b?c?"),
        ("café-01", "café-01"),
        ("", ""),
        ("\ud83d", "?"),
    ],
)
def test_a_hostname_that_is_not_utf8_is_made_fit(scripted, monkeypatch, name, sent):
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    server = scripted([":greet", "PUSH", OK, "END"])
    with Client(server.url) as client:
        client.push({"jobtype": "a", "args": []})
    assert payload(server.lines[0][0])["hostname"] == sent


def bad_values():
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


@pytest.mark.parametrize("complaint", bad_values())
def test_a_bad_value_is_named_and_nothing_is_sent(complaint):
    with pytest.raises(ValueError, match=complaint):
        bad_values()[complaint]()


def test_only_a_worker_beats():
    with pytest.raises(ValueError, match="only a worker beats"):
        Client("tcp://127.0.0.1:1").beat()


def test_requeuing_no_jobs_sends_nothing():
    Client("tcp://127.0.0.1:1").requeue("dead", jids=[])


def test_an_answer_that_is_not_json_leaves_the_connection_open(scripted):
    server = scripted([":greet", "INFO", b"$1\r\n{\r\n", "INFO", {"a": 1}, ":silence"])
    with Client(server.url) as client:
        with pytest.raises(FaktoryJSONError):
            client.info()
        assert client.info() == {"a": 1}


# Pushing many


def test_a_bulk_push_is_sent_in_chunks_and_returns_what_the_server_refused(scripted):
    server = scripted([":greet", "PUSHB", {}, "PUSHB", {"job-0003": "no"}, "PUSHB", {}, ":silence"])
    with Client(server.url) as client:
        assert client.push_bulk([job(n) for n in range(5)], batch_size=2) == {"job-0003": "no"}
    chunks = [payload(line) for line in server.lines[0][1:4]]
    assert [[sent["args"][0] for sent in chunk] for chunk in chunks] == [[0, 1], [2, 3], [4]]
    assert all(sent["retry"] == 25 for chunk in chunks for sent in chunk)


def test_a_generator_is_consumed_at_most_a_chunk_ahead(scripted):
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


def test_jobs_that_cannot_be_sent_are_returned_by_jid_and_the_others_are_sent(scripted):
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


def test_a_bulk_push_with_nothing_to_send_needs_no_connection():
    client = Client("tcp://127.0.0.1:1")
    assert client.push_bulk([]) == {}
    assert list(client.push_bulk([job(1, retry="x")])) == ["job-0001"]


def test_after_a_refused_chunk_the_next_one_is_sent(scripted):
    server = scripted([":greet", "PUSHB", b"-ERR invalid JSON\r\n", "PUSHB", {}, ":silence"])
    with Client(server.url) as client:
        refused = client.push_bulk([job(n) for n in range(3)], batch_size=2)
    assert refused == {"job-0000": "ERR invalid JSON", "job-0001": "ERR invalid JSON"}


def test_a_bulk_push_whose_connection_breaks_says_which_jobs_are_unknown(scripted):
    server = scripted([":greet", "PUSHB", {"job-0001": "no"}, "PUSHB"])
    client = Client(server.url)
    with pytest.raises(FaktoryBulkError, match="2 jobs may or may not be queued") as error:
        client.push_bulk([job(n) for n in range(6)], batch_size=2)
    assert error.value.refused == {"job-0001": "no"}
    assert error.value.unknown == ["job-0002", "job-0003"]
    assert error.value.unsent == ["job-0004", "job-0005"]
    assert isinstance(error.value.__cause__, FaktoryOutcomeUnknown)


def test_a_bulk_answer_that_is_not_json_leaves_the_jobs_unknown(scripted):
    server = scripted([":greet", "PUSHB", b"$1\r\n{\r\n", ":silence"])
    with Client(server.url) as client, pytest.raises(FaktoryBulkError) as error:
        client.push_bulk([job(1)])
    assert error.value.unknown == ["job-0001"]
    assert error.value.unsent == []


def test_a_bulk_push_without_a_server_says_which_jobs_were_not_sent(closed_port):
    client = Client(f"tcp://127.0.0.1:{closed_port}")
    with pytest.raises(FaktoryBulkError, match="2 jobs were not queued: nothing listens") as error:
        client.push_bulk([job(1), job(2), job(3, retry=-5)])
    assert error.value.unsent == ["job-0001", "job-0002"]
    assert error.value.unknown == []
    assert list(error.value.refused) == ["job-0003"]


@pytest.mark.parametrize("size", [0, -1])
def test_a_chunk_has_at_least_one_job(size):
    with pytest.raises(ValueError, match=f"batch_size is {size}"):
        Client("tcp://127.0.0.1:1").push_bulk([], batch_size=size)


# Without a server


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
    with pytest.raises(FaktoryAuthenticationError, match="refused the password") as caught:
        client.push(JOB)
    assert "s3cret" not in str(caught.value)


def test_another_kind_of_server_is_one_clear_error(scripted):
    client = Client(scripted([b"SSH-2.0-OpenSSH_9.2p1\r\n"]).url)
    with pytest.raises(FaktoryHandshakeError):
        client.info()


def test_a_silent_server_is_a_timeout_and_not_tried_twice(scripted):
    client = Client(scripted([":silence"]).url, timeout=SHORT)
    with pytest.raises(FaktoryTimeout):
        client.info()


# A connection that breaks

CLOSED = [":greet"]
RESET = [":greet", ":reset"]


@pytest.mark.parametrize("end", [CLOSED, RESET])
def test_a_push_after_the_server_closed_the_connection_uses_a_new_one(scripted, end):
    server = scripted(end, [":greet", "PUSH", OK, ":silence"])
    client = Client(server.url)
    client.connect()
    assert server.ended[0].wait(20)
    client.push(JOB)
    client.close()
    assert server.verbs(0) == ["HELLO"]


@pytest.mark.parametrize("end", [[], [":reset"]])
def test_a_push_that_was_sent_and_not_answered_is_unknown_and_not_sent_again(scripted, end):
    server = scripted([":greet", "PUSH", *end], [":greet", "PUSH", OK, ":silence"])
    client = Client(server.url)
    with pytest.raises(FaktoryOutcomeUnknown, match="PUSH of 12345678 was sent") as error:
        client.push(JOB)
    assert error.value.jids == ["12345678"]
    assert isinstance(error.value.__cause__, FaktoryConnectionResetError)
    assert not client.is_connected
    assert server.lines[1] == []
    client.push(JOB)  # the next push is unaffected
    client.close()


def test_a_push_that_times_out_is_unknown(scripted, impatient):
    server = scripted([":greet", "PUSH", ":silence"])
    client = Client(server.url)
    with pytest.raises(FaktoryOutcomeUnknown, match="no answer from") as error:
        client.push(JOB)
    assert isinstance(error.value.__cause__, FaktoryTimeout)
    assert not client.is_connected


def test_a_push_that_was_not_sent_completely_is_sent_again(scripted):
    large = {**JOB, "args": ["x" * 20_000_000]}
    server = scripted([":greet", ":reset"], [":greet", "PUSH", OK, ":silence"])
    with Client(server.url) as client:
        assert client.push(large) == "12345678"


def test_a_push_whose_answer_makes_no_sense_is_unknown(scripted):
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
def test_ack_and_info_are_sent_again_on_a_new_connection(scripted, end):
    server = scripted(
        [":greet", "ACK", *end], [":greet", "ACK", OK, "INFO", *end], [":greet", "INFO", {}, "END"]
    )
    client = Client(server.url)
    client.ack("12345678")
    assert client.info() == {}
    client.close()


def test_an_idempotent_command_is_sent_again_only_once(scripted):
    server = scripted([":greet", "INFO"], [":greet", "INFO"], [":greet", "INFO", {}, "END"])
    client = Client(server.url)
    with pytest.raises(FaktoryConnectionResetError, match="closed the connection") as error:
        client.info()
    assert server.lines[2] == []
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__
    assert client.info() == {}
    client.close()


def test_two_timeouts_are_a_timeout(scripted, impatient):
    server = scripted([":greet", "INFO", ":silence"], [":greet", "INFO", ":silence"])
    client = Client(server.url)
    with pytest.raises(FaktoryTimeout):
        client.info()
    assert not client.is_connected


def test_the_second_attempt_may_find_no_server(scripted):
    client = Client(scripted([":greet", "INFO"]).url)
    with pytest.raises(FaktoryConnectionError, match="nothing listens"):
        client.info()


def test_two_answers_that_make_no_sense_are_a_protocol_error(scripted):
    client = Client(scripted(*[[":greet", "INFO", b"+OK\r\n", ":silence"] for _ in range(2)]).url)
    with pytest.raises(FaktoryProtocolError):
        client.info()
    assert not client.is_connected


def test_job_not_found_is_success_for_a_fail_that_was_sent_again(scripted):
    server = scripted([":greet", "FAIL"], [":greet", "FAIL", NO_SUCH_JOB, "FAIL", NO_SUCH_JOB])
    client = Client(server.url)
    client.fail("12345678", ValueError("boom"))
    assert server.lines[0][1] == server.lines[1][1]
    with pytest.raises(FaktoryServerError, match="Job not found"):
        client.fail("12345678", ValueError("boom"))  # this one was not sent again
    client.close()


def test_job_not_found_is_an_error_for_a_fail_that_was_not_sent_before(scripted):
    server = scripted(CLOSED, [":greet", "FAIL", NO_SUCH_JOB, ":silence"])
    with Client(server.url) as client:
        assert server.ended[0].wait(20)
        with pytest.raises(FaktoryServerError, match="Job not found"):
            client.fail("12345678")


@pytest.mark.parametrize("closing", [SHUTDOWN, FULL])
def test_after_a_closing_error_the_push_is_sent_again_on_a_new_connection(scripted, closing):
    server = scripted([":greet", "PUSH", closing], [":greet", "PUSH", OK, ":silence"])
    with Client(server.url) as client:
        client.push(JOB)


@pytest.mark.parametrize("closing", [SHUTDOWN, FULL])
def test_a_closing_error_on_the_new_connection_too_is_raised(scripted, closing):
    server = scripted(*[[b'+HI {"v":2}\r\n', "HELLO", OK + closing] for _ in range(2)])
    client = Client(server.url)
    with pytest.raises(FaktoryConnectionResetError) as error:
        client.push(JOB)
    assert closing.decode()[1:-2] in str(error.value)
    assert not isinstance(error.value, FaktoryOutcomeUnknown)
    assert not client.is_connected


def test_a_break_between_two_answers_sends_the_second_command_again(scripted):
    server = scripted([":greet", "ACK", "INFO", OK], [":greet", "INFO", {"a": 1}, ":silence"])
    with Client(server.url) as client:
        acked, info = client.exchange(commands.ack("12345678"), commands.info())
    assert (acked.command.name, acked.error) == ("ACK", None)
    assert info.value == {"a": 1}


def test_of_two_fails_only_the_one_sent_again_may_be_unknown_to_the_server(scripted):
    server = scripted(
        [":greet", "FAIL", "FAIL", NO_SUCH_JOB], [":greet", "FAIL", NO_SUCH_JOB, ":silence"]
    )
    sent = [commands.fail(jid, "E", "m", []) for jid in ("aaaaaaaa", "bbbbbbbb")]
    with Client(server.url) as client:
        answers = client.exchange(*sent)
    assert [answer.command for answer in answers] == sent
    assert type(answers[0].error) is FaktoryServerError
    assert answers[1].error is None


def test_a_pair_with_a_fetch_that_was_sent_is_unknown_and_not_sent_again(scripted):
    server = scripted([":greet", "ACK", "FETCH", OK])
    with pytest.raises(FaktoryOutcomeUnknown, match="after FETCH was sent"):
        Client(server.url).exchange(commands.ack("12345678"), commands.fetch(["a"]))


@pytest.mark.parametrize("stray", [OK, b"-ERR what\r\n", b"$2\r\n{}\r\n"])
def test_unsolicited_data_answers_no_command(scripted, stray):
    sent = threading.Event()
    server = scripted(
        [":greet", stray, sent.set, ":silence"], [":greet", "INFO", {"a": 1}, ":silence"]
    )
    with Client(server.url) as client:
        assert sent.wait(20)
        assert client.info() == {"a": 1}


def test_an_interrupt_between_send_and_answer_drops_the_connection(scripted):
    answered = threading.Event()

    def interrupt():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        answered.wait(20)

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


def test_disconnect_waits_for_the_command_in_progress(scripted):
    arrived, go_on = threading.Event(), threading.Event()
    server = scripted([":greet", "INFO", arrived.set, lambda: go_on.wait(20), {"a": 1}, "END"])
    client = Client(server.url)
    with ThreadPoolExecutor(2) as threads:
        info = threads.submit(client.info)
        assert arrived.wait(20)
        ended = threads.submit(client.disconnect)
        go_on.set()
        assert info.result(20) == {"a": 1}
        ended.result(20)


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
        assert ended.wait(20)
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
    assert server.ended[0].wait(20)
    assert server.verbs(0) == ["HELLO", "ECHO", "END"]


def test_a_fork_while_a_thread_waits_for_an_answer_does_not_block_the_child(scripted, in_child):
    arrived, go_on = threading.Event(), threading.Event()
    server = scripted(
        [":greet", "INFO", arrived.set, lambda: go_on.wait(20), {"a": 1}, ":silence"],
        [":greet", ":echo"],
    )
    client = Client(server.url)
    with ThreadPoolExecutor(1) as threads:
        info = threads.submit(client.info)
        assert arrived.wait(20)

        def act():
            answer = client.command("ECHO", "child")
            client.close()
            return answer

        assert in_child(act) == "child"
        go_on.set()
        assert info.result(20) == {"a": 1}
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


def test_a_real_server_refuses_a_chunk_because_of_one_job(real, queue):
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


def test_a_job_fetched_from_a_real_server_can_be_pushed_again(real, queue):
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


def test_at_least_once_does_not_fetch_twice(scripted):
    client = Client(scripted([":greet", "FETCH"]).url, at_least_once=True)
    with pytest.raises(FaktoryOutcomeUnknown):
        client.fetch("default")


def test_with_at_least_once_two_missing_answers_are_an_unknown_outcome(scripted):
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


def test_the_debug_log_leaves_out_the_contents_of_jobs_and_the_password(scripted, caplog):
    server = scripted([":greet", "PUSH", OK, "INFO", {"private": "answer"}, ":silence"])
    text = conversation(server, caplog)
    assert "> PUSH of job-0001 (" in text
    assert "> INFO (6 bytes)" in text
    assert "< a dict" in text
    assert "private" not in text
    assert SECRET not in text


def test_the_debug_log_shows_the_contents_of_jobs_if_asked_for(scripted, caplog):
    server = scripted([":greet", "PUSH", OK, "INFO", {"private": "answer"}, ":silence"])
    text = conversation(server, caplog, log_payloads=True)
    assert "a private thing" in text
    assert "{'private': 'answer'}" in text
    assert SECRET not in text


NO_DATE = b'-ERR QUEUE: parsing time "" as "2006-01-02T15:04:05.999999999Z07:00"\r\n'


def test_a_queue_without_a_latency_does_not_hide_the_others(scripted, caplog):
    server = scripted(
        [
            *(":greet", "QUEUE LATENCY a b c", NO_DATE),
            *("QUEUE LATENCY a", {"a": 1.5}, "QUEUE LATENCY b", NO_DATE),
            *("QUEUE LATENCY c", {"c": 0}, "END"),
        ]
    )
    with Client(server.url) as client:
        assert client.queue_latency("a", "b", "c") == {"a": 1.5, "c": 0}
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("the latency of queue b is unknown: ERR QUEUE: parsing time")


def test_the_latency_of_queues_that_have_none_is_an_error(scripted):
    server = scripted(
        [
            *(":greet", "QUEUE LATENCY a", NO_DATE),
            *("QUEUE LATENCY a b", NO_DATE, "QUEUE LATENCY a", NO_DATE, "QUEUE LATENCY b", NO_DATE),
            "END",
        ]
    )
    with Client(server.url) as client:
        for names in (["a"], ["a", "b"]):
            with pytest.raises(FaktoryServerError, match="parsing time"):
                client.queue_latency(*names)
