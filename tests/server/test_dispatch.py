"""What the contract with the real server leaves out: what needs a clock, or a server of its own."""

import json

import pytest

from faktory.server.dispatch import COMMANDS, State, Wait, answer
from faktory.server.workers import Worker


@pytest.fixture
def state(clock):
    return State(clock)


@pytest.fixture
def say(state):
    worker = Worker({"wid": "w"})
    return lambda line: answer(state, worker, line)


def test_a_fetch_without_jobs_waits_for_the_queues_that_are_not_paused(say):
    say(b'PUSH {"jid":"job-0001","jobtype":"T","args":[],"queue":"paused"}')
    say(b"QUEUE PAUSE paused")
    assert say(b"FETCH paused other") == Wait(["other"])
    assert say(b"FETCH paused") == Wait([])
    assert say(b"FETCH a  b ") == Wait(["a", "", "b", ""])


def test_a_quiet_worker_just_waits(state):
    worker = Worker({"wid": "w"})
    worker.signal("quiet")
    answer(state, worker, b'PUSH {"jid":"job-0001","jobtype":"T","args":[]}')
    assert answer(state, worker, b"FETCH default") == Wait([])


def test_what_came_in_for_someone_who_waits_is_not_seen_in_the_queue(state, say):
    served = []
    state.store.wait("other", ["default"], served.append)
    say(b'PUSH {"jid":"job-0001","jobtype":"T","args":[]}')
    info = json.loads(say(b"INFO").partition(b"\r\n")[2])["faktory"]
    assert (info["queues"]["default"], info["sets"]["working"]) == (0, 1)
    assert len(served) == 1


def test_info_is_laid_out_as_the_real_servers(state, say, clock):
    say(b'PUSH {"jid":"job-0001","jobtype":"T","args":[],"queue":"b"}')
    say(b'PUSH {"jid":"job-0002","jobtype":"T","args":[],"queue":"a"}')
    clock.forward(61.5)
    state.connections = 3
    assert say(b"INFO").partition(b"\r\n")[2].decode() == (
        '{"now":"2026-01-01T00:01:01.5Z","server_utc_time":"00:01:01 UTC",'
        '"faktory":{"queues":{"a":1,"b":1},'
        '"sets":{"dead":0,"retries":0,"scheduled":0,"working":0},'
        '"tasks":{"Busy":{"reaped":0,"size":0},'
        '"Dead":{"cycles":0,"enqueued":0,"size":0,"wall_time_sec":0},'
        '"Retries":{"cycles":0,"enqueued":0,"size":0,"wall_time_sec":0},'
        '"Scheduled":{"cycles":0,"enqueued":0,"size":0,"wall_time_sec":0},'
        '"Workers":{"reaped":0,"size":0}},'
        '"total_failures":0,"total_processed":0,"total_enqueued":2,"total_queues":2},'
        '"server":{"description":"Faktory","faktory_version":"1.10.0","uptime":61,'
        '"connections":3,"command_count":3,"used_memory_mb":0}}\r\n'
    )


def test_unknown_commands_are_not_counted(state, say):
    say(b"NOPE")
    say(b"PUSH")
    assert state.commands == 1


def test_latency_is_written_as_go_writes_doubles(say, clock):
    say(b'PUSH {"jid":"job-0001","jobtype":"T","args":[]}')
    clock.now += 500
    assert say(b"QUEUE LATENCY default") == b'$16\r\n{"default":5e-7}\r\n'
    clock.now += 2 * 10**9 - 500
    assert say(b"QUEUE LATENCY default") == b'$13\r\n{"default":2}\r\n'


@pytest.mark.parametrize("verb", sorted(COMMANDS))
@pytest.mark.parametrize(
    "rest",
    [b"", b" ", b" \xff", b" " + b"[" * 100_000, b' {"jid":"\\ud800"}', b" " + b"9" * 5000, b" []"],
)
def test_nothing_that_is_said_makes_it_fall(state, say, verb, rest):
    reply = say(verb + rest)
    assert reply is None or isinstance(reply, Wait) or reply.endswith(b"\r\n")
    assert json.loads(say(b"INFO").partition(b"\r\n")[2])
