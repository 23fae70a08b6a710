"""What clients may rely on: of the embedded server, and of the real one in FAKTORY_URL.

What PUSH takes and refuses is in test_push_contract.py.

Every test brings names of its own, so that a real server may be in use for something else. FLUSH,
which spares nobody, is said to it only where FAKTORY_FLUSH_OK=1 allows it.
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
    line = dial(greet=False)
    assert line.say(hello) == b"+OK"


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
def test_a_hello_that_makes_no_sense_is_hung_up_on_without_a_word(dial, hello):
    line = dial(greet=False)
    line.send(hello)
    assert line.closed()


def test_a_client_that_does_not_say_hello_is_hung_up_on_after_two_seconds(true_waits, dial):
    line = dial(greet=False)
    started = time.monotonic()
    assert line.closed()
    assert 1.9 < time.monotonic() - started < 4


# Scheduled jobs.


def test_a_scheduled_job_comes_when_its_time_has_come(dial, name):
    line, queue = dial(), name()
    at = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    assert line.push(name(), queue, at=at) == b"+OK"
    assert json.loads(line.say(f"QUEUE LATENCY {queue}")) == {queue: 0}
    # The real server looks every 5 seconds.
    deadline = time.monotonic() + 8
    while (job := line.fetch(queue)) is None and time.monotonic() < deadline:
        pass
    assert job["at"] == at
    assert job["enqueued_at"] >= at.replace("+00:00", "Z")


def test_a_scheduled_job_for_a_queue_of_an_impossible_name_is_taken(dial, name):
    line, jid = dial(), name()
    assert line.push(jid, "a b", at=LATER) == b"+OK"
    requeue = line.mutate("requeue", "scheduled", jids=[jid])
    assert requeue == rb"-ERR queue names must match \A[a-zA-Z0-9._-]+\z"
    assert line.mutate("discard", "scheduled", jids=[jid]) == b"+OK"


def test_a_job_of_five_megabytes_passes(dial, name):
    line, queue = dial(), name()
    text = "x" * 5_000_000
    assert line.push(name(), queue, args=[text]) == b"+OK"
    assert line.fetch(queue)["args"] == [text]


# FETCH.


def test_jobs_come_oldest_first_and_by_the_order_of_the_queues(dial, name):
    line, high, low = dial(), name(), name()
    jids = [name() for _ in range(4)]
    for jid, queue in zip(jids, [low, high, low, high], strict=True):
        line.push(jid, queue)
    fetched = [line.fetch(high, low)["jid"] for _ in jids]
    assert fetched == [jids[1], jids[3], jids[0], jids[2]]


def test_fetch_waits_two_seconds_and_answers_nil(true_waits, dial, name):
    line = dial()
    started = time.monotonic()
    assert line.fetch(name()) is None
    assert 1.9 < time.monotonic() - started < 4


def test_a_job_wakes_the_fetch_that_has_waited_longest(true_waits, dial, name):
    queue, other, jids = name(), name(), [name(), name()]
    waiting = [dial(), dial()]
    for line in waiting:
        line.send(f"FETCH {other} {queue}")
        time.sleep(0.1)  # nothing tells that a FETCH waits
    pusher = dial()
    started = time.monotonic()
    for jid in jids:
        pusher.push(jid, queue)
    assert [json.loads(line.reply())["jid"] for line in waiting] == jids
    assert time.monotonic() - started < 1


def test_commands_behind_a_fetch_wait_for_it(true_waits, dial, name):
    line, queue, jid = dial(), name(), name()
    line.send(f"FETCH {queue}", "NOPE", f'ACK {{"jid":"{jid}"}}')
    dial().push(jid, queue)
    assert json.loads(line.reply())["jid"] == jid
    assert [line.reply(), line.reply()] == [b"-ERR unknown command NOPE", b"+OK"]


def test_a_producer_may_fetch(dial, name):
    line, queue = dial(), name()
    line.push(name(), queue)
    assert line.fetch(queue) is not None


# ACK and FAIL.


def test_any_connection_may_report_a_job_even_after_its_worker_is_gone(dial, name):
    worker, other, queue, jids = dial(wid=name()), dial(), name(), [name(), name()]
    for jid in jids:
        worker.push(jid, queue)
        worker.fetch(queue)
    worker.socket.close()
    assert other.say(f'ACK {{"jid":"{jids[0]}"}}') == b"+OK"
    assert other.say(f'FAIL {{"jid":"{jids[1]}"}}') == b"+OK"
    assert other.mutate("discard", "retries", jids=jids) == b"+OK"


def test_a_job_is_reported_once(dial, name):
    line, queue, jid = dial(), name(), name()
    line.push(jid, queue)
    line.fetch(queue)
    assert line.say(f'ACK {{"jid":"{jid}"}}') == b"+OK"
    assert line.say(f'ACK {{"jid":"{jid}"}}') == b"+OK"
    assert line.say(f'FAIL {{"jid":"{jid}"}}') == f"-ERR Job not found {jid}".encode()


def test_two_copies_of_a_job_share_the_newer_reservation(dial, name):
    line, queue, jid = dial(), name(), name()
    for number in (1, 2):
        assert line.push(jid, queue, args=[number]) == b"+OK"
    assert [line.fetch(queue)["args"] for _ in range(2)] == [[1], [2]]
    assert line.say(f'FAIL {{"jid":"{jid}"}}') == b"+OK"
    assert line.say(f'FAIL {{"jid":"{jid}"}}') == f"-ERR Job not found {jid}".encode()
    line.mutate("requeue", "retries", jids=[jid])
    assert line.fetch(queue)["args"] == [2]
    line.say(f'ACK {{"jid":"{jid}"}}')


def test_a_failed_job_is_tried_again_until_it_is_dead(dial, name):
    line, queue, jid = dial(), name(), name()
    line.push(jid, queue, retry=1)
    first = line.fetch(queue)
    assert "failure" not in first
    line.say(
        f'FAIL {{"jid":"{jid}","errtype":"E","message":" \\u00a0no\\n","backtrace":["a",null]}}'
    )
    line.mutate("requeue", "retries", jids=[jid])
    second = line.fetch(queue)
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
    line.say(f'FAIL {{"jid":"{jid}"}}')
    line.mutate("requeue", "retries", jids=[jid])
    line.mutate("requeue", "dead", jids=[jid])
    assert line.fetch(queue)["failure"] == {
        "failed_at": failed_at,
        "next_at": next_at,
        "message": "unknown",
        "errtype": "unknown",
        "retry_count": 1,
        "remaining": 0,
    }
    line.say(f'ACK {{"jid":"{jid}"}}')


def test_a_job_without_retries_is_gone_and_one_with_minus_one_is_dead(dial, name):
    line, queue, gone, dead = dial(), name(), name(), name()
    for jid, retry in ((gone, 0), (dead, -1)):
        line.push(jid, queue, retry=retry)
        line.fetch(queue)
        assert line.say(f'FAIL {{"jid":"{jid}"}}') == b"+OK"
    line.mutate("requeue", "retries", jids=[gone, dead])
    line.mutate("requeue", "dead", jids=[gone, dead])
    assert line.fetch(queue)["jid"] == dead
    assert json.loads(line.say(f"QUEUE LATENCY {queue}")) == {queue: 0}
    line.say(f'ACK {{"jid":"{dead}"}}')


def test_what_fail_says_is_cut_by_bytes(dial, name):
    line, queue, jid = dial(), name(), name()
    line.push(jid, queue)
    line.fetch(queue)
    report = {"jid": jid, "errtype": "x" + "é" * 60, "message": "é" * 600, "backtrace": ["b"] * 60}
    line.say("FAIL " + json.dumps(report))
    line.mutate("requeue", "retries", jids=[jid])
    failure = line.fetch(queue)["failure"]
    assert failure["errtype"] == "x" + "é" * 49 + "�"
    assert failure["message"] == "é" * 500
    assert len(failure["backtrace"]) == 50
    line.say(f'ACK {{"jid":"{jid}"}}')


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
def test_reports_that_make_no_sense(dial, line, reply):
    assert dial().say(line) == reply.encode()


# BEAT.


def test_a_worker_goes_from_quiet_to_terminate_and_never_back(dial, name):
    wid = name()
    line = dial(wid=wid)
    said = [
        line.say(f'BEAT {{"wid":"{wid}"{state}}}')
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
    second.say(f'BEAT {{"wid":"{wid}","current_state":"quiet"}}')
    first.push(name(), queue)
    assert first.fetch(queue) is None
    assert second.fetch(queue) is not None


def test_a_worker_is_forgotten_with_its_last_connection(dial, name, wait_until):
    wid = name()
    first, second = dial(wid=wid), dial(wid=wid)
    first.say(f'BEAT {{"wid":"{wid}","current_state":"quiet"}}')
    first.socket.close()
    assert second.say(f'BEAT {{"wid":"{wid}"}}') == b'{"state":"quiet"}'
    second.socket.close()
    other = dial()
    unknown = f"-ERR unknown worker {wid}".encode()
    wait_until(lambda: other.say(f'BEAT {{"wid":"{wid}"}}') == unknown)
    again = dial(wid=wid)
    assert again.say(f'BEAT {{"wid":"{wid}"}}') == b"+OK"


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
def test_beats_of_nobody(dial, line, reply):
    assert dial().say(line) == reply.encode()


# QUEUE.


def test_a_paused_queue_gives_no_jobs_until_it_is_resumed(dial, name):
    line, paused, other = dial(), name(), name()
    line.push(name(), paused)
    assert line.say(f"QUEUE pause {paused}") == b"+OK"
    line.push(name(), other)
    assert line.fetch(paused, other)["queue"] == other
    assert line.fetch(paused) is None
    assert line.say(f"QUEUE RESUME {paused}") == b"+OK"
    assert line.fetch(paused) is not None


def test_a_queue_that_does_not_exist_cannot_be_paused(dial, name):
    line, queue = dial(), name()
    assert line.say(f"QUEUE PAUSE {queue}") == b"+OK"
    line.push(name(), queue)
    assert line.fetch(queue) is not None


def test_removing_a_queue_drops_its_jobs_and_its_pause(dial, name):
    line, queue, jid = dial(), name(), name()
    line.push(name(), queue)
    line.say(f"QUEUE PAUSE {queue}")
    assert line.say(f"QUEUE REMOVE {queue} unknown") == b"+OK"
    assert queue not in json.loads(line.say("INFO"))["faktory"]["queues"]
    line.push(jid, queue)
    assert line.fetch(queue)["jid"] == jid


def test_latency_is_the_age_of_the_oldest_job(dial, name):
    line, queue, empty = dial(), name(), name()
    line.push(name(), queue)
    time.sleep(0.05)
    line.push(name(), queue)
    latency = json.loads(line.say(f"QUEUE LATENCY {queue} {empty} {queue}"))
    assert latency[empty] == 0
    assert 0.05 <= latency[queue] < 5
    assert list(latency) == sorted(latency)


def test_latency_fails_for_a_scheduled_job_that_was_requeued_by_hand(dial, name):
    line, queue, jid = dial(), name(), name()
    line.push(jid, queue, at=LATER)
    line.mutate("requeue", "scheduled", jids=[jid])
    assert line.say(f"QUEUE LATENCY {queue}") == (
        b'-ERR QUEUE: parsing time "" as "2006-01-02T15:04:05.999999999Z07:00": '
        b'cannot parse "" as "2006"'
    )
    assert line.fetch(queue)["at"] == LATER


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
def test_queue_commands_that_make_little_sense(dial, line, reply):
    assert dial().say(line) == reply


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
    line, queue, jid, marker = dial(), name(), name(), name()
    line.push(jid, queue, args=[f"{marker}-abc", "é<"], retry=2, at=LATER)
    assert line.mutate("requeue", "scheduled", regexp=pattern.replace("M", marker)) == b"+OK"
    queued = json.loads(line.say("INFO"))["faktory"]["queues"].get(queue, 0)
    line.mutate("discard", "scheduled", jids=[jid])
    assert queued == (1 if matches else 0)


def test_jids_win_over_pattern_and_type_and_a_type_may_hold_wildcards(dial, name):
    line, queue, kind = dial(), name(), name()
    jids = [name() for _ in range(4)]
    for jid, jobtype in zip(jids, [f"{kind}a", f"{kind}b", f"{kind}ab", f"{kind}c"], strict=True):
        line.push(jid, queue, jobtype=jobtype, at=LATER)
    sizes = []
    for chosen in (
        {"jids": [jids[0]], "jobtype": "nothing", "regexp": "nothing"},
        {"jobtype": f"{kind}?"},
        {"jobtype": f"{kind}ab", "regexp": f"*{jids[3]}*"},
        {"jobtype": f"{kind}ab", "regexp": f"*{jids[2]}*"},
        {"jids": [], "jobtype": f"{kind}c"},
    ):
        line.mutate("requeue", "scheduled", **chosen)
        sizes.append(json.loads(line.say("INFO"))["faktory"]["queues"][queue])
    assert sizes == [1, 3, 3, 4, 4]


def test_killed_jobs_are_dead_and_may_be_requeued(dial, name):
    line, queue, jid = dial(), name(), name()
    line.push(jid, queue, at=LATER)
    for target in ("scheduled", "dead"):
        assert line.mutate("kill", target, jids=[jid]) == b"+OK"
    assert line.mutate("requeue", "dead", jids=[jid]) == b"+OK"
    assert line.fetch(queue)["at"] == LATER


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
def test_mutations_that_make_no_sense(dial, text, message):
    assert dial().say("MUTATE " + text) == f"-ERR {message}".encode()


# The rest.


@pytest.mark.parametrize("verb", ["PUSH", "PUSHB", "ACK", "FAIL", "BEAT"])
def test_a_verb_alone_makes_the_server_stumble_not_fall(dial, verb):
    line = dial()
    assert line.say(verb) == b"-ERR internal error"
    assert line.say("NOPE") == b"-ERR unknown command NOPE"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("push {}", b"-ERR unknown command push"),
        ("", b"-ERR unknown command "),
        (b"\xff\xfe x", b"-ERR unknown command \xff\xfe"),
        ("FLUSHALL", b"-ERR unknown command FLUSHALL"),
        ("FETCH", b"-ERR must call fetch with at least one queue"),
        ("MUTATE", b"-ERR invalid format"),
        ("BATCH NEW {}", b"-ERR batch subsystem is only available in Faktory Enterprise"),
        ("TRACK GET x", b"-ERR tracking subsystem is only available in Faktory Enterprise"),
    ],
)
def test_commands_that_there_are_not(dial, line, reply):
    assert dial().say(line) == reply


def test_end_closes_without_a_reply(dial):
    line = dial()
    line.send("END", "INFO")
    assert line.closed()


def test_a_bare_newline_ends_a_command_and_a_raw_one_inside_splits_it(dial):
    line = dial()
    line.socket.sendall(b'NOPE\nACK {"jid":\n"x"}\r\n')
    assert [line.reply() for _ in range(3)] == [
        b"-ERR unknown command NOPE",
        b'-ERR invalid ACK {"jid":',
        b'-ERR unknown command "x"}',
    ]


def test_info_counts(dial, name):
    line, queue, jid = dial(), name(), name()
    before = json.loads(line.say("INFO"))
    line.push(jid, queue)
    line.fetch(queue)
    line.say(f'ACK {{"jid":"{jid}"}}')
    line.push(name(), queue)
    after = json.loads(line.say("INFO"))
    assert list(after) == ["now", "server_utc_time", "faktory", "server"]
    assert after["faktory"]["queues"][queue] == 1
    assert after["faktory"]["total_processed"] > before["faktory"]["total_processed"]
    assert after["server"]["command_count"] >= before["server"]["command_count"] + 5
    assert after["server"]["description"] == "Faktory"
    line.say(f"QUEUE REMOVE {queue}")


def test_flush_forgets_jobs_and_counters_but_not_queues_and_pauses(dial, name, request):
    if "real" in request.node.callspec.id and os.environ.get("FAKTORY_FLUSH_OK") != "1":
        pytest.skip(
            "FLUSH spares nobody: FAKTORY_FLUSH_OK=1 allows it on the server in FAKTORY_URL"
        )
    line, queue, jid = dial(), name(), name()
    line.push(jid, queue)
    line.fetch(queue)
    line.push(name(), queue)
    line.push(name(), queue, at=LATER)
    line.say(f"QUEUE PAUSE {queue}")
    assert line.say("FLUSH") == b"+OK"
    state = json.loads(line.say("INFO"))["faktory"]
    assert state["queues"][queue] == 0
    assert set(state["sets"].values()) == {0}
    assert state["tasks"]["Busy"]["size"] >= 1
    assert line.say(f'FAIL {{"jid":"{jid}"}}') == b"+OK"
    state = json.loads(line.say("INFO"))["faktory"]
    assert (state["total_processed"], state["total_failures"]) == (0, 0)
    line.push(name(), queue)
    assert line.fetch(queue) is None
