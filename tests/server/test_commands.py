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
def call(state):
    client = ClientRecord({"wid": "w"})
    return lambda line: execute(state, client, line)


def test_a_fetch_without_jobs_waits_for_the_queues_that_are_not_paused(call):
    call(b'PUSH {"jid":"job-0001","jobtype":"T","args":[],"queue":"paused"}')
    call(b"QUEUE PAUSE paused")
    assert call(b"FETCH paused other") == Wait(["other"])
    assert call(b"FETCH paused") == Wait([])
    assert call(b"FETCH a  b ") == Wait(["a", "", "b", ""])


def test_the_fetch_of_a_quiet_worker_waits_for_no_queue(state):
    client = ClientRecord({"wid": "w"})
    client.signal("quiet")
    execute(state, client, b'PUSH {"jid":"job-0001","jobtype":"T","args":[]}')
    assert execute(state, client, b"FETCH default") == Wait([])


def test_a_job_for_a_waiting_client_is_not_counted_in_the_queue(state, call):
    served = []
    state.store.wait("other", ["default"], served.append)
    call(b'PUSH {"jid":"job-0001","jobtype":"T","args":[]}')
    info = json.loads(call(b"INFO").partition(b"\r\n")[2])["faktory"]
    assert (info["queues"]["default"], info["sets"]["working"]) == (0, 1)
    assert len(served) == 1


def test_info_has_the_layout_of_the_real_server(state, call, clock):
    call(b'PUSH {"jid":"job-0001","jobtype":"T","args":[],"queue":"b"}')
    call(b'PUSH {"jid":"job-0002","jobtype":"T","args":[],"queue":"a"}')
    clock.forward(61.5)
    state.connection_count = 3
    assert call(b"INFO").partition(b"\r\n")[2].decode() == (
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


def test_unknown_commands_are_not_counted(state, call):
    call(b"NOPE")
    call(b"PUSH")
    assert state.command_count == 1


def test_latency_is_written_as_go_writes_doubles(call, clock):
    call(b'PUSH {"jid":"job-0001","jobtype":"T","args":[]}')
    clock.now += 500
    assert call(b"QUEUE LATENCY default") == b'$16\r\n{"default":5e-7}\r\n'
    clock.now += 2 * 10**9 - 500
    assert call(b"QUEUE LATENCY default") == b'$13\r\n{"default":2}\r\n'


@pytest.mark.parametrize("verb", sorted(COMMANDS))
@pytest.mark.parametrize(
    "rest",
    [b"", b" ", b" \xff", b" " + b"[" * 100_000, b' {"jid":"\\ud800"}', b" " + b"9" * 5000, b" []"],
)
def test_no_command_makes_the_server_crash(state, call, verb, rest):
    reply = call(verb + rest)
    assert reply is None or isinstance(reply, Wait) or reply.endswith(b"\r\n")
    assert json.loads(call(b"INFO").partition(b"\r\n")[2])


# Enterprise.


@pytest.fixture
def enterprise_state(clock):
    return ServerState(now=clock, enterprise=True)


@pytest.fixture
def call_enterprise(enterprise_state):
    client = ClientRecord({"wid": "w"})
    return lambda line: execute(enterprise_state, client, line)


def read(reply):
    assert reply.startswith(b"$"), reply
    return json.loads(reply.partition(b"\r\n")[2])


@pytest.mark.parametrize("rest", [b"", b" ", b" NEW {}", b" GET x", b" STATUS b-0"])
def test_a_server_without_enterprise_rejects_batch_and_track(call, rest):
    assert call(b"BATCH" + rest) == (
        b"-ERR batch subsystem is only available in Faktory Enterprise\r\n"
    )
    assert call(b"TRACK" + rest) == (
        b"-ERR tracking subsystem is only available in Faktory Enterprise\r\n"
    )


def test_a_server_without_enterprise_ignores_its_options(call):
    custom = b'{"bid":"b-0","unique_for":"x","expires_at":"2020-01-01T00:00:00Z","track":1}'
    job = b'{"jid":"job-0001","jobtype":"T","args":[],"custom":%b}' % custom
    assert call(b"PUSH " + job) == call(b"PUSH " + job) == b"+OK\r\n"
    assert read(call(b"FETCH default"))["custom"] == json.loads(custom)


def test_a_batch_from_beginning_to_end(call_enterprise):
    new = b'{"description":"d","bid":"","success":{"jobtype":"S","args":[]}}'
    reply = call_enterprise(b"BATCH NEW " + new)
    assert reply.startswith(b"$18\r\nb-")
    bid = reply.split(b"\r\n")[1]
    job = b'{"jid":"job-0001","jobtype":"T","args":[],"custom":{"bid":"%b"}}' % bid
    assert call_enterprise(b"PUSH " + job) == b"+OK\r\n"
    assert call_enterprise(b"BATCH COMMIT " + bid) == b"+OK\r\n"
    assert call_enterprise(b"BATCH open " + bid) == reply
    status = {"bid": bid.decode(), "description": "d", "created_at": "2026-01-01T00:00:00Z"}
    counts = {"total": 1, "pending": 1, "failed": 0}
    states = {"complete_st": "", "success_st": ""}
    assert read(call_enterprise(b"BATCH STATUS " + bid)) == {**status, **counts, **states}
    call_enterprise(b"FETCH default")
    call_enterprise(b'ACK {"jid":"job-0001"}')
    callback = read(call_enterprise(b"FETCH default"))
    assert callback["custom"] == {"_bid": bid.decode(), "_cb": "success"}
    call_enterprise(b'ACK {"jid":"%b"}' % callback["jid"].encode())
    assert read(call_enterprise(b"BATCH STATUS " + bid))["success_st"] == "2"


def test_tracking_over_the_wire(call_enterprise):
    call_enterprise(b'PUSH {"jid":"job-0001","jobtype":"T","args":[],"custom":{"track":1}}')
    assert call_enterprise(b'TRACK SET {"jid":"job-0001","percent":1,"desc":"a"}') == b"+OK\r\n"
    assert call_enterprise(b'TRACK SET {"jid":"job-0001","percent":2,"desc":null}') == b"+OK\r\n"
    status = {"jid": "job-0001", "percent": 2, "desc": "a", "state": "enqueued"}
    status["updated_at"] = "2026-01-01T00:00:00Z"
    assert read(call_enterprise(b"TRACK GET job-0001")) == status
    unknown = {"jid": "x", "state": "unknown", "updated_at": ""}
    assert read(call_enterprise(b"TRACK GET x")) == unknown


def test_a_job_that_is_not_unique_is_rejected_with_a_code_of_its_own(call_enterprise):
    job = b'{"jid":"job-%04d","jobtype":"T","args":[],"custom":{"unique_for":600}}'
    assert call_enterprise(b"PUSH " + job % 1) == b"+OK\r\n"
    assert call_enterprise(b"PUSH " + job % 2) == b"-NOTUNIQUE Job not unique\r\n"
    jobs = b",".join([job % 3, b'{"jid":"job-0004","jobtype":"T"}', job.replace(b"T", b"U") % 5])
    assert read(call_enterprise(b"PUSHB [%b]" % jobs)) == {
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
def test_an_invalid_enterprise_command_is_rejected_with_the_reason(call_enterprise, line, error):
    reply = call_enterprise(line)
    assert reply.startswith(b"-ERR " + error), reply
    assert reply.endswith(b"\r\n")


@pytest.mark.parametrize("verb", [b"BATCH", b"TRACK"])
@pytest.mark.parametrize("subcommand", [b"", b"NEW", b"OPEN", b"COMMIT", b"STATUS", b"SET", b"GET"])
@pytest.mark.parametrize(
    "rest",
    [b"", b" ", b" \xff", b" " + b"[" * 100_000, b' {"jid":"\\ud800"}', b" " + b"9" * 5000, b" []"],
)
def test_no_command_makes_enterprise_crash(call_enterprise, verb, subcommand, rest):
    assert call_enterprise(verb + b" " + subcommand + rest).endswith(b"\r\n")
    assert read(call_enterprise(b"INFO"))["server"]["description"] == "Faktory Enterprise"
