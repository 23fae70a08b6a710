"""Commands that take long, on one connection, while others are answered."""

import json
import select
from threading import Event
from time import monotonic

import pytest

from faktory.server import commands, state
from faktory.server.commands import MAX_QUEUES, start
from faktory.server.go.long import LONG
from faktory.server.go.time import SECOND
from faktory.server.job import StoredJob
from faktory.server.operations import DEAD_FOR
from faktory.server.slices import finish, in_order
from faktory.server.state import ServerState
from faktory.server.workers import ClientRecord

MANY = 20_000


def jobs(count, **fields):
    return [
        {"jid": f"job-{number:06}", "queue": "many", "jobtype": "T", "args": [number], **fields}
        for number in range(count)
    ]


def bulk(count, **fields):
    return "PUSHB " + json.dumps(jobs(count, **fields))


def mutate(command, target="scheduled", **fields):
    operation = {"cmd": command, "target": target, **fields}
    return "MUTATE " + json.dumps(operation, separators=(",", ":"))


def fill(server, at=None):
    """Store many jobs, in a queue or until `at`."""

    def add(state):
        store = state.store
        for fields in jobs(MANY):
            job = StoredJob(fields)
            if at is None:
                store.push(job)
            else:
                store.scheduled.add(state.clock() + round(at * SECOND), job.render(), job)
        state.schedule()

    server._call(add)


LONG_COMMANDS = {
    "PUSHB": (None, bulk(MANY)),
    "PUSH": (None, "PUSH " + json.dumps(jobs(1, custom={"x": "<é" * 200_000})[0])),
    "nested": (None, "PUSH " + json.dumps(jobs(1, custom={"x": [[1]] * 50_000})[0])),
    "FAIL": (None, "FAIL " + json.dumps({"jid": "job-000000", "message": "é" * 800_000})),
    "broken": (None, "PUSH [" + '"x",' * 200_000 + "}"),
    "pattern": (3600, mutate("discard", filter={"regexp": "*?[ab]" + "[a-z?]" * 40 + "*x"})),
    "jids": (3600, mutate("discard", filter={"jids": [f"no-{n}" for n in range(20_000)]})),
    "kill": (3600, mutate("kill", filter={"jobtype": "T"})),
    "requeue": (3600, mutate("requeue")),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG_COMMANDS)
def test_others_are_answered_while_a_command_takes_long(server, dial, name):
    at, command = LONG_COMMANDS[name]
    if at is not None:
        fill(server, at)
    busy, other = dial(), dial()
    busy.send(command)
    answered, began = 0, monotonic()
    while not select.select([busy.socket], [], [], 0)[0]:
        assert other.call("NOPE") == b"-ERR unknown command NOPE"
        answered += 1
    busy.reply()
    # One call may have been there before the command, which need not be sliced if it is quick.
    assert answered > 1 or monotonic() - began < 0.1
    assert other.call("INFO")


@pytest.fixture
def sizes(server):
    """`sizes()`: how many jobs were queued each time that others had their turn, until all are."""
    found, all_queued = [], Event()

    def watch(state):
        def turn():
            queue = state.store.queues.get("many")
            found.append(0 if queue is None else len(queue))
            if found[-1] == MANY:
                all_queued.set()
            else:
                state.loop.call_soon(turn)

        turn()

    server._call(watch)

    def wait():
        assert all_queued.wait(60)
        return found

    return wait


def test_others_have_their_turn_while_many_jobs_become_due(server, sizes):
    fill(server, at=0.2)
    assert len(set(sizes())) > 2


def test_others_have_their_turn_while_time_travels(server, sizes):
    fill(server, at=3600)
    server.travel(3600)
    assert len(set(sizes())) > 2


# What a command does in slices. The state is used directly, so that nothing depends on time.


@pytest.fixture
def direct(clock):
    """`direct(line)`: begin a command; return its steps and the store."""
    server = ServerState(now=clock)

    def begin(line):
        return start(server, ClientRecord({}), line.encode()), server.store

    return begin


def test_nothing_of_a_bulk_is_queued_before_all_of_it_is_read(direct):
    steps, store = direct(bulk(MANY)[:-1] + ',{"jid":1}]')
    for _ in range(10):
        next(steps)
    assert store.queues == {}
    assert finish(steps) == (
        b"-ERR invalid JSON: json: cannot unmarshal number "
        b"into Go struct field .20000.jid of type string\r\n"
    )
    assert store.queues == {}


@pytest.mark.parametrize("count", [10, MANY])
def test_a_bulk_is_queued_in_order_and_its_refused_jobs_are_named(direct, count):
    items = jobs(count)
    items[3]["args"] = None
    items[5]["queue"] = "a b"
    items[7] = {}
    reply = finish(direct("PUSHB " + json.dumps(items))[0])
    _, store = direct("INFO")
    assert json.loads(reply.split(b"\r\n")[1]) == {
        "job-000003": "jobs must have an args parameter",
        "job-000005": 'cannot get "a b" queue: queue names must match \\A[a-zA-Z0-9._-]+\\z',
        "": "jobs must have a reasonable jid parameter",
    }
    order = [job.jid for job in store.queues["many"]]
    assert order == [
        item["jid"] for item in items if len(item) > 1 and item["jid"] not in str(reply)
    ]


def test_a_bulk_of_too_many_jobs_is_refused_as_a_whole(direct, monkeypatch):
    monkeypatch.setattr(commands, "MAX_JOBS", 5000)
    steps, store = direct(bulk(5001))
    assert finish(steps) == (
        b"-ERR a PUSHB has more than 5000 jobs: that is the limit of this embedded server\r\n"
    )
    assert store.queues == {}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("FETCH " + "x " * (MAX_QUEUES + 1), f"a FETCH has more than {MAX_QUEUES} queues"),
        ("FETCH " + "x" * LONG, f"FETCH is longer than {LONG} bytes"),
        ("QUEUE PAUSE " + "x" * LONG, f"QUEUE is longer than {LONG} bytes"),
        ("BEAT " + "x" * LONG, f"BEAT is longer than {LONG} bytes"),
        (mutate("kill", filter={"regexp": "[a]" * 200_000}), "a pattern is longer than 1024 bytes"),
        (mutate("kill", filter={"jobtype": "*?" * 1_000_000}), "a pattern is longer than 1024"),
    ],
)
def test_what_is_too_large_is_refused_with_the_limit(direct, line, error):
    reply, _ = direct(line)
    reply = reply if isinstance(reply, bytes) else finish(reply)
    assert reply.startswith(b"-ERR " + error.encode())
    assert reply.endswith(b"that is the limit of this embedded server\r\n")


def test_a_job_that_others_took_meanwhile_is_not_moved(direct):
    finish(direct(bulk(100, at="2099-01-01T00:00:00Z"))[0])
    steps, store = direct(mutate("kill", filter={"jobtype": "T"}))
    next(steps)
    moved = len(store.dead)
    assert 0 < moved < 100
    gone = next(iter(store.scheduled))[1]
    store.scheduled.remove(gone)
    store.scheduled.add(store.clock() + 9**20, b"new", StoredJob(jobs(1)[0]))
    finish(steps)
    assert (len(store.dead), len(store.scheduled)) == (99, 1)
    assert store.dead.get(gone) is None


def test_dead_jobs_that_are_killed_again_are_moved_once(direct):
    finish(direct(bulk(100, at="2099-01-01T00:00:00Z"))[0])
    finish(direct(mutate("kill"))[0])
    steps, store = direct(mutate("kill", "dead"))
    finish(steps)
    assert {score for score, _, _ in store.dead} == {store.clock() + DEAD_FOR * SECOND}
    assert len(store.dead) == 100


def test_a_flush_empties_the_sets_before_others_have_their_turn(direct):
    finish(direct(bulk(5000, at="2099-01-01T00:00:00Z"))[0])
    steps, store = direct("FLUSH")
    next(steps)
    assert len(store.scheduled) == 0
    store.push(StoredJob({**jobs(1)[0], "at": "2099-01-01T00:00:00Z"}))
    finish(steps)
    assert len(store.scheduled) == 1


def test_texts_are_sorted_in_slices():
    texts = [str(number * 7919 % 10_007) for number in range(5000)]
    assert list(finish(in_order(texts))) == sorted(texts)


# Memory.


def test_the_longest_unfinished_command_is_rejected_when_all_are_too_long(
    server, dial, wait_until, monkeypatch
):
    monkeypatch.setattr(state, "MAX_UNFINISHED", 1_000_000)
    small, large, last = dial(), dial(), dial()
    small.socket.sendall(b"NOPE " + b"x" * 200_000)
    large.socket.sendall(b"NOPE " + b"x" * 500_000)
    wait_until(lambda: server._state.unfinished > 700_000)
    last.socket.sendall(b"NOPE " + b"x" * 400_000)
    assert large.reply() == (
        b"-ERR the unfinished commands of all clients have more than 1000000 bytes: "
        b"that is the limit of this embedded server"
    )
    assert large.is_closed()
    for client in (small, last):
        client.send(b"")
        assert client.reply() == b"-ERR unknown command NOPE"
    wait_until(lambda: server._state.unfinished == 0)


def test_unfinished_commands_are_not_counted_when_their_clients_are_gone(server, dial, wait_until):
    for end in (b"", b"\r\n"):
        client = dial()
        client.socket.sendall(b"NOPE " + b"x" * 300_000)
        wait_until(lambda: server._state.unfinished > 300_000)
        client.socket.sendall(end)
        client.close()
        wait_until(lambda: server._state.unfinished == 0)


def test_commands_that_are_being_executed_reject_no_short_one(server, dial, monkeypatch):
    monkeypatch.setattr(state, "MAX_UNFINISHED", 100_000)
    busy, other = dial(), dial()
    busy.send(bulk(MANY))
    other.socket.sendall(b"NO")
    other.send(b"PE")
    assert other.reply() == b"-ERR unknown command NOPE"


def test_the_client_that_reads_least_is_cut_when_all_read_too_little(clock, monkeypatch):
    class Slow:
        def __init__(self, unsent):
            self.unsent = unsent
            self.aborted = False

        def abort(self):
            self.aborted = True

    monkeypatch.setattr(state, "MAX_UNFINISHED", 1000)
    server = ServerState(now=clock)
    clients = [Slow(300), Slow(400), Slow(300)]
    server.peers.update(clients)
    server.check_unsent()
    assert not any(client.aborted for client in clients)
    clients[2].unsent = 301
    server.check_unsent()
    assert [client.aborted for client in clients] == [False, True, False]


# The memory for jobs.


@pytest.fixture
def limited(clock):
    """As `direct`, with 1 MiB for jobs."""
    server = ServerState(now=clock, max_memory=1 << 20)

    def call(line):
        reply = start(server, ClientRecord({}), line.encode())
        return reply if reply is None or not hasattr(reply, "send") else finish(reply)

    call.store = server.store
    return call


LARGE = "x" * 200_000


def push(number, **fields):
    return "PUSH " + json.dumps({**jobs(number + 1)[number], "args": [LARGE], **fields})


def test_jobs_beyond_the_memory_are_refused_and_none_is_lost(limited):
    replies = [limited(push(number)) for number in range(5)]
    assert replies[:2] == [b"+OK\r\n"] * 2
    assert replies[2] == (
        b"-ERR no memory for this job: the stored jobs have reached the limit of 1 MiB "
        b"(--max-memory) of this embedded server\r\n"
    )
    assert [job.jid for job in limited.store.queues["many"]] == ["job-000000", "job-000001"]


def test_a_bulk_beyond_the_memory_names_the_jobs_that_are_refused(limited):
    items = [{**item, "args": [LARGE]} for item in jobs(5)]
    refused = json.loads(limited("PUSHB " + json.dumps(items)).split(b"\r\n")[1])
    assert [*refused] == ["job-000002", "job-000003", "job-000004"]
    assert "1 MiB (--max-memory)" in refused["job-000004"]
    assert [job.jid for job in limited.store.queues["many"]] == ["job-000000", "job-000001"]


@pytest.mark.parametrize(
    "commands",
    [
        ["FETCH many", 'ACK {"jid":"job-000000"}'],
        ["FETCH many", 'FAIL {"jid":"job-000000"}', mutate("discard", "dead")],
        ["QUEUE REMOVE many"],
        ["FLUSH"],
    ],
)
def test_memory_that_is_freed_counts_again(limited, commands):
    assert limited(push(0, retry=-1)) == b"+OK\r\n"
    assert limited.store.quota.used > 200_000
    for command in commands:
        assert not limited(command).startswith(b"-ERR")
    assert limited.store.quota.used == 0


def test_refused_jobs_do_not_count(limited):
    limited(push(0, jid="short"))
    limited(push(0, queue="a b"))
    limited("PUSHB " + json.dumps([{**jobs(1)[0], "args": [LARGE], "queue": "a b"}]))
    assert limited.store.quota.used == 0


def test_a_failure_that_does_not_fit_loses_its_backtrace_and_not_the_job(limited):
    limited(push(0))
    limited("FETCH many")
    report = {"jid": "job-000000", "message": "m", "backtrace": [LARGE] * 5}
    assert limited("FAIL " + json.dumps(report)) == b"+OK\r\n"
    [(_, payload, _)] = limited.store.retries
    assert json.loads(payload)["failure"]["message"] == "m"
    assert "backtrace" not in json.loads(payload)["failure"]
    assert limited.store.quota.used <= limited.store.quota.limit
