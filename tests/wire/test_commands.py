from __future__ import annotations

import pytest

from faktory.exceptions import (
    FaktoryNotUnique,
    FaktoryPayloadError,
    FaktoryProtocolError,
    FaktoryServerError,
)
from faktory.wire import commands
from faktory.wire.commands import Command

JOB = {"jid": "12345678", "jobtype": "Resize", "args": [1, "é"], "retry": 25}


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (
            commands.push(JOB),
            'PUSH {"jid":"12345678","jobtype":"Resize","args":[1,"é"],"retry":25}\r\n',
        ),
        (
            commands.push_bulk([JOB, {**JOB, "jid": "87654321", "args": []}]),
            'PUSHB [{"jid":"12345678","jobtype":"Resize","args":[1,"é"],"retry":25},'
            '{"jid":"87654321","jobtype":"Resize","args":[],"retry":25}]\r\n',
        ),
        (commands.push_bulk([]), "PUSHB []\r\n"),
        (commands.push_bulk_line(b"PUSHB [{}]\r\n", ["12345678"]), "PUSHB [{}]\r\n"),
        (commands.fetch(["default"]), "FETCH default\r\n"),
        (commands.fetch(("critical", "low")), "FETCH critical low\r\n"),
        (commands.ack("12345678"), 'ACK {"jid":"12345678"}\r\n'),
        (
            commands.fail("12345678", "ValueError", 'a "b"\n', ["x", "y"]),
            'FAIL {"jid":"12345678","errtype":"ValueError","message":"a \\"b\\"\\n",'
            '"backtrace":["x","y"]}\r\n',
        ),
        (
            commands.fail("12345678", "E", "", None),
            'FAIL {"jid":"12345678","errtype":"E","message":"","backtrace":null}\r\n',
        ),
        (commands.beat("w1", None, None), 'BEAT {"wid":"w1"}\r\n'),
        (
            commands.beat("w1", "quiet", 0),
            'BEAT {"wid":"w1","current_state":"quiet","rss_kb":0}\r\n',
        ),
        (commands.info(), "INFO\r\n"),
        (commands.flush(), "FLUSH\r\n"),
        (commands.mutate("clear", "dead"), 'MUTATE {"cmd":"clear","target":"dead"}\r\n'),
        (
            commands.mutate("kill", "retries", jids=iter(["a b", "c"])),
            'MUTATE {"cmd":"kill","target":"retries","filter":{"jids":["a\\u0020b","c"]}}\r\n',
        ),
        (
            commands.mutate("requeue", "scheduled", jobtype="Resize", matching='*"x y"*'),
            'MUTATE {"cmd":"requeue","target":"scheduled",'
            '"filter":{"jobtype":"Resize","regexp":"*\\"x\\u0020y\\"*"}}\r\n',
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else repr(value),
)
def test_the_line_of_a_command(command, line):
    assert command.data == line.encode()
    assert command.name == line.split(maxsplit=1)[0]


def test_the_line_of_end():
    assert commands.end() == b"END\r\n"


# The first four do harm twice: the server does not notice a jid that it has, and a job whose answer
# is lost stays reserved.
@pytest.mark.parametrize(
    ("command", "idempotent", "jids"),
    [
        (commands.push(JOB), False, ["12345678"]),
        (commands.push_bulk([JOB, JOB]), False, ["12345678", "12345678"]),
        (commands.push_bulk_line(b"PUSHB [{}]\r\n", ["a", "b"]), False, ["a", "b"]),
        (commands.fetch(["default"]), False, []),
        (commands.ack("12345678"), True, ["12345678"]),
        (commands.fail("12345678", "E", "m", []), True, ["12345678"]),
        (commands.beat("w", None, None), True, []),
        (commands.info(), True, []),
        (commands.flush(), True, []),
        (commands.mutate("clear", "dead"), True, []),
    ],
    ids=repr,
)
def test_a_command_carries_whether_it_is_idempotent_and_its_jids(command, idempotent, jids):
    assert command.idempotent is idempotent
    assert list(command.jids) == jids


def test_only_fail_has_an_error_that_means_it_was_done_before():
    assert commands.fail("12345678", "E", "m", []).already_done == "Job not found"
    assert commands.ack("12345678").already_done is None
    assert commands.push(JOB).already_done is None


def test_commands_that_may_take_longer_than_five_seconds_have_a_timeout_of_their_own():
    # FETCH waits 2 s and may take 5; PUSHB and MUTATE have 5 s for themselves.
    assert commands.fetch(["a"]).min_timeout > 5 + 2
    assert commands.push_bulk([]).min_timeout > 5 + 2
    assert commands.mutate("clear", "dead").min_timeout > 5 + 2
    assert commands.push(JOB).min_timeout == commands.info().min_timeout == 0


def test_fetch_needs_a_queue():
    with pytest.raises(ValueError, match="no queue is named: pass one at least"):
        commands.fetch([])


@pytest.mark.parametrize("queue", ["", "a b", "a\r\nFLUSH", "a\tb", "\ud800", None])
def test_a_queue_that_would_split_the_line_is_refused(queue):
    with pytest.raises(FaktoryPayloadError, match="name has letters"):
        commands.fetch(["default", queue])


@pytest.mark.parametrize(
    ("chosen", "complaint"),
    [
        ({"target": "everything"}, "is not one of retries, scheduled and dead"),
        ({"target": "Dead"}, "is not one of retries, scheduled and dead"),
        ({"jobtype": ""}, "jobtype is empty, which the server would take as everything"),
        ({"matching": ""}, "matching is empty, which the server would take as everything"),
        ({"jids": ["a"], "jobtype": "X"}, "the server looks at jids alone"),
        ({"jids": [], "matching": "*"}, "the server looks at jids alone"),
        ({"jids": "12345678"}, "pass a list of job ids"),
        ({"jids": 5}, "jids is 5: pass a list of job ids"),
        *[({"jids": [jid]}, f"the jid is {jid!r}") for jid in (1, "", None)],
        ({"jobtype": 5}, "jobtype is 5: it must be text"),
        ({"matching": 5}, "matching is 5: it must be text"),
        ({"jobtype": "A<B"}, "never matches: the server keeps <, >, & escaped"),
        ({"matching": "*a&b*"}, "never matches"),
        *[({"jobtype": f"A{sign}"}, "takes as wildcards") for sign in "*?[]\\"],
    ],
)
def test_a_filter_that_the_server_would_misread_is_refused(chosen, complaint):
    with pytest.raises(ValueError, match=r".") as caught:
        commands.mutate("discard", **{"target": "dead", **chosen})
    assert complaint in str(caught.value)


@pytest.mark.parametrize("jids", [[], (), iter(()), set()])
def test_an_empty_list_of_jids_makes_no_command(jids):
    assert commands.mutate("clear", "dead", jids=jids) is None


def test_a_pattern_may_have_wildcards_and_a_jobtype_may_not():
    assert commands.mutate("kill", "dead", matching="*[ab]?*") is not None


@pytest.mark.parametrize(
    ("command", "reply", "value"),
    [
        (commands.push(JOB), "OK", None),
        (commands.ack("12345678"), "OK", None),
        (commands.fail("12345678", "E", "m", []), "OK", None),
        (commands.flush(), "OK", None),
        (commands.mutate("clear", "dead"), "OK", None),
        (commands.push_bulk([]), {}, {}),
        (commands.push_bulk([]), {"a": "why"}, {"a": "why"}),
        (commands.fetch(["a"]), None, None),
        (commands.fetch(["a"]), {"jid": "1"}, {"jid": "1"}),
        (commands.info(), {"faktory": {}}, {"faktory": {}}),
        (commands.beat("w", None, None), "OK", None),
        (commands.beat("w", None, None), {"state": "quiet"}, "quiet"),
        (commands.beat("w", None, None), {"state": "terminate"}, "terminate"),
    ],
    ids=repr,
)
def test_an_answer_is_read(command, reply, value):
    assert command.read(reply) == value


@pytest.mark.parametrize(
    ("command", "senseless"),
    [
        (commands.push(JOB), [None, "ok", "", b"OK", 1, {}, "x" * 500]),
        (commands.ack("12345678"), [None, "Ok", b"OK", 0]),
        (commands.fail("12345678", "E", "m", []), [None, {}]),
        (commands.flush(), [None, 0]),
        (commands.mutate("clear", "dead"), [None, "queued"]),
        (commands.push_bulk([]), [None, "OK", [], 0, "x"]),
        (commands.fetch(["a"]), ["OK", "", [], 0, False]),
        (commands.info(), [None, "OK", []]),
        (commands.beat("w", None, None), [None, {}, {"state": "running"}, {"state": []}, [], 1]),
    ],
    ids=repr,
)
def test_an_answer_that_makes_no_sense_is_a_protocol_error(command, senseless):
    for reply in senseless:
        with pytest.raises(FaktoryProtocolError, match="the server answered") as error:
            command.read(reply)
        assert len(str(error.value)) < 200


def test_a_commands_repr_shows_no_payload():
    assert repr(commands.push(JOB)) == f"<PUSH, {len(commands.push(JOB).data)} bytes>"


def test_a_command_has_no_other_attributes():
    command = Command("X", b"X\r\n", lambda reply: reply, idempotent=True)
    with pytest.raises(AttributeError):
        command.attempts = 1


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (commands.pause_queues(["a", "b"]), b"QUEUE PAUSE a b\r\n"),
        (commands.resume_queues(["*"]), b"QUEUE RESUME *\r\n"),
        (commands.remove_queues(("a",)), b"QUEUE REMOVE a\r\n"),
        (commands.queue_latency(["a"]), b"QUEUE LATENCY a\r\n"),
        (
            commands.batch_new({**JOB, "args": []}, None, "images", "b-0"),
            b'BATCH NEW {"description":"images","parent_bid":"b-0","success":{"jid":"12345678",'
            b'"jobtype":"Resize","queue":"default","args":[],"retry":25}}\r\n',
        ),
        (commands.batch_open("b-1"), b"BATCH OPEN b-1\r\n"),
        (commands.batch_commit("b-1"), b"BATCH COMMIT b-1\r\n"),
        (commands.batch_status("b-1"), b"BATCH STATUS b-1\r\n"),
        (commands.track_get("12345678"), b"TRACK GET 12345678\r\n"),
        (
            commands.track_set("12345678", 5, None, "2026-01-02T03:04:05Z"),
            b'TRACK SET {"jid":"12345678","desc":null,"percent":5,'
            b'"reserve_until":"2026-01-02T03:04:05Z"}\r\n',
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Command) else "",
)
def test_the_line_of_queue_batch_and_track_commands(command, line):
    assert command.data == line


@pytest.mark.parametrize("jid", ["", None, 5])
def test_a_bad_jid_is_refused(jid):
    for make in (
        commands.ack,
        commands.track_get,
        lambda jid: commands.track_set(jid, 5, None, None),
        lambda jid: commands.fail(jid, "E", "m", []),
    ):
        with pytest.raises(FaktoryPayloadError, match=f"the jid is {jid!r}"):
            make(jid)


def test_the_states_of_beat():
    with pytest.raises(ValueError, match="the state is 'foo': it must be 'quiet' or 'terminate'"):
        commands.beat("w", "foo", None)


@pytest.mark.parametrize("names", [[], ["*", "a"], ["a", "*"], ["a b"], [""], ["a\r\nFLUSH"]])
@pytest.mark.parametrize(
    "make", [commands.pause_queues, commands.resume_queues, commands.remove_queues]
)
def test_queues_are_named_one_by_one_or_a_star_means_all(make, names):
    with pytest.raises(ValueError, match="queue"):
        make(names)


def test_latency_has_no_star():
    with pytest.raises(ValueError, match="queue's name"):
        commands.queue_latency(["*"])


@pytest.mark.parametrize("bid", ["", "a b", "a\r\nFLUSH", None])
def test_a_bid_that_would_split_the_line_is_refused(bid):
    for make in (commands.batch_open, commands.batch_commit, commands.batch_status):
        with pytest.raises(FaktoryPayloadError, match="cannot be a word"):
            make(bid)


@pytest.mark.parametrize("reply", ["b-1", b"b-1"])
def test_a_bid_comes_as_a_line_or_as_a_bulk(reply):
    assert commands.batch_new(JOB).read(reply) == "b-1"
    assert commands.batch_open("b-1").read(reply) == "b-1"


# One job with its own `retry`


def test_only_a_job_with_the_default_retries_goes_out_by_push() -> None:
    job = {"jid": "aaaaaaaa", "jobtype": "A", "args": ["{}"], "retry": 25}
    assert commands.push_exactly(job).data == commands.push(job).data
    for retry in (-1, 0, 1, 24):
        command = commands.push_exactly({**job, "retry": retry})
        assert command.name == "PUSHB"
        assert command.data == commands.push_bulk([{**job, "retry": retry}]).data
        assert list(command.jids) == ["aaaaaaaa"]


@pytest.mark.parametrize(
    ("reason", "kind", "text"),
    [
        ("jobs must have a jobtype parameter", FaktoryServerError, "ERR jobs must have a jobtype"),
        ("NOTUNIQUE Job not unique", FaktoryNotUnique, "NOTUNIQUE Job not unique"),
    ],
)
def test_what_the_server_refuses_in_a_bulk_of_one_is_the_error_of_its_push(
    reason: str, kind: type[FaktoryServerError], text: str
) -> None:
    command = commands.push_exactly({"jid": "aaaaaaaa", "jobtype": "A", "args": [], "retry": 3})
    assert command.read({}) is None
    with pytest.raises(kind, match=f"^{text}"):
        command.read({"aaaaaaaa": reason})
