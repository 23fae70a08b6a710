"""Which jobs PUSH and PUSHB accept, how FETCH returns them, and the errors for all others.

As in test_server_contract.py, it holds for the embedded server and for the real one.
"""

from __future__ import annotations

import json

import pytest


def test_a_job_comes_out_as_it_went_in(dial, name):
    client, jid, queue = dial(), name(), name()
    job = {
        "retry": 3,
        "custom": {"a": [1, {"b": None}]},
        "jid": jid,
        "queue": queue,
        "jobtype": "T",
        "created_at": "2026-01-02T03:04:05Z",
        "args": [1, "two", [3.5, None, True, {"four": []}]],
        "reserve_for": 600,
        "backtrace": 2,
    }
    assert client.call("PUSH " + json.dumps(job)) == b"+OK"
    fetched = client.fetch(queue)
    assert fetched.pop("enqueued_at")
    assert fetched == job
    assert list(fetched) == list(job)


@pytest.mark.parametrize(
    ("args", "returned"),
    [
        ("1.0,-0,-0.0,0.0", b"1,-0,-0,0"),
        ("9007199254740993,-9007199254740993", b"9007199254740992,-9007199254740992"),
        ("1e20,1e21,123456789012345683968", b"100000000000000000000,1e+21,123456789012345680000"),
        ("999999999999999999999,1.5e300,5e-324", b"1e+21,1.5e+300,5e-324"),
        ("0.1,1e-5,0.000001,1e-7,1.25e-10", b"0.1,0.00001,0.000001,1e-7,1.25e-10"),
        ("0.00001234,123456.789e3,1E2", b"0.00001234,123456789,100"),
        (r'"\b\f\n\r\t\u0001\u007f\/\"\\"', b'"\\b\\f\\n\\r\\t\\u0001\x7f/\\"\\\\"'),
        ('"<>&\u2028\u2029é😀"', '"\\u003c\\u003e\\u0026\\u2028\\u2029é😀"'.encode()),
        (r'"\ud83d\ude00","\ud800","\ud800A","\udc00\ud800"', '"😀","�","�A","��"'.encode()),
        (r'"\ud800\ud83d\ude00","\\ud800"', '"�😀","\\\\ud800"'.encode()),
        ('{"b":1,"a":{"d":1,"c":2},"B":0}', b'{"B":0,"a":{"c":2,"d":1},"b":1}'),
        ('{"\uffff":1,"😀":2,"é":3,"<":4}', '{"\\u003c":4,"é":3,"\uffff":1,"😀":2}'.encode()),
        ('{"a":1,"a":2}', b'{"a":2}'),
        (" [ ] , { } ", b"[],{}"),
    ],
)
def test_values_come_back_as_go_writes_them(dial, name, args, returned):
    client, queue = dial(), name()
    push = f'PUSH {{"jid":"{name()}","jobtype":"T","retry":1,"queue":"{queue}","args":[{args}]}}'
    assert client.call(push) == b"+OK"
    assert client.call(f"FETCH {queue}").partition(b'"args":')[2] == b"[" + returned + b"]}"


def test_bytes_that_are_not_utf8_become_replacement_characters(dial, name):
    client, queue = dial(), name()
    push = f'PUSH {{"jid":"{name()}","jobtype":"T","retry":1,"queue":"{queue}","args":["%"]}}'
    assert client.call(push.encode().replace(b"%", b"\xff\xe2\x82 \xed\xa0\x80")) == b"+OK"
    assert client.fetch(queue)["args"] == ["��� ���"]


def test_fields_are_found_in_any_case_and_unknown_ones_are_dropped(dial, name):
    client, queue = dial(), name()
    push = (
        f'PUSH {{"JID":"{name()}","JobType":"T","QUEUE":"{queue}","Retry":2,"args":[],'
        '"re\u017ferve_for":70,"priority":9,"custom":{},"failure":null,"at":"","created_at":null}'
    )
    assert client.call(push) == b"+OK"
    fetched = client.fetch(queue)
    assert (fetched["retry"], fetched["reserve_for"]) == (2, 70)
    assert not fetched.keys() & {"priority", "custom", "failure", "at"}


@pytest.mark.parametrize(
    ("number", "returned"),
    [
        ("-0", 0),
        ("1234567890123456789", 1234567890123456789),
        ("9223372036854775807", 9223372036854775807),
        ("-9223372036854775808", -9223372036854775808),
    ],
)
def test_an_integer_of_a_field_comes_back_exactly(dial, name, number, returned):
    client, queue = dial(), name()
    push = f'PUSH {{"jid":"{name()}","jobtype":"T","queue":"{queue}","args":[],"retry":{number}}}'
    assert client.call(push) == b"+OK"
    assert client.fetch(queue)["retry"] == returned


REFUSED_PUSHES = [
    ('"jid":"1234567"', b"jobs must have a reasonable jid parameter"),
    ('"jid":"12345678","jobtype":""', b"jobs must have a jobtype parameter"),
    ('"jid":"12345678","args":null', b"jobs must have an args parameter"),
    ('"reserve_for":86401', b"jobs cannot be reserved for more than one day"),
    (
        '"queue":"a b"',
        rb'cannot get "a b" queue: queue names must match \A[a-zA-Z0-9._-]+\z',
    ),
    (
        '"queue":"\\u0000\\u2028é\\""',
        r'cannot get "\x00\u2028é\"" queue: queue names must match \A[a-zA-Z0-9._-]+\z'.encode(),
    ),
    *(
        (
            f'"{field}":{value}',
            b"invalid JSON: json: cannot unmarshal %b into Go struct field Job.%b of type %b"
            % (given.encode(), path.encode(), kind.encode()),
        )
        for field, value, given, path, kind in [
            ("retry", "3.0", "number 3.0", "retry", "int"),
            ("retry", "true", "bool", "retry", "int"),
            ("retry", '"3"', "string", "retry", "int"),
            ("reserve_for", "[]", "array", "reserve_for", "int"),
            ("jid", "5", "number", "jid", "string"),
            ("at", "{}", "object", "at", "string"),
            ("args", "{}", "object", "args", "[]interface {}"),
            ("custom", "[]", "array", "custom", "map[string]interface {}"),
            ("failure", "5", "number", "failure", "client.Failure"),
            ("failure", '{"remaining":"x"}', "string", "failure.remaining", "int"),
            ("failure", '{"backtrace":{}}', "object", "failure.backtrace", "[]string"),
        ]
    ),
    (
        '"failure":{"backtrace":["a",1]}',
        b"invalid JSON: json: cannot unmarshal number into Job.failure.backtrace.1 of type string",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED_PUSHES)
def test_both_servers_reject_a_push_in_the_same_words(dial, name, fields, message):
    defaults = {"jid": name(), "jobtype": "T", "queue": name(), "retry": 1, "args": []}
    rest = {key: value for key, value in defaults.items() if f'"{key}":' not in fields}
    text = json.dumps(rest)[:-1] + "," + fields + "}"
    assert dial().call("PUSH " + text) == b"-ERR " + message


@pytest.mark.parametrize(
    "field",
    [
        '"retry":1e2',
        '"retry":99999999999999999999',
        '"custom":{"a":1e999}',
        '"args":[{"a":[1,-1e999]}]',
    ],
)
def test_a_number_that_does_not_fit_is_rejected(dial, name, field):
    push = f'PUSH {{"jid":"{name()}","jobtype":"T","queue":"{name()}","args":[],{field}}}'
    assert dial().call(push).startswith(b"-ERR invalid JSON: json: cannot unmarshal ")


@pytest.mark.parametrize(
    "text",
    [
        "{bad",
        '{"a" 1}',
        '{"a":1 "b"}',
        '{"a":1,}',
        "{\"a\":'b'}",
        "[1 2]",
        "[1,]",
        "[01]",
        "[1.]",
        "[NaN]",
        "[-Infinity]",
        "{} x",
        "truf",
        "[nul]",
        "-x",
        "1ex",
        "1e+",
        "é",
        '["a\tb"]',
        r'["\x"]',
        r'["\\\u12x"]',
        "",
        "  ",
        "[1",
        '{"a',
        "tru",
        "-",
        "[" * 10_001,
        "[]",
        '"x"',
        "5",
        "true",
    ],
)
def test_json_that_is_broken_or_not_a_job_is_rejected(dial, text):
    assert dial().call("PUSH " + text).startswith(b"-ERR invalid JSON: ")


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("null", b"{}"),
        ("[]", b"{}"),
        ("[null]", b'{"":"jobs must have a reasonable jid parameter"}'),
        ("[{},{}]", b'{"":"jobs must have a reasonable jid parameter"}'),
        (
            "{}",
            b"-ERR invalid JSON: json: cannot unmarshal object into Go value of type []client.Job",
        ),
        ("[[]]", b"-ERR invalid JSON: json: cannot unmarshal array into .0 of type client.Job"),
        (
            '[{},{"jid":5}]',
            b"-ERR invalid JSON: json: cannot unmarshal number into Go struct field .1.jid "
            b"of type string",
        ),
    ],
)
def test_pushb_without_valid_jobs(dial, text, reply):
    assert dial().call("PUSHB " + text) == reply


def test_pushb_queues_the_good_and_names_the_bad(dial, name):
    client, good, bad, queue = dial(), name(), name(), name()
    jobs = [
        {"jid": bad, "jobtype": "", "args": [], "queue": queue, "retry": 1},
        {"jid": good, "jobtype": "T", "args": [], "queue": queue, "retry": 1},
    ]
    reply = client.call("PUSHB " + json.dumps(jobs))
    assert json.loads(reply) == {bad: "jobs must have a jobtype parameter"}
    assert client.fetch(queue)["jid"] == good


def test_pushb_with_one_malformed_job_queues_none(dial, name):
    client, queue = dial(), name()
    good = {"jid": name(), "jobtype": "T", "args": [], "queue": queue, "retry": 1}
    reply = client.call("PUSHB " + json.dumps([good, {**good, "args": 1}]))
    assert reply.startswith(b"-ERR invalid")
    assert json.loads(client.call(f"QUEUE LATENCY {queue}")) == {queue: 0}


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("tomorrow", '{} as {layout}: cannot parse "tomorrow" as "2006"'),
        ("2026-01-01", '{} as {layout}: cannot parse "" as "T"'),
        ("2026-01-01 00:00:00Z", '{} as {layout}: cannot parse " 00:00:00Z" as "T"'),
        ("2026-01-01T00:00:00", '{} as {layout}: cannot parse "" as "Z07:00"'),
        ("2026-01-01T00:00:00z", '{} as {layout}: cannot parse "z" as "Z07:00"'),
        ("2026-01-01T00:00:00.Z", '{} as {layout}: cannot parse ".Z" as "Z07:00"'),
        ("2026-01-01T00:0:00Z", '{} as {layout}: cannot parse "0:00Z" as "04"'),
        ("2026-01-01T00:00:00+2400", '{} as {layout}: cannot parse "+2400" as "Z07:00"'),
        ("2026-01-01T00:00:00Zx", '{}: extra text: "x"'),
        ("2026-13-01T00:00:00Z", "{}: month out of range"),
        ("2026-02-30T00:00:00Z", "{}: day out of range"),
        ("2026-01-01T24:00:00Z", "{}: hour out of range"),
        ("2026-01-01T00:60:00Z", "{}: minute out of range"),
        ("2026-01-01T00:00:60Z", "{}: second out of range"),
        ("2026-01-01T00:00:00+25:00", "{}: time zone offset hour out of range"),
    ],
)
def test_both_servers_reject_an_invalid_instant_in_the_same_words(dial, name, at, message):
    text = message.format(f'"{at}"', layout='"2006-01-02T15:04:05.999999999Z07:00"')
    expected = f"-ERR invalid timestamp for 'at': \"{at}\": parsing time {text}"
    assert dial().push(name(), name(), at=at) == expected.encode()


@pytest.mark.parametrize(
    "at",
    [
        "2026-01-01T3:04:05Z",
        "2026-01-01T03:04:05,5Z",
        "2026-01-01T03:04:05.1234567891234Z",
        "2026-01-01T03:04:05-24:00",
        "0000-02-29T03:04:05+23:60",
    ],
)
def test_a_job_whose_time_is_past_is_queued_at_once_and_keeps_it(dial, name, at):
    client, queue = dial(), name()
    assert client.push(name(), queue, at=at) == b"+OK"
    assert client.fetch(queue)["at"] == at


def test_a_job_that_is_scheduled_many_times_with_the_same_json_is_there_once(dial, name):
    """What the repeated push of a scheduled job, and debounced jobs, rely on."""
    jid, queue = name(), name()
    job = {"jid": jid, "jobtype": "T", "queue": queue, "retry": 1, "args": [1, {"b": 2, "a": 1}]}
    job |= {
        "at": "2100-01-01T00:00:00Z",
        "created_at": "2026-01-01T00:00:00.5Z",
        "custom": {"c": 3},
    }
    for client in [dial() for _ in range(8)]:
        for _ in range(3):
            assert client.call("PUSH " + json.dumps(job)) == b"+OK"
    assert client.call("PUSHB " + json.dumps([job] * 5)) == b"{}"
    # The keys of an object come out sorted, and an empty field not at all.
    other = dict(reversed(job.items())) | {"args": [1, {"a": 1, "b": 2}], "failure": None}
    assert client.call("PUSH " + json.dumps(other)) == b"+OK"
    assert entries(client, jid, queue) == 1


@pytest.mark.parametrize("change", [{"created_at": None}, {"at": "2020-01-01T00:00:00Z"}], ids=repr)
def test_a_job_without_created_at_or_that_is_due_is_there_as_often_as_it_was_pushed(
    dial, name, change
):
    client, jid, queue = dial(), name(), name()
    job = {"jid": jid, "jobtype": "T", "queue": queue, "retry": 1, "args": []}
    job |= {"at": "2100-01-01T00:00:00Z", "created_at": "2026-01-01T00:00:00Z", **change}
    for _ in range(3):
        assert client.call("PUSH " + json.dumps(job)) == b"+OK"
    assert entries(client, jid, queue) == 3


def entries(client, jid, queue):
    """Queue what is scheduled of a job; return how often it is there."""
    assert client.mutate("requeue", "scheduled", jids=[jid]) == b"+OK"
    return json.loads(client.call("INFO"))["faktory"]["queues"][queue]
