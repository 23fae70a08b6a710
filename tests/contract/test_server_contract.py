"""The behaviour that clients rely on, of the embedded server and of the real one in FAKTORY_URL.

PUSH and its errors are in test_push_contract.py.

Every test uses names of its own, so a real server may be in use for something else. FLUSH, which
deletes everything, is sent to a real server only if FAKTORY_FLUSH_OK=1 allows it.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta

import pytest

LATER = "2099-01-01T00:00:00Z"


# Handshake.


@pytest.mark.parametrize(
    "hello",
    [
        b"HELLO {}",
        b'HELLO {"v":3}',
        b'HELLO {"v":2,"wid":null,"labels":null,"unknown":[1]}',
        b'HELLO {"v":2,"LABELS":["a",null]}',
    ],
)
def test_hello_needs_no_field(dial, url, hello):
    if ":" in url.rpartition("@")[0].removeprefix("tcp://"):
        pytest.skip("this server wants a password in it")
    client = dial(handshake=False)
    assert client.call(hello) == b"+OK"


@pytest.mark.parametrize(
    "hello",
    [
        b'HELLO  {"v":2}',
        b'hello {"v":2}',
        b'HELLO {"v":2',
        b'HELLO {"v":"2"}',
        b'HELLO {"v":256}',
        b'HELLO {"pid":"1"}',
        b'HELLO {"pid":1.0}',
        b'HELLO {"labels":"a"}',
        b'HELLO {"labels":[1]}',
        b"HELLO []",
        b"PUSH {}",
        b"",
    ],
)
def test_an_invalid_hello_is_answered_with_a_close(dial, hello):
    client = dial(handshake=False)
    client.send(hello)
    assert client.is_closed()


def test_a_client_without_a_hello_is_disconnected_after_two_seconds(true_waits, dial):
    client = dial(handshake=False)
    started = time.monotonic()
    assert client.is_closed()
    assert 1.9 < time.monotonic() - started < 8


# Scheduled jobs.


def test_a_scheduled_job_is_fetched_when_it_is_due(dial, name):
    client, queue = dial(), name()
    at = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    assert client.push(name(), queue, at=at) == b"+OK"
    assert json.loads(client.call(f"QUEUE LATENCY {queue}")) == {queue: 0}
    # The real server looks every 5 seconds.
    deadline = time.monotonic() + 8
    while (job := client.fetch(queue)) is None and time.monotonic() < deadline:
        pass
    assert job["at"] == at
    assert job["enqueued_at"] >= at.replace("+00:00", "Z")


def test_a_scheduled_job_whose_queue_has_an_invalid_name_is_accepted(dial, name):
    client, jid = dial(), name()
    assert client.push(jid, "a b", at=LATER) == b"+OK"
    requeue = client.mutate("requeue", "scheduled", jids=[jid])
    assert requeue == rb"-ERR queue names must match \A[a-zA-Z0-9._-]+\z"
    assert client.mutate("discard", "scheduled", jids=[jid]) == b"+OK"


def test_a_job_of_five_megabytes_is_accepted(dial, name):
    client, queue = dial(), name()
    text = "x" * 5_000_000
    assert client.push(name(), queue, args=[text]) == b"+OK"
    assert client.fetch(queue)["args"] == [text]


# FETCH.


def test_jobs_come_oldest_first_and_by_the_order_of_the_queues(dial, name):
    client, high, low = dial(), name(), name()
    jids = [name() for _ in range(4)]
    for jid, queue in zip(jids, [low, high, low, high], strict=True):
        client.push(jid, queue)
    fetched = [client.fetch(high, low)["jid"] for _ in jids]
    assert fetched == [jids[1], jids[3], jids[0], jids[2]]


def test_fetch_waits_two_seconds_and_returns_nil(true_waits, dial, name):
    client = dial()
    started = time.monotonic()
    assert client.fetch(name()) is None
    assert 1.9 < time.monotonic() - started < 8


def test_a_job_goes_to_the_fetch_that_has_waited_longest(true_waits, dial, name):
    queue, other, jids = name(), name(), [name(), name()]
    waiting, pusher = [dial(), dial()], dial()
    for client in waiting:
        client.send(f"FETCH {other} {queue}")
        # No reply shows that a FETCH waits. After a reply to another connection the embedded server
        # has read it; the real one has a thread for each connection.
        pusher.call("INFO")
        pusher.call("INFO")
        time.sleep(0.1)
    started = time.monotonic()
    for jid in jids:
        pusher.push(jid, queue)
    assert [json.loads(client.reply())["jid"] for client in waiting] == jids
    assert time.monotonic() - started < 1.5


def test_commands_behind_a_fetch_wait_for_it(true_waits, dial, name):
    client, queue, jid = dial(), name(), name()
    client.send(f"FETCH {queue}", "NOPE", f'ACK {{"jid":"{jid}"}}')
    dial().push(jid, queue)
    assert json.loads(client.reply())["jid"] == jid
    assert [client.reply(), client.reply()] == [b"-ERR unknown command NOPE", b"+OK"]


def test_a_producer_may_fetch(dial, name):
    client, queue = dial(), name()
    client.push(name(), queue)
    assert client.fetch(queue) is not None


# ACK and FAIL.


def test_any_connection_may_report_a_job_even_after_its_worker_is_gone(dial, name):
    worker, other, queue, jids = dial(wid=name()), dial(), name(), [name(), name()]
    for jid in jids:
        worker.push(jid, queue)
        worker.fetch(queue)
    worker.socket.close()
    assert other.call(f'ACK {{"jid":"{jids[0]}"}}') == b"+OK"
    assert other.call(f'FAIL {{"jid":"{jids[1]}"}}') == b"+OK"
    assert other.mutate("discard", "retries", jids=jids) == b"+OK"


def test_a_job_is_reported_once(dial, name):
    client, queue, jid = dial(), name(), name()
    client.push(jid, queue)
    client.fetch(queue)
    assert client.call(f'ACK {{"jid":"{jid}"}}') == b"+OK"
    assert client.call(f'ACK {{"jid":"{jid}"}}') == b"+OK"
    assert client.call(f'FAIL {{"jid":"{jid}"}}') == f"-ERR Job not found {jid}".encode()


def test_two_copies_of_a_job_share_the_newer_reservation(dial, name):
    client, queue, jid = dial(), name(), name()
    for number in (1, 2):
        assert client.push(jid, queue, args=[number]) == b"+OK"
    assert [client.fetch(queue)["args"] for _ in range(2)] == [[1], [2]]
    assert client.call(f'FAIL {{"jid":"{jid}"}}') == b"+OK"
    assert client.call(f'FAIL {{"jid":"{jid}"}}') == f"-ERR Job not found {jid}".encode()
    client.mutate("requeue", "retries", jids=[jid])
    assert client.fetch(queue)["args"] == [2]
    client.call(f'ACK {{"jid":"{jid}"}}')


def test_a_failed_job_is_tried_again_until_it_is_dead(dial, name):
    client, queue, jid = dial(), name(), name()
    client.push(jid, queue, retry=1)
    first = client.fetch(queue)
    assert "failure" not in first
    client.call(
        f'FAIL {{"jid":"{jid}","errtype":"E","message":" \\u00a0no\\n","backtrace":["a",null]}}'
    )
    client.mutate("requeue", "retries", jids=[jid])
    second = client.fetch(queue)
    failure = second.pop("failure")
    assert second == first
    failed_at, next_at = failure.pop("failed_at"), failure.pop("next_at")
    assert failure == {
        "message": "no",
        "errtype": "E",
        "backtrace": ["a", ""],
        "retry_count": 0,
        "remaining": 1,
    }
    delay = datetime.fromisoformat(next_at[:26]) - datetime.fromisoformat(failed_at[:26])
    assert 15 <= delay.total_seconds() <= 45
    client.call(f'FAIL {{"jid":"{jid}"}}')
    client.mutate("requeue", "retries", jids=[jid])
    client.mutate("requeue", "dead", jids=[jid])
    assert client.fetch(queue)["failure"] == {
        "failed_at": failed_at,
        "next_at": next_at,
        "message": "unknown",
        "errtype": "unknown",
        "retry_count": 1,
        "remaining": 0,
    }
    client.call(f'ACK {{"jid":"{jid}"}}')


def test_a_job_without_retries_is_gone_and_one_with_minus_one_is_dead(dial, name):
    client, queue, gone, dead = dial(), name(), name(), name()
    for jid, retry in ((gone, 0), (dead, -1)):
        client.push(jid, queue, retry=retry)
        client.fetch(queue)
        assert client.call(f'FAIL {{"jid":"{jid}"}}') == b"+OK"
    client.mutate("requeue", "retries", jids=[gone, dead])
    client.mutate("requeue", "dead", jids=[gone, dead])
    assert client.fetch(queue)["jid"] == dead
    assert json.loads(client.call(f"QUEUE LATENCY {queue}")) == {queue: 0}
    client.call(f'ACK {{"jid":"{dead}"}}')


def test_the_texts_of_fail_are_cut_by_bytes(dial, name):
    client, queue, jid = dial(), name(), name()
    client.push(jid, queue)
    client.fetch(queue)
    report = {"jid": jid, "errtype": "x" + "é" * 60, "message": "é" * 600, "backtrace": ["b"] * 60}
    client.call("FAIL " + json.dumps(report))
    client.mutate("requeue", "retries", jids=[jid])
    failure = client.fetch(queue)["failure"]
    assert failure["errtype"] == "x" + "é" * 49 + "�"
    assert failure["message"] == "é" * 500
    assert len(failure["backtrace"]) == 50
    client.call(f'ACK {{"jid":"{jid}"}}')


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("ACK {}", "-ERR invalid ACK {}"),
        ("ACK null", "-ERR invalid ACK null"),
        ('ACK {"JID":"x"}', '-ERR invalid ACK {"JID":"x"}'),
        ('ACK {"jid":"x","n":1}', '-ERR invalid ACK {"jid":"x","n":1}'),
        ('ACK {"jid":null}', "+OK"),
        ('ACK {"jid":"x","n":null}', "+OK"),
        ("FAIL null", "-ERR missing JID"),
        ('FAIL {"JID":"x"}', "-ERR Job not found x"),
        ('FAIL {"jid":"x","message":1}', '-ERR invalid FAIL {"jid":"x","message":1}'),
        ('FAIL {"jid":"x","backtrace":[1]}', '-ERR invalid FAIL {"jid":"x","backtrace":[1]}'),
        ("FAIL é", "-ERR invalid FAIL é"),
    ],
)
def test_the_replies_to_invalid_reports(dial, line, reply):
    assert dial().call(line) == reply.encode()


# BEAT.


def test_a_worker_goes_from_quiet_to_terminate_and_never_back(dial, name):
    wid = name()
    client = dial(wid=wid)
    said = [
        client.call(f'BEAT {{"wid":"{wid}"{state}}}')
        for state in (
            "",
            ',"current_state":"nonsense"',
            ',"current_state":"quiet"',
            "",
            ',"current_state":"terminate"',
            ',"current_state":"quiet"',
        )
    ]
    quiet, terminate = b'{"state":"quiet"}', b'{"state":"terminate"}'
    assert said == [b"+OK", b"+OK", quiet, quiet, terminate, terminate]


def test_only_the_first_connection_of_a_quiet_worker_gets_no_jobs(dial, name):
    wid, queue = name(), name()
    first, second = dial(wid=wid), dial(wid=wid)
    second.call(f'BEAT {{"wid":"{wid}","current_state":"quiet"}}')
    first.push(name(), queue)
    assert first.fetch(queue) is None
    assert second.fetch(queue) is not None


def test_a_worker_is_forgotten_with_its_last_connection(dial, name, wait_until):
    wid = name()
    first, second = dial(wid=wid), dial(wid=wid)
    first.call(f'BEAT {{"wid":"{wid}","current_state":"quiet"}}')
    first.socket.close()
    assert second.call(f'BEAT {{"wid":"{wid}"}}') == b'{"state":"quiet"}'
    second.socket.close()
    other = dial()
    unknown = f"-ERR unknown worker {wid}".encode()
    wait_until(lambda: other.call(f'BEAT {{"wid":"{wid}"}}') == unknown)
    again = dial(wid=wid)
    assert again.call(f'BEAT {{"wid":"{wid}"}}') == b"+OK"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("BEAT {}", "-ERR unknown worker "),
        ("BEAT null", "-ERR unknown worker "),
        ('BEAT {"wid":"nobody-is-called-so"}', "-ERR unknown worker nobody-is-called-so"),
        ('BEAT {"wid":"a","rss_kb":1.5}', '-ERR invalid BEAT {"wid":"a","rss_kb":1.5}'),
        ('BEAT {"wid":5}', '-ERR invalid BEAT {"wid":5}'),
    ],
)
def test_the_replies_to_invalid_beats(dial, line, reply):
    assert dial().call(line) == reply.encode()


# QUEUE.


def test_a_paused_queue_gives_no_jobs_until_it_is_resumed(dial, name):
    client, paused, other = dial(), name(), name()
    client.push(name(), paused)
    assert client.call(f"QUEUE pause {paused}") == b"+OK"
    client.push(name(), other)
    assert client.fetch(paused, other)["queue"] == other
    assert client.fetch(paused) is None
    assert client.call(f"QUEUE RESUME {paused}") == b"+OK"
    assert client.fetch(paused) is not None


def test_a_queue_that_does_not_exist_cannot_be_paused(dial, name):
    client, queue = dial(), name()
    assert client.call(f"QUEUE PAUSE {queue}") == b"+OK"
    client.push(name(), queue)
    assert client.fetch(queue) is not None


def test_removing_a_queue_drops_its_jobs_and_its_pause(dial, name):
    client, queue, jid = dial(), name(), name()
    client.push(name(), queue)
    client.call(f"QUEUE PAUSE {queue}")
    assert client.call(f"QUEUE REMOVE {queue} unknown") == b"+OK"
    assert queue not in json.loads(client.call("INFO"))["faktory"]["queues"]
    client.push(jid, queue)
    assert client.fetch(queue)["jid"] == jid


def test_latency_is_the_age_of_the_oldest_job(dial, name):
    client, queue, empty = dial(), name(), name()
    client.push(name(), queue)
    time.sleep(0.05)
    client.push(name(), queue)
    latency = json.loads(client.call(f"QUEUE LATENCY {queue} {empty} {queue}"))
    assert latency[empty] == 0
    assert 0.05 <= latency[queue] < 5
    assert list(latency) == sorted(latency)


def test_latency_fails_for_a_scheduled_job_that_was_requeued_by_hand(dial, name):
    client, queue, jid = dial(), name(), name()
    client.push(jid, queue, at=LATER)
    client.mutate("requeue", "scheduled", jids=[jid])
    assert client.call(f"QUEUE LATENCY {queue}") == (
        b'-ERR QUEUE: parsing time "" as "2006-01-02T15:04:05.999999999Z07:00": '
        b'cannot parse "" as "2006"'
    )
    assert client.fetch(queue)["at"] == LATER


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("QUEUE", b"-ERR internal error"),
        ("QUEUE ", b"-ERR no such QUEUE subcommand: "),
        ("QUEUE nope x", b"-ERR no such QUEUE subcommand: NOPE"),
        ("QUEUE PAUSE", b"-ERR internal error"),
        ("QUEUE RESUME", b"-ERR internal error"),
        ("QUEUE REMOVE", b"-ERR internal error"),
        ("QUEUE PAUSE ", b"+OK"),
        ("QUEUE LATENCY", b"{}"),
        ("QUEUE LATENCY ", b'{"":0}'),
        ("QUEUE LATENCY *", b"-ERR QUEUE LATENCY does not support wildcards"),
        ("QUEUE LATENCY * no-such-queue", b'{"*":0,"no-such-queue":0}'),
    ],
)
def test_the_replies_to_unusual_queue_commands(dial, line, reply):
    assert dial().call(line) == reply


# MUTATE.


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*M-abc*", True),
        ('*M-ab?["]*', True),
        ("*M-[a-c]bc*", True),
        ("*M-[c-a]bc*", True),
        ("*M-[^x]bc*", True),
        ("*M-[^a]bc*", False),
        ("*M-ab[c*", False),
        ("*M-*[x}", True),
        ("*M-*[]", False),
        ("*M-*[^]", True),
        ("*M-[]abc*", False),
        (r"*M-[\a]bc*", True),
        (r"*M-\abc*", True),
        ("*M-ab", False),
        ("M-abc*", False),
        ("*M-a*c*b*", False),
        ("**M-**c**", True),
        ("*M-abcd*", False),
        ("*m-abc*", False),
        ('{"retry":?,*M-abc*}', True),
        ("*M-abc*é*", True),
        ("*M-abc*??\\u003c*", True),
        ("*M-abc*<*", False),
    ],
)
def test_patterns_are_those_of_redis(dial, name, pattern, matches):
    client, queue, jid, marker = dial(), name(), name(), name()
    client.push(jid, queue, args=[f"{marker}-abc", "é<"], retry=2, at=LATER)
    assert client.mutate("requeue", "scheduled", regexp=pattern.replace("M", marker)) == b"+OK"
    queued = json.loads(client.call("INFO"))["faktory"]["queues"].get(queue, 0)
    client.mutate("discard", "scheduled", jids=[jid])
    assert queued == (1 if matches else 0)


def test_jids_win_over_pattern_and_type_and_a_type_may_hold_wildcards(dial, name):
    client, queue, kind = dial(), name(), name()
    jids = [name() for _ in range(4)]
    for jid, jobtype in zip(jids, [f"{kind}a", f"{kind}b", f"{kind}ab", f"{kind}c"], strict=True):
        client.push(jid, queue, jobtype=jobtype, at=LATER)
    sizes = []
    for chosen in (
        {"jids": [jids[0]], "jobtype": "nothing", "regexp": "nothing"},
        {"jobtype": f"{kind}?"},
        {"jobtype": f"{kind}ab", "regexp": f"*{jids[3]}*"},
        {"jobtype": f"{kind}ab", "regexp": f"*{jids[2]}*"},
        {"jids": [], "jobtype": f"{kind}c"},
    ):
        client.mutate("requeue", "scheduled", **chosen)
        sizes.append(json.loads(client.call("INFO"))["faktory"]["queues"][queue])
    assert sizes == [1, 3, 3, 4, 4]


def test_killed_jobs_are_dead_and_may_be_requeued(dial, name):
    client, queue, jid = dial(), name(), name()
    client.push(jid, queue, at=LATER)
    for target in ("scheduled", "dead"):
        assert client.mutate("kill", target, jids=[jid]) == b"+OK"
    assert client.mutate("requeue", "dead", jids=[jid]) == b"+OK"
    assert client.fetch(queue)["at"] == LATER


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unexpected end of JSON input"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("null", "unknown mutate operation"),
        ("[]", "json: cannot unmarshal array into Go value of type client.Operation"),
        ('{"cmd":"clear"}', "invalid target for mutation command"),
        ('{"cmd":"kill","target":"working"}', "invalid target for mutation command"),
        ('{"cmd":"Clear","target":"dead"}', "unknown mutate operation"),
        ('{"cmd": "clear"}', "invalid format"),
        (
            '{"target":5}',
            "json: cannot unmarshal number into Go struct field Operation.target "
            "of type client.Structure",
        ),
        (
            '{"filter":{"jids":["x",5]}}',
            "json: cannot unmarshal number into Operation.filter.jids.1 of type string",
        ),
        (
            '{"filter":[]}',
            "json: cannot unmarshal array into Go struct field Operation.filter "
            "of type client.JobFilter",
        ),
    ],
)
def test_the_replies_to_invalid_mutations(dial, text, message):
    assert dial().call("MUTATE " + text) == f"-ERR {message}".encode()


# The rest.


@pytest.mark.parametrize("verb", ["PUSH", "PUSHB", "ACK", "FAIL", "BEAT"])
def test_a_verb_alone_is_an_internal_error_and_the_connection_stays(dial, verb):
    client = dial()
    assert client.call(verb) == b"-ERR internal error"
    assert client.call("NOPE") == b"-ERR unknown command NOPE"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("push {}", b"-ERR unknown command push"),
        ("", b"-ERR unknown command "),
        ("FLUSHALL", b"-ERR unknown command FLUSHALL"),
        ("FETCH", b"-ERR must call fetch with at least one queue"),
        ("MUTATE", b"-ERR invalid format"),
        ("BATCH NEW {}", b"-ERR batch subsystem is only available in Faktory Enterprise"),
        ("TRACK GET x", b"-ERR tracking subsystem is only available in Faktory Enterprise"),
    ],
)
def test_the_replies_to_unknown_commands(dial, line, reply):
    assert dial().call(line) == reply


def test_an_unknown_command_is_named_by_its_bytes(dial):
    assert dial().call(b"\xff\xfe x") == b"-ERR unknown command \xff\xfe"


def test_end_closes_without_a_reply(dial):
    client = dial()
    client.send("END", "INFO")
    assert client.is_closed()


def test_a_bare_newline_ends_a_command_and_a_raw_one_inside_splits_it(dial):
    client = dial()
    client.socket.sendall(b'NOPE\nACK {"jid":\n"x"}\r\n')
    assert [client.reply() for _ in range(3)] == [
        b"-ERR unknown command NOPE",
        b'-ERR invalid ACK {"jid":',
        b'-ERR unknown command "x"}',
    ]


def test_info_counts(dial, name):
    client, queue, jid = dial(), name(), name()
    before = json.loads(client.call("INFO"))
    client.push(jid, queue)
    client.fetch(queue)
    client.call(f'ACK {{"jid":"{jid}"}}')
    client.push(name(), queue)
    after = json.loads(client.call("INFO"))
    assert list(after) == ["now", "server_utc_time", "faktory", "server"]
    assert after["faktory"]["queues"][queue] == 1
    assert after["faktory"]["total_processed"] > before["faktory"]["total_processed"]
    assert after["server"]["command_count"] >= before["server"]["command_count"] + 5
    assert after["server"]["description"] == "Faktory"
    client.call(f"QUEUE REMOVE {queue}")


def test_flush_forgets_jobs_and_counters_but_not_queues_and_pauses(dial, name, request):
    if "real" in request.node.callspec.id and os.environ.get("FAKTORY_FLUSH_OK") != "1":
        pytest.skip(
            "FLUSH deletes everything: FAKTORY_FLUSH_OK=1 allows it on the server in FAKTORY_URL"
        )
    client, queue, jid = dial(), name(), name()
    client.push(jid, queue)
    client.fetch(queue)
    client.push(name(), queue)
    client.push(name(), queue, at=LATER)
    client.call(f"QUEUE PAUSE {queue}")
    assert client.call("FLUSH") == b"+OK"
    state = json.loads(client.call("INFO"))["faktory"]
    assert state["queues"][queue] == 0
    assert set(state["sets"].values()) == {0}
    assert state["tasks"]["Busy"]["size"] >= 1
    assert client.call(f'FAIL {{"jid":"{jid}"}}') == b"+OK"
    state = json.loads(client.call("INFO"))["faktory"]
    assert (state["total_processed"], state["total_failures"]) == (0, 0)
    client.push(name(), queue)
    assert client.fetch(queue) is None
