"""Random commands, sent to an embedded server and to the real one in FAKTORY_URL.

The replies must be the same except for instants. All names are new in each run, and MUTATE always
has a filter for them, so the real server may be in use for something else.
"""

from __future__ import annotations

import json
import re
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faktory.proto import new_jid

ONLINE = settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

LATER = "2099-01-01T00:00:00Z"
INSTANT = re.compile(rb'"20[0-8]\d-\d\d-\d\dT[0-9:.]+Z"')
LATENCY = re.compile(rb'("[^"]+":)(?!0[,}])[0-9.e-]+')

# Texts of every kind, and those that are special in JSON, in Go and in the protocol.
TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", "<&>", "\u2028", "\x7f", "\x00", '"\\', "\ufffd", "😀", "*", "\ud800\udc00", "\udfff"]
)
# Without names that become the same name, of which we keep the later one and the real server checks
# both, and without line ends, which in an error's text break the real server's reply in two.
NAME = TEXT.filter(lambda text: not set(text) & {"\udfff", "\r", "\n"})
NUMBER = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**53, 2**53 + 1, -(2**63), 10**20, 10**21, 1e-6, 1e-7, -0.0, 1e400])
    | st.integers(-400, 400).map(
        lambda exponent: 10**exponent if exponent >= 0 else f"1e{exponent}"
    )
)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAME, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def pair(both) -> tuple[Any, Any]:
    """A connection to each server."""
    ours, real = both
    return ours(), real()


@ONLINE
@given(
    values=st.lists(VALUE, max_size=4),
    custom=st.none() | st.dictionaries(NAME, VALUE, max_size=3),
    jobtype=TEXT,
    ascii_only=st.booleans(),
)
def test_values_come_back_the_same(pair, values, custom, jobtype, ascii_only):
    jid, queue = new_jid(), new_jid()
    job = {"jid": jid, "queue": queue, "jobtype": jobtype, "retry": 1, "args": values}
    if custom is not None:
        job["custom"] = custom
    text = json.dumps(job, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    said = [without_details(client.call(b"PUSH " + text)) for client in pair]
    assert said[0] == said[1]
    if said[0] == b"+OK":
        fetched = [INSTANT.sub(b"TIME", client.call(f"FETCH {queue}")) for client in pair]
        assert fetched[0] == fetched[1]
        for client in pair:
            client.call(f'ACK {{"jid":"{jid}"}}')
            client.call(f"QUEUE REMOVE {queue}")


@ONLINE
@given(text=st.text(st.sampled_from('{}[],:"\\ \t1e+-.0ntrufalsé'), max_size=12))
def test_both_servers_accept_the_same_texts_as_json(pair, text):
    ours, real = pair
    assert without_details(ours.call("PUSH " + text)) == without_details(real.call("PUSH " + text))


@ONLINE
@given(
    at=st.from_regex(
        r"20[0-9]{2}-[01][0-9]-[0-3][0-9][T ]?[0-2]?[0-9]:[0-6][0-9]:[0-6][0-9]"
        r"([.,][0-9]{0,11})?(Z|[+-][0-2][0-9]:[0-6][0-9]|)",
        fullmatch=True,
    )
)
def test_instants_are_read_the_same(pair, at):
    ours, real = pair
    jid, queue = new_jid(), new_jid()
    assert ours.push(jid, queue, at=at) == real.push(jid, queue, at=at)
    for client in (ours, real):
        client.mutate("discard", "scheduled", jids=[jid])
        client.call(f"QUEUE REMOVE {queue}")


def without_details(reply: bytes) -> bytes:
    """Cut the details about invalid JSON: the embedded server has its own words for them."""
    return b"-ERR invalid JSON" if reply.startswith(b"-ERR invalid JSON: ") else reply


VERBS = [*["PUSH"] * 4, *["FETCH"] * 4, *["FAIL"] * 3, *["MUTATE"] * 3]
VERBS += ["ACK", "PUSHB", "QUEUE", "QUEUE", "BEAT"]

NAMES = re.compile(r"\b([JQT]\d+|W)\b")


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[int, str]]:
    """Commands with the number of the connection that sends them; J1.., Q1.., T1.. and W are names.

    Each jid is pushed once, and jobs are requeued one by one: the real server requeues several of
    them in an order of its own.
    """
    pushed = count(1)
    jid = st.integers(1, 6).map("J{}".format)
    queue = st.sampled_from(["Q1", "Q2"])
    jobtype = st.sampled_from(["T1", "T2"])

    def job() -> dict[str, Any]:
        fields: dict[str, Any] = {
            "jid": f"J{next(pushed)}",
            "queue": draw(queue),
            "jobtype": draw(jobtype),
            "args": [],
            "retry": draw(st.sampled_from([-1, 0, 1, 2, 25])),
        }
        if at := draw(st.sampled_from([None, None, LATER, "2001-01-01T00:00:00+01:00"])):
            fields["at"] = at
        return fields

    def mutation() -> dict[str, Any]:
        operation = draw(st.sampled_from(["discard", "kill", "requeue", "requeue"]))
        chosen: dict[str, Any] = {"regexp": f"*{draw(jid)}*"}
        if operation != "requeue" and draw(st.booleans()):
            chosen = {"jobtype": draw(jobtype)}
        elif draw(st.booleans()):
            chosen = {"jids": [draw(jid)]}
        elif draw(st.booleans()):
            chosen["jobtype"] = draw(jobtype)
        target = draw(st.sampled_from(["retries", "retries", "scheduled", "dead"]))
        return {"cmd": operation, "target": target, "filter": chosen}

    def command() -> str:
        verb = draw(st.sampled_from(VERBS))
        if verb == "PUSH":
            return "PUSH " + json.dumps(job())
        if verb == "PUSHB":
            return "PUSHB " + json.dumps([job() for _ in range(draw(st.integers(0, 3)))])
        if verb == "FETCH":
            return "FETCH " + " ".join(draw(st.lists(queue, min_size=1, max_size=2)))
        if verb == "ACK":
            return f'ACK {{"jid":"{draw(jid)}"}}'
        if verb == "FAIL":
            return f'FAIL {{"jid":"{draw(jid)}","message":"m","backtrace":["b"]}}'
        if verb == "BEAT":
            state = draw(st.sampled_from(["", "running", "quiet", "terminate"]))
            return f'BEAT {{"wid":"W","current_state":"{state}"}}'
        if verb == "QUEUE":
            operation = draw(st.sampled_from(["PAUSE", "RESUME", "REMOVE", "LATENCY"]))
            return f"QUEUE {operation} {draw(queue)}"
        return "MUTATE " + json.dumps(mutation(), separators=(",", ":"))

    return [(draw(st.integers(0, 2)), command()) for _ in range(draw(st.integers(3, 25)))]


@settings(ONLINE, max_examples=60)
@given(script=scripts())
def test_three_connections_get_the_same_replies_from_both_servers(both, pair, script):
    run = new_jid()
    clients = [[dial(wid=f"{run}W"), dial(wid=f"{run}W"), dial()] for dial in both]
    waiting: list[int] = []
    try:
        for number, text in script:
            if number in waiting:
                continue  # it gets no reply before the FETCH has one
            text = NAMES.sub(lambda name: run + name[0], text)
            each = [server[number] for server in clients]
            for client in each:
                client.send(text)
            if text.startswith("FETCH"):
                waiting.append(number)
            else:
                assert comparable(each[0].reply()) == comparable(each[1].reply()), text
            waiting = [one for one in waiting if not answered(clients[0][one], clients[1][one])]
            assert sizes(pair[0], run) == sizes(pair[1], run), text
    finally:
        for client in pair:
            client.call(f"QUEUE REMOVE {run}Q1 {run}Q2")
            for target in ("retries", "scheduled", "dead"):
                client.mutate("discard", target, regexp=f"*{run}*")
        for client in (*clients[0], *clients[1]):
            client.socket.close()


def answered(ours: Any, real: Any) -> bool:
    """Return whether both servers have answered a FETCH; fail if only one has."""
    for one, other in ((ours, real), (real, ours)):
        try:
            reply = one.reply(timeout=0.01)
        except TimeoutError:
            continue
        assert comparable(reply) == comparable(other.reply(timeout=10))
        return True
    return False


def comparable(reply: bytes | None) -> bytes | None:
    if reply is None:
        return None
    return LATENCY.sub(rb"\1N", INSTANT.sub(b"TIME", reply))


def sizes(client: Any, run: str) -> dict[str, int]:
    """Return the sizes of this run's queues, from INFO."""
    queues = json.loads(client.call("INFO"))["faktory"]["queues"]
    return {name: size for name, size in queues.items() if name.startswith(run)}
