"""What the contract with the real server leaves out: what needs a clock, or a server of its own."""

import json

import pytest

from faktory.server.commands import COMMANDS, Wait, execute
from faktory.server.state import ServerState
from faktory.server.workers import ClientRecord


@pytest.fixture
def state(clock):
    return ServerState(now=clock)


@pytest.fixture
def say(state):
    worker = ClientRecord({"wid": "w"})
    return lambda line: execute(state, worker, line)


def test_a_fetch_without_jobs_waits_for_the_queues_that_are_not_paused(say):
    say(b'PUSH {"jid":"job-0001","jobtype":"T","args":[],"queue":"paused"}')
    say(b"QUEUE PAUSE paused")
    assert say(b"FETCH paused other") == Wait(["other"])
    assert say(b"FETCH paused") == Wait([])
    assert say(b"FETCH a  b ") == Wait(["a", "", "b", ""])


def test_a_quiet_worker_just_waits(state):
    worker = ClientRecord({"wid": "w"})
    worker.signal("quiet")
    execute(state, worker, b'PUSH {"jid":"job-0001","jobtype":"T","args":[]}')
    assert execute(state, worker, b"FETCH default") == Wait([])


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
    state.connection_count = 3
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
    assert state.command_count == 1


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


# Enterprise.


@pytest.fixture
def enterprise_state(clock):
    return ServerState(now=clock, enterprise=True)


@pytest.fixture
def ask(enterprise_state):
    worker = ClientRecord({"wid": "w"})
    return lambda line: execute(enterprise_state, worker, line)


def read(reply):
    assert reply.startswith(b"$"), reply
    return json.loads(reply.partition(b"\r\n")[2])


@pytest.mark.parametrize("rest", [b"", b" ", b" NEW {}", b" GET x", b" STATUS b-0"])
def test_the_open_server_refuses_what_is_enterprises(say, rest):
    assert say(b"BATCH" + rest) == (
        b"-ERR batch subsystem is only available in Faktory Enterprise\r\n"
    )
    assert say(b"TRACK" + rest) == (
        b"-ERR tracking subsystem is only available in Faktory Enterprise\r\n"
    )


def test_the_open_server_minds_no_mark(say):
    custom = b'{"bid":"b-0","unique_for":"x","expires_at":"2020-01-01T00:00:00Z","track":1}'
    job = b'{"jid":"job-0001","jobtype":"T","args":[],"custom":%b}' % custom
    assert say(b"PUSH " + job) == say(b"PUSH " + job) == b"+OK\r\n"
    assert read(say(b"FETCH default"))["custom"] == json.loads(custom)


def test_a_batch_from_beginning_to_end(ask):
    new = b'{"description":"d","bid":"","success":{"jobtype":"S","args":[]}}'
    reply = ask(b"BATCH NEW " + new)
    assert reply.startswith(b"$18\r\nb-")
    bid = reply.split(b"\r\n")[1]
    job = b'{"jid":"job-0001","jobtype":"T","args":[],"custom":{"bid":"%b"}}' % bid
    assert ask(b"PUSH " + job) == b"+OK\r\n"
    assert ask(b"BATCH COMMIT " + bid) == b"+OK\r\n"
    assert ask(b"BATCH open " + bid) == reply
    status = {"bid": bid.decode(), "description": "d", "created_at": "2026-01-01T00:00:00Z"}
    counts = {"total": 1, "pending": 1, "failed": 0}
    states = {"complete_st": "", "success_st": ""}
    assert read(ask(b"BATCH STATUS " + bid)) == {**status, **counts, **states}
    ask(b"FETCH default")
    ask(b'ACK {"jid":"job-0001"}')
    callback = read(ask(b"FETCH default"))
    assert callback["custom"] == {"_bid": bid.decode(), "_cb": "success"}
    ask(b'ACK {"jid":"%b"}' % callback["jid"].encode())
    assert read(ask(b"BATCH STATUS " + bid))["success_st"] == "2"


def test_tracking_over_the_wire(ask):
    ask(b'PUSH {"jid":"job-0001","jobtype":"T","args":[],"custom":{"track":1}}')
    assert ask(b'TRACK SET {"jid":"job-0001","percent":1,"desc":"a"}') == b"+OK\r\n"
    assert ask(b'TRACK SET {"jid":"job-0001","percent":2,"desc":null}') == b"+OK\r\n"
    status = {"jid": "job-0001", "percent": 2, "desc": "a", "state": "enqueued"}
    assert read(ask(b"TRACK GET job-0001")) == {**status, "updated_at": "2026-01-01T00:00:00Z"}
    assert read(ask(b"TRACK GET x")) == {"jid": "x", "state": "unknown", "updated_at": ""}


def test_a_job_that_is_not_unique_has_a_code_of_its_own(ask):
    job = b'{"jid":"job-%04d","jobtype":"T","args":[],"custom":{"unique_for":600}}'
    assert ask(b"PUSH " + job % 1) == b"+OK\r\n"
    assert ask(b"PUSH " + job % 2) == b"-NOTUNIQUE Job not unique\r\n"
    jobs = b",".join([job % 3, b'{"jid":"job-0004","jobtype":"T"}', job.replace(b"T", b"U") % 5])
    assert read(ask(b"PUSHB [%b]" % jobs)) == {
        "job-0003": "NOTUNIQUE Job not unique",
        "job-0004": "jobs must have an args parameter",
    }


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"BATCH", b"internal error"),
        (b"BATCH PURGE b-0", b"no such BATCH subcommand: PURGE"),
        (b"BATCH NEW", b"invalid JSON: unexpected end of JSON input"),
        (b"BATCH NEW nope", b"invalid JSON: invalid character"),
        (b"BATCH NEW []", b"invalid JSON: json: cannot unmarshal array into Go value"),
        (b'BATCH NEW {"success":"T"}', b"invalid JSON: json: cannot unmarshal string into Go str"),
        (
            b'BATCH NEW {"success":{"jobtype":"T","args":[1e999]}}',
            b"invalid JSON: json: cannot unmarshal a number beyond the range of float64",
        ),
        (b"BATCH NEW {}", b"a batch must have a success or a complete callback"),
        (b"BATCH NEW null", b"a batch must have a success or a complete callback"),
        (b"BATCH OPEN b-0", b"No such batch b-0"),
        (b"BATCH COMMIT b-0", b"No such batch b-0"),
        (b"BATCH STATUS \xff", b"No such batch \xef\xbf\xbd"),
        (b"TRACK", b"internal error"),
        (b"TRACK DROP x", b"no such TRACK subcommand: DROP"),
        (b"TRACK SET {", b"invalid JSON: unexpected end of JSON input"),
        (b'TRACK SET {"percent":"1"}', b"invalid JSON: json: cannot unmarshal string into Go str"),
        (b'TRACK SET {"jid":"job-0001"}', b"No such job job-0001"),
        (
            b'PUSH {"jid":"job-0001","jobtype":"T","args":[],"custom":{"unique_for":"1"}}',
            b"custom.unique_for must be a number of seconds",
        ),
    ],
)
def test_what_enterprise_cannot_do_is_refused_in_so_many_words(ask, line, error):
    reply = ask(line)
    assert reply.startswith(b"-ERR " + error), reply
    assert reply.endswith(b"\r\n")


@pytest.mark.parametrize("verb", [b"BATCH", b"TRACK"])
@pytest.mark.parametrize("subcommand", [b"", b"NEW", b"OPEN", b"COMMIT", b"STATUS", b"SET", b"GET"])
@pytest.mark.parametrize(
    "rest",
    [b"", b" ", b" \xff", b" " + b"[" * 100_000, b' {"jid":"\\ud800"}', b" " + b"9" * 5000, b" []"],
)
def test_nothing_that_is_said_makes_enterprise_fall(ask, verb, subcommand, rest):
    assert ask(verb + b" " + subcommand + rest).endswith(b"\r\n")
    assert read(ask(b"INFO"))["server"]["description"] == "Faktory Enterprise"
