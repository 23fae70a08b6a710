from __future__ import annotations

import copy
import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from enum import IntEnum
from math import inf, nan

import pytest

from faktory.exceptions import FaktoryPayloadError
from faktory.proto import encode_push
from faktory.wire.payload import prepare
from faktory.wire.validate import check_duration, check_instant, check_queue

JOB = {"jobtype": "Resize", "args": []}


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Level(IntEnum):
    LOW = 3


def test_jid_queue_and_retry_are_filled_in():
    sent = prepare({"jobtype": "Resize", "args": [1]})
    assert len(sent.pop("jid")) == 24
    assert sent == {"jobtype": "Resize", "args": [1], "queue": "default", "retry": 25}


@pytest.mark.parametrize("given", [{}, {"retry": None}, {"retry": 25}])
def test_retry_is_always_explicit(given):
    assert prepare({**JOB, **given})["retry"] == 25


@pytest.mark.parametrize("retry", [-1, 0, 1, 100, Level.LOW])
def test_a_given_retry_stays(retry):
    assert prepare({**JOB, "retry": retry})["retry"] == retry


def test_given_fields_are_sent_unchanged():
    job = {
        "jid": "12345678",
        "jobtype": "Resize",
        "queue": "Low_1.x-y",
        "args": [1, "two", {"three": None}],
        "retry": 0,
        "backtrace": 5,
        "reserve_for": 600,
        "at": "2026-01-02T03:04:05Z",
        "custom": {"unique_for": 60},
        "created_at": "2026-01-02T03:04:05Z",
        "priority": 9,
    }
    assert prepare(job) == job


def test_a_fetched_job_can_be_pushed_again():
    fetched = {
        "jid": "4a5b6c7d8e9f",
        "queue": "default",
        "jobtype": "Resize",
        "args": [1],
        "created_at": "2026-01-02T03:04:05.123456789Z",
        "enqueued_at": "2026-01-02T03:04:05.987654321Z",
        "retry": 25,
        "failure": {"retry_count": 0, "remaining": 25, "failed_at": "2026-01-02T03:04:06Z"},
    }
    assert prepare(fetched) == fetched
    # Another client's clock may lack its zone, and the server does not mind.
    assert prepare({**fetched, "created_at": "2026-01-02T03:04:05"})["jid"] == "4a5b6c7d8e9f"


def test_the_callers_dict_is_never_changed():
    job = {**JOB, "at": 0, "reserve_for": 1.5, "retry": None, "jid": None, "args": (1, [2])}
    before = copy.deepcopy(job)
    sent = prepare(job)
    assert job == before
    assert sent is not job
    with pytest.raises(FaktoryPayloadError):
        prepare({**job, "queue": "no queue"})
    assert job == before


def test_each_job_has_a_jid_of_its_own():
    assert prepare(JOB)["jid"] != prepare(JOB)["jid"]


@pytest.mark.parametrize("optional", ["jid", "backtrace", "reserve_for", "at", "custom", "failure"])
def test_an_optional_field_may_be_none(optional):
    prepare({**JOB, optional: None})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("jobtype", value) for value in ("", None, 5, b"Resize", ["Resize"])],
        *[("args", value) for value in (None, "ab", 5, {1: 2}, {1}, iter([]), range(3))],
        *[("queue", value) for value in ("", None, 5, "a b", "a\n", "é", "*", "a/b", b"low")],
        *[
            ("jid", value)
            for value in ("", "1234567", 12345678, "1234 5678", "1234567\n", b"x" * 8)
        ],
        ("jid", "1234567\ud800"),
        *[("retry", value) for value in (-2, 1.0, "3", True, [], nan)],
        *[("backtrace", value) for value in (-1, 1.5, "3", True)],
        *[("reserve_for", value) for value in (-1, 86_401, 86_400.5, "60", True, inf, nan, -inf)],
        *[("reserve_for", timedelta(seconds=value)) for value in (-1, 86_401)],
        *[("at", value) for value in ("", "tomorrow", "2026-01-02", True, [], inf, nan, 1e300)],
        *[("custom", value) for value in ([], "x", 5)],
        *[("failure", value) for value in ([], "x", 5)],
        *[("created_at", value) for value in ([], True, datetime(2026, 1, 2))],
        *[("enqueued_at", value) for value in ({}, False)],
        *[(field, Unspeakable()) for field in ("jid", "jobtype", "queue", "args", "retry")],
        *[(field, Unspeakable()) for field in ("at", "reserve_for", "backtrace", "custom")],
    ],
)
def test_the_error_names_the_field_and_its_valid_values(field, value):
    with pytest.raises(FaktoryPayloadError) as caught:
        prepare({**JOB, field: value})
    assert str(caught.value).startswith(f"{field} is ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("field", ["reserve_for", "at", "jobtype", "queue", "args", "custom"])
def test_an_integer_of_too_many_digits_to_be_shown_is_refused_by_field(field):
    with pytest.raises(FaktoryPayloadError, match=f"^{field} is a value of type int"):
        prepare({**JOB, field: 10**5000})


@pytest.mark.parametrize("missing", ["jobtype", "args"])
def test_a_missing_field_is_named(missing):
    job = {name: value for name, value in JOB.items() if name != missing}
    with pytest.raises(FaktoryPayloadError, match=f"the job has no '{missing}'"):
        prepare(job)


@pytest.mark.parametrize("unknown", ["Retry", "job_type", "unique_for", "", 5, None])
def test_a_field_that_the_server_would_drop_is_refused(unknown):
    with pytest.raises(FaktoryPayloadError, match="is not a field of a job"):
        prepare({**JOB, unknown: 1})


@pytest.mark.parametrize("job", [None, "Resize", [JOB], Unspeakable()])
def test_a_job_that_is_not_a_dict_is_refused(job):
    with pytest.raises(FaktoryPayloadError, match="a job is a dict with at least"):
        prepare(job)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (60, 60),
        (0, 0),
        (86_400, 86_400),
        (59.1, 60),
        (86_399.5, 86_400),
        (timedelta(minutes=2), 120),
        (timedelta(milliseconds=1), 1),
    ],
)
def test_a_reservation_is_sent_in_seconds_rounded_up(given, sent):
    reserved = prepare({**JOB, "reserve_for": given})["reserve_for"]
    assert reserved == sent
    assert type(reserved) is int


class Lost(tzinfo):
    def utcoffset(self, when):
        return None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_000_000_000.5, "2001-09-09T01:46:40.500000Z"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "2026-01-02T03:04:05.000006Z"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T22:00:00Z"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(0, 1))), "2026-01-01T23:59:59Z"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05.123456789-23:59", "2026-01-02T03:04:05.123456789-23:59"),
        ("2024-02-29T23:59:59+05:30", "2024-02-29T23:59:59+05:30"),
    ],
)
def test_a_point_in_time_is_sent_as_text_with_its_offset(value, text):
    assert check_instant("at", value) == text


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-02T03:04:05",
        "2026-01-02 03:04:05Z",
        "2026-01-02T03:04Z",
        "2026-01-02T03:04:05+0100",
        "2026-01-02T03:04:05Z\n",
        "2026-01-02T03:04:05.1234567890Z",
        "2026-01-02T03:04:05.Z",
        "2026-02-30T03:04:05Z",
        "2026-13-02T03:04:05Z",
        "2026-01-02T24:00:00Z",
        "2026-01-02T03:04:60Z",
        "2026-01-02T03:04:05+24:00",
        "2026-01-02T03:04:05+05:75",
        "0000-01-02T03:04:05Z",
        "\uff12\uff10\uff12\uff16-01-02T03:04:05Z",
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2))),
        date(2026, 1, 2),
        timedelta(1),
        -(10**12),
        None,
    ],
)
def test_a_time_that_the_server_cannot_read_is_refused(value):
    with pytest.raises(FaktoryPayloadError, match="at is "):
        check_instant("at", value)


@pytest.mark.parametrize("zone", [None, Lost()])
def test_a_naive_datetime_is_refused_with_the_remedy(zone):
    with pytest.raises(FaktoryPayloadError, match=r"naive datetime.*value\.astimezone\(\)"):
        check_instant("at", datetime(2026, 1, 2, tzinfo=zone))


@pytest.mark.parametrize(("value", "expected"), [(5, 5), (0.5, 0.5), (timedelta(minutes=1), 60.0)])
def test_a_duration_is_seconds_or_a_timedelta(value, expected):
    assert check_duration("timeout", value) == expected


@pytest.mark.parametrize("value", [None, "5", True, nan, inf, [], Unspeakable()])
def test_a_bad_duration_is_refused_by_name(value):
    with pytest.raises(FaktoryPayloadError, match=r"timeout is .*pass seconds or a timedelta"):
        check_duration("timeout", value)


def test_a_valid_queue_name_is_returned():
    assert check_queue("queue", "a.B_c-9") == "a.B_c-9"
    with pytest.raises(FaktoryPayloadError, match=r"queues\[1\] is 'a b'"):
        check_queue("queues[1]", "a b")


@pytest.mark.parametrize("name", ["retry", "backtrace"])
@pytest.mark.parametrize("value", [2**60, 2**53 + 1, 10**30])
def test_a_number_that_is_too_large_is_refused_with_the_limit(name, value):
    with pytest.raises(FaktoryPayloadError, match="it must be a whole number") as caught:
        prepare({**JOB, name: value})
    least, most = re.findall(r"from (-?\d+) to (\d+)\.$", str(caught.value))[0]
    for followed in (int(least), int(most)):
        encode_push(prepare({**JOB, name: followed}))
