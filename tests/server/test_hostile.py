"""Values that no client of ours sends, in each field of each command.

The connection answers, or is closed by a reply that says why; nothing is logged as an error; a job
that was accepted is somewhere until it is acknowledged, or failed without retries.
"""

import json
import logging
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faktory.server import EmbeddedServer, commands
from faktory.server.state import Timing

LIMIT = 1 << 63

INTEGERS = st.sampled_from(
    [0, 1, -1, 25, LIMIT - 1, -LIMIT, LIMIT, -LIMIT - 1, LIMIT >> 1, -(LIMIT >> 1), 55_108, 10**30]
).map(str)
NUMBERS = INTEGERS | st.sampled_from(
    [
        *("-0", "-0.0", "3.0", "1e2", "1e400", "-1E400", "1e-400", "NaN", "Infinity", "01"),
        *("9" * 1000, "9" * 100_000, "-" + "1" * 1_000_000, "0." + "1" * 100_000),
    ]
)
TEXTS = st.sampled_from(
    ["", "default", "x", "\ud800", "\udfff\ud800", "\x00", "*", "é" * 300, "😀", "a b", "\u2028"]
).map(json.dumps)
INSTANTS = st.sampled_from(
    [
        *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "999999-01-01T00:00:00Z"),
        *("9999-12-31T23:59:59.999999999-23:59", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00"),
        *("nan", "inf", "1e400", "-1", "١٩٩٩", "2099-01-01T00:00:00Z"),
    ]
).map(json.dumps)
DEEP = st.sampled_from([(900, "[", "]"), (50_000, "[", "]"), (50_000, '{"":', "}")]).map(
    lambda part: part[1] * part[0] + "1" + part[2] * part[0]
)
OTHERS = st.sampled_from(["null", "true", "[]", "{}", '""', "[null]", "[[]]", '["\\ud83d"]'])
ANY = NUMBERS | TEXTS | INSTANTS | OTHERS | DEEP

JOB_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "retry": NUMBERS | OTHERS,
        "reserve_for": NUMBERS | OTHERS,
        "backtrace": NUMBERS | OTHERS,
        "at": INSTANTS | ANY,
        "created_at": INSTANTS | OTHERS,
        "enqueued_at": INSTANTS | OTHERS,
        "custom": OTHERS | DEEP | NUMBERS.map('{{"x":{}}}'.format) | TEXTS.map('{{"x":{}}}'.format),
        "args": OTHERS | DEEP | ANY.map("[{}]".format),
        "failure": OTHERS
        | st.fixed_dictionaries(
            {},
            optional={
                "retry_count": NUMBERS,
                "remaining": NUMBERS,
                "failed_at": INSTANTS | OTHERS,
                "next_at": INSTANTS | OTHERS,
                "message": TEXTS | ANY,
                "errtype": TEXTS,
                "backtrace": OTHERS,
            },
        ).map(lambda fields: write(fields)),
    },
)
FAIL_FIELDS = st.fixed_dictionaries(
    {},
    optional={"message": TEXTS | ANY, "errtype": TEXTS | ANY, "backtrace": OTHERS | DEEP},
)
COMMANDS = st.one_of(
    st.builds("ACK {}".format, ANY | ANY.map('{{"jid":{}}}'.format)),
    st.builds("FAIL {}".format, ANY | ANY.map('{{"jid":{}}}'.format)),
    st.builds("BEAT {}".format, ANY | ANY.map('{{"wid":"w","rss_kb":{}}}'.format)),
    st.builds("PUSH {}".format, ANY),
    st.builds("PUSHB {}".format, ANY | ANY.map("[{}]".format)),
    st.builds(
        'MUTATE {{"cmd":{},"target":{},"filter":{}}}'.format,
        st.sampled_from(['"kill"', '"requeue"', "1", "null"]),
        st.sampled_from(['"dead"', '"retries"', '"scheduled"', '"nothing"']),
        OTHERS | ANY.map('{{"regexp":{}}}'.format) | ANY.map('{{"jids":[{}]}}'.format),
    ),
    st.builds("QUEUE {} {}".format, st.sampled_from(["PAUSE", "RESUME", "LATENCY", "X"]), ANY),
    st.builds("FETCH {}".format, ANY).filter(lambda line: "default" not in line),
    st.builds("BATCH {} {}".format, st.sampled_from(["NEW", "OPEN", "STATUS", "COMMIT"]), ANY),
    st.builds("TRACK {} {}".format, st.sampled_from(["GET", "SET"]), ANY),
    st.builds("{} {}".format, st.sampled_from(["INFO", "NOPE", ""]), ANY),
)


def write(fields):
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items()) + "}"


class Connection:
    """A connection that is opened again after the server has closed it with a reply."""

    def __init__(self, server):
        self.server = server
        self.file = None

    def call(self, line):
        if self.file is None:
            self.socket = socket.create_connection(("127.0.0.1", self.server.port), timeout=30)
            self.file = self.socket.makefile("rwb")
            self.file.readline()
            assert self.call('HELLO {"v":2}') == b"+OK\r\n"
        self.file.write(line.encode("utf-8", "surrogatepass") + b"\r\n")
        self.file.flush()
        reply = self.file.readline()
        assert reply, f"closed without a reply: {line[:200]}"
        if reply.startswith(b"$") and reply != b"$-1\r\n":
            return self.file.read(int(reply[1:]) + 2)
        if b"limit of this embedded server" in reply and not self.is_open():
            self.close()
        return reply

    def is_open(self):
        self.file.write(b"NOPE\r\n")
        self.file.flush()
        return self.file.readline().startswith(b"-ERR unknown command NOPE")

    def close(self):
        if self.file is not None:
            self.file.close()
            self.socket.close()
            self.file = None


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "enterprise"])
def server(request):
    with EmbeddedServer(enterprise=request.param, timing=Timing(fetch_wait=0.01)) as server:
        yield server


@pytest.fixture(scope="module")
def connection(server):
    connection = Connection(server)
    yield connection
    connection.close()


@pytest.fixture
def errors(monkeypatch):
    """What was logged as an error, by the loop or by the server."""
    found = []

    class Keeper(logging.Handler):
        def emit(self, record):
            found.append(record.getMessage())

    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers, Keeper(logging.ERROR)])
    return found


@pytest.mark.parametrize("count", [-(LIMIT >> 1), LIMIT - 1, -LIMIT, LIMIT >> 1, 55_108, 10**6])
def test_a_job_with_any_number_of_failures_survives_the_next(server, connection, errors, count):
    server.reset()
    failure = f'"failure":{{"retry_count":{count}}}'
    push = f'PUSH {{"jid":"job-0001","jobtype":"T","args":[],"retry":{LIMIT - 1},{failure}}}'
    assert connection.call(push) == b"+OK\r\n"
    assert connection.call("FETCH default").startswith(b"{")
    assert connection.call('FAIL {"jid":"job-0001"}') == b"+OK\r\n"
    assert (held(server), errors) == (1, [])


@pytest.mark.parametrize("field", ["retry", "reserve_for", "backtrace"])
@pytest.mark.parametrize(
    ("number", "accepted"),
    [
        *(("-0", True), (str(-LIMIT), True), (str(-LIMIT - 1), False), (str(LIMIT), False)),
        *(("1" * 1_000_000, False), ("1e2", False), ("1e400", False), ("3.0", False)),
    ],
)
def test_numbers_are_accepted_as_by_the_real_server(server, connection, field, number, accepted):
    server.reset()
    job = f'{{"jid":"job-0001","jobtype":"T","args":[],"{field}":{number}}}'
    assert (connection.call(f"PUSH {job}") == b"+OK\r\n") is accepted
    assert held(server) == accepted
    assert connection.call("INFO").startswith(b"{")


@pytest.mark.parametrize("command", ["INFO", "ACK {}", "FLUSH"])
def test_a_fault_of_the_server_itself_is_logged_and_answered(
    server, connection, errors, monkeypatch, command
):
    def fault(_call):
        raise ZeroDivisionError
        yield

    monkeypatch.setitem(commands.COMMANDS, command.encode().partition(b" ")[0], fault)
    assert connection.call(command) == b"-ERR internal error\r\n"
    assert len(errors) == 1
    assert connection.call("NOPE") == b"-ERR unknown command NOPE\r\n"


HOSTILE = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@HOSTILE
@given(command=COMMANDS)
def test_each_command_is_answered_whatever_is_in_it(server, connection, errors, command):
    reply = connection.call(command)
    assert reply[:1] in b"+-${"
    assert connection.call("INFO").startswith(b"{")
    assert errors == []


@HOSTILE
@given(fields=JOB_FIELDS, report=FAIL_FIELDS, bulk=st.booleans())
def test_no_accepted_job_is_lost(server, connection, errors, fields, report, bulk):
    server.reset()
    job = write({"jid": '"job-0001"', "jobtype": '"T"', "args": "[]", **fields})
    reply = connection.call(f"PUSHB [{job}]" if bulk else f"PUSH {job}")
    assert errors == []
    accepted = reply == b"{}\r\n" if bulk else reply == b"+OK\r\n"
    assert held(server) == accepted
    reply = connection.call("FETCH default") if accepted else b"$-1\r\n"
    if reply == b"$-1\r\n":
        return  # refused, or scheduled
    payload = json.loads(reply)
    assert payload["jid"] == "job-0001"
    assert held(server) == 1
    reply = connection.call("FAIL " + write({"jid": '"job-0001"', **report}))
    assert errors == []
    assert held(server) == (reply.startswith(b"-ERR") or payload["retry"] != 0)
    server.travel(50)  # a retry is due, no reservation is over
    assert held(server) == (reply.startswith(b"-ERR") or payload["retry"] != 0)
    assert errors == []


def held(server):
    """Return how many jobs the server has."""

    def count(state):
        store = state.store
        sets = (store.scheduled, store.retries, store.dead, store.working)
        return sum(map(len, (*store.queues.values(), *sets)))

    return server._call(count)
