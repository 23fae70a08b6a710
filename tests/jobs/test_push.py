from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import faktory
from faktory.client.pool import Pool
from faktory.exceptions import (
    FaktoryBulkError,
    FaktoryConnectionError,
    FaktoryEnterpriseRequired,
    FaktoryPayloadError,
    FaktoryServerError,
    FaktoryTimeout,
)
from faktory.jobs.push import BULK_CHUNK

from ..support import FakeNetwork
from .support import FakeServer


def no_defaults(a: int, b: int) -> None: ...
def defaults(a: int, b: int = 2, c: int = 3) -> None: ...
def rest(a: int, *more: int) -> None: ...
def nothing() -> None: ...


def test_wrong_arguments_fail_where_the_job_is_pushed(server: FakeServer) -> None:
    job = faktory.job(no_defaults)
    for push in (
        job.perform_async,
        lambda *args: job.perform_in(5, *args),
        lambda *args: job.perform_at(datetime.now(UTC), *args),
        job.set(queue="other").perform_async,
    ):
        with pytest.raises(TypeError, match="'b'"):
            push(1)
    assert server.opened == []


# One job


def test_a_bare_job_has_the_defaults_of_every_client(server: FakeServer) -> None:
    jid = faktory.job(defaults).perform_async(1, c=4)
    assert server.jobs == [
        {"jid": jid, "jobtype": "defaults", "args": [1, 2, 4], "queue": "default", "retry": 25}
    ]


def test_all_options_are_sent_as_fields_of_the_server(server: FakeServer) -> None:
    job = faktory.job(
        name="Resize",
        queue="images",
        retry=0,
        reserve_for=timedelta(minutes=2, milliseconds=1),
        backtrace=20,
        custom={"tenant": 7},
        unique_for=60,
        track=True,
    )(nothing)
    jid = job.perform_async()
    assert job.jobtype == "Resize"
    assert server.jobs == [
        {
            "jid": jid,
            "jobtype": "Resize",
            "args": [],
            "queue": "images",
            "retry": 0,
            "reserve_for": 121,
            "backtrace": 20,
            "custom": {"tenant": 7, "unique_for": 60, "track": 1},
        }
    ]


def test_set_leaves_the_job_as_it_was(server: FakeServer) -> None:
    job = faktory.job(queue="a", custom={"x": {"y": 1}})(nothing)
    job.set(queue="b", custom={"x": {"z": 2}}).set(retry=1).perform_async()
    job.perform_async()
    first, second = server.jobs
    assert (first["queue"], first["retry"], first["custom"]) == ("b", 1, {"x": {"y": 1, "z": 2}})
    assert (second["queue"], second["retry"], second["custom"]) == ("a", 25, {"x": {"y": 1}})


def test_an_argument_that_is_not_json_is_refused_with_its_path(server: FakeServer) -> None:
    with pytest.raises(FaktoryPayloadError, match=r"args\[1\]"):
        faktory.job(no_defaults).perform_async(1, datetime.now())  # type: ignore[arg-type]
    with pytest.raises(FaktoryPayloadError, match="queue is 'a b'"):
        faktory.job(queue="a b")(nothing).perform_async()
    assert server.jobs == []


def test_a_job_that_the_server_refuses_raises(server: FakeServer) -> None:
    server.refuse = lambda job: "no more room"
    with pytest.raises(FaktoryServerError, match="no more room"):
        faktory.job(nothing).perform_async()


@pytest.mark.parametrize("pool", ["tcp://other:1", faktory.Client("tcp://other:1")])
def test_a_pool_of_another_type_is_refused_with_the_remedy(server: FakeServer, pool: Any) -> None:
    with pytest.raises(TypeError, match=r'pool is of type .*: .* like faktory\.Pool\(.*"tcp:'):
        faktory.job(rest).set(pool=pool)
    assert server.opened == []


def test_a_job_is_pushed_through_the_pool_given_to_set(server: FakeServer) -> None:
    other = Pool(lambda: faktory.Client("tcp://other:2"), size=1)
    job = faktory.job(nothing)
    job.set(pool=other).perform_async()
    job.set(pool=other).set(retry=1).perform_bulk([()])
    job.perform_async()
    assert server.opened == ["other:2", "fake:1"]
    other.close()


# Scheduled jobs


def test_perform_in_sends_the_time_in_utc(server: FakeServer) -> None:
    job = faktory.job(rest)
    for delay in (90, 90.5, timedelta(seconds=90)):
        before = datetime.now(UTC)
        job.perform_in(delay, 1, 2)
        at = server.jobs[-1]["at"]
        assert at.endswith("Z")
        wait = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        assert before + wait <= datetime.fromisoformat(at) <= datetime.now(UTC) + wait
        assert server.jobs[-1]["args"] == [1, 2]


@pytest.mark.parametrize("delay", [0, -5, timedelta(0), timedelta(days=-1)])
def test_no_delay_means_now(server: FakeServer, delay: Any) -> None:
    faktory.job(nothing).perform_in(delay)
    assert "at" not in server.jobs[0]


@pytest.mark.parametrize(
    "delay", ["5", None, True, float("nan"), float("inf"), datetime.now(UTC), 1e12, 10**400]
)
def test_a_wrong_delay_is_refused(server: FakeServer, delay: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match="the delay is"):
        faktory.job(nothing).perform_in(delay)
    assert server.jobs == []


SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


@pytest.mark.parametrize(
    "when",
    [
        SOON,
        SOON.astimezone(timezone(timedelta(hours=5, minutes=30))),
        SOON.isoformat(),
        SOON.isoformat().replace("+00:00", "Z"),
        SOON.timestamp(),
        int(SOON.timestamp()),
    ],
    ids=["utc", "another zone", "text", "text with Z", "float", "int"],
)
def test_perform_at_takes_times_of_any_type(server: FakeServer, when: Any) -> None:
    faktory.job(nothing).perform_at(when)
    assert server.jobs[0]["at"] == SOON.isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    "when", [datetime.now(UTC), 0, "2020-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"]
)
def test_a_time_in_the_past_is_not_sent(server: FakeServer, when: Any) -> None:
    faktory.job(nothing).perform_at(when)
    assert "at" not in server.jobs[0]


@pytest.mark.parametrize(
    ("when", "remedy"),
    [
        (datetime.now(), "astimezone"),
        ("2030-01-01T00:00:00", "offset"),
        ("tomorrow", "RFC 3339"),
        (timedelta(hours=1), "aware datetime"),
        (True, "aware datetime"),
        (None, "aware datetime"),
        (1e20, "no time"),
        (float("nan"), "no time"),
    ],
)
def test_a_wrong_time_is_refused_with_the_remedy(
    server: FakeServer, when: Any, remedy: str
) -> None:
    with pytest.raises(FaktoryPayloadError, match=remedy):
        faktory.job(nothing).perform_at(when)
    assert server.jobs == []


# Many jobs


def test_rows_become_jobs(server: FakeServer) -> None:
    job = faktory.job(queue="images", custom={"a": 1})(defaults)
    jids = job.perform_bulk([(1,), [2, 3]])
    assert len(set(jids)) == 2
    assert server.jobs == [
        {
            "jid": jid,
            "jobtype": "defaults",
            "args": args,
            "queue": "images",
            "retry": 25,
            "custom": {"a": 1},
        }
        for jid, args in zip(jids, ([1], [2, 3]), strict=True)
    ]


def test_without_rows_nothing_is_pushed(server: FakeServer) -> None:
    assert faktory.job(nothing).perform_bulk([]) == []
    assert server.opened == []


def test_many_rows_are_sent_in_chunks(server: FakeServer) -> None:
    jids = faktory.job(rest).perform_bulk((number,) for number in range(2 * BULK_CHUNK + 1))
    assert server.sizes == [BULK_CHUNK, BULK_CHUNK, 1]
    assert [job["jid"] for job in server.jobs] == jids
    assert [job["args"] for job in server.jobs] == [[n] for n in range(2 * BULK_CHUNK + 1)]


def test_rows_are_read_chunk_by_chunk(server: FakeServer) -> None:
    def rows() -> Iterator[tuple[int]]:
        for number in range(3 * BULK_CHUNK):
            assert number - len(server.jobs) < BULK_CHUNK
            yield (number,)

    assert len(faktory.job(rest).perform_bulk(rows())) == 3 * BULK_CHUNK


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1,), r"rows\[1\]: no_defaults: missing .*'b'"),
        ((1, 2, 3), r"rows\[1\]: no_defaults: too many"),
        (5, r"rows\[1\] is of type int; a row is a tuple"),
        ("ab", r"rows\[1\] is .*\(value,\)"),
        ((1, object()), r"rows\[1\]\[1\]"),
    ],
)
def test_a_wrong_row_is_refused_by_number_before_anything_is_sent(
    server: FakeServer, row: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        faktory.job(no_defaults).perform_bulk([(1, 2), row])
    assert server.opened == []


def test_a_wrong_row_in_a_later_chunk_is_raised_with_the_jids_that_were_sent(
    server: FakeServer,
) -> None:
    rows = [(number, 1) for number in range(BULK_CHUNK + 1)] + [(1, object())]
    with pytest.raises(FaktoryBulkError, match=r"from row 1000 on: rows\[1\]\[1\]") as caught:
        faktory.job(no_defaults).perform_bulk(rows)
    assert caught.value.jids == [job["jid"] for job in server.jobs]
    assert len(caught.value.jids) == BULK_CHUNK
    assert caught.value.unknown == caught.value.unsent == []


def test_refused_rows_are_raised_after_the_others_were_queued(
    server: FakeServer,
) -> None:
    server.refuse = lambda job: "NOTUNIQUE Job not unique" if job["args"] == [1] else None
    with pytest.raises(FaktoryBulkError, match=r"refused 1 of 3 jobs, .*not unique") as caught:
        faktory.job(rest).perform_bulk([(0,), (1,), (2,)])
    assert caught.value.jids == [job["jid"] for job in server.jobs]
    assert list(caught.value.refused.values()) == ["NOTUNIQUE Job not unique"]


def test_a_broken_connection_is_raised_with_the_unknown_jids(server: FakeServer) -> None:
    server.break_after = 1
    with pytest.raises(FaktoryBulkError, match="500 jobs may or may not be queued") as caught:
        faktory.job(rest).perform_bulk((number,) for number in range(BULK_CHUNK + 500))
    assert len(caught.value.jids) == BULK_CHUNK
    assert len(caught.value.unknown) == 500
    assert caught.value.unsent == []


def test_a_connection_that_cannot_be_opened_is_raised_with_the_unsent_jids(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise FaktoryConnectionError("nothing listens")

    monkeypatch.setattr("faktory.client.network.current", FakeNetwork(refuse))
    with pytest.raises(FaktoryBulkError, match="2 jobs were not queued") as caught:
        faktory.job(rest).perform_bulk([(1,), (2,)])
    assert len(caught.value.unsent) == 2
    assert caught.value.unknown == []


def test_a_timeout_of_the_pool_in_a_later_chunk_has_the_jids_that_were_sent(
    server: FakeServer,
) -> None:
    pool = Pool(lambda: faktory.Client("tcp://fake:1"), size=1, timeout=0.01)
    job = faktory.job(rest).set(pool=pool)

    def rows(acquired: ExitStack) -> Iterator[tuple[int]]:
        for number in range(BULK_CHUNK + 5):
            if number == BULK_CHUNK:
                acquired.enter_context(pool.client())
            yield (number,)

    with (
        ExitStack() as acquired,
        pytest.raises(FaktoryBulkError, match="5 jobs were not queued") as caught,
    ):
        job.perform_bulk(rows(acquired))
    assert isinstance(caught.value.__cause__, FaktoryTimeout)
    assert caught.value.jids == [job["jid"] for job in server.jobs]
    assert (len(caught.value.jids), len(caught.value.unsent)) == (BULK_CHUNK, 5)
    pool.close()


def test_a_timeout_of_the_pool_in_the_first_chunk_comes_out_as_it_is(server: FakeServer) -> None:
    pool = Pool(lambda: faktory.Client("tcp://fake:1"), size=1, timeout=0.01)
    with pool.client(), pytest.raises(FaktoryTimeout):
        faktory.job(rest).set(pool=pool).perform_bulk([(1,)])
    assert server.jobs == []
    pool.close()


# Enterprise options


ENTERPRISE: list[dict[str, Any]] = [
    {"unique_for": 60},
    {"unique_for": 60, "unique_until": "start"},
    {"track": True},
]


@pytest.mark.parametrize("options", ENTERPRISE)
def test_enterprise_options_are_not_sent_to_an_open_source_server(
    server: FakeServer, options: dict[str, Any]
) -> None:
    server.description = "Faktory"
    job = faktory.job(name="work", **options)(rest)
    plain = faktory.job(name="plain")(rest)
    name = next(iter(options))
    message = rf"the job work is not pushed: .* would ignore .*{name}.*set\({name}=None\)"
    for push in (
        job.perform_async,
        lambda number: job.perform_in(60, number),
        lambda number: job.perform_bulk([(number,)]),
        plain.set(**options).set(queue="low").perform_async,
    ):
        with pytest.raises(
            FaktoryEnterpriseRequired, match=message.replace("work", "(work|plain)")
        ):
            push(1)
    assert server.jobs == []
    plain.perform_async(1)
    none_of_them: dict[str, Any] = dict.fromkeys(options)
    job.set(**none_of_them).perform_async(1)
    assert len(server.jobs) == 2


def test_enterprise_options_among_the_defaults_are_not_sent_to_an_open_source_server(
    server: FakeServer,
) -> None:
    server.description = "Faktory"
    job = faktory.job(rest)
    faktory.default_job_options["track"] = True
    with pytest.raises(FaktoryEnterpriseRequired, match="would ignore track"):
        job.perform_async(1)
    job.set(track=False).perform_async(1)
    assert len(server.jobs) == 1
    assert "custom" not in server.jobs[0]


def test_each_pool_asks_its_server_for_its_edition_once(server: FakeServer) -> None:
    other = Pool(lambda: faktory.Client("tcp://other:2"), size=1)
    job = faktory.job(unique_for=60)(rest)
    job.perform_async(1)
    job.perform_async(2)
    job.perform_bulk([(3,), (4,)])
    faktory.job(name="tracked", track=True)(rest).perform_async(5)
    assert server.other_commands == ["INFO"]
    job.set(pool=other).perform_async(6)
    job.set(pool=other).perform_async(7)
    assert server.other_commands == ["INFO", "INFO"]
    assert len(server.jobs) == 7
    other.close()


def test_a_job_without_enterprise_options_does_not_ask_for_the_edition(server: FakeServer) -> None:
    faktory.job(custom={"a": 1})(rest).perform_async(1)
    faktory.job(name="untracked", track=False)(rest).perform_async(1)
    assert server.other_commands == []
    assert "custom" not in server.jobs[1]


def test_a_server_that_became_enterprise_is_noticed(server: FakeServer) -> None:
    server.description = "Faktory"
    job = faktory.job(track=True)(rest)
    with pytest.raises(FaktoryEnterpriseRequired):
        job.perform_async(1)
    server.description = "Faktory Enterprise"
    job.perform_async(1)
    assert len(server.jobs) == 1


@pytest.mark.parametrize("middleware", [False, True])
def test_a_bulk_with_enterprise_options_is_not_sent_to_an_open_source_server(
    server: FakeServer, middleware: bool
) -> None:
    if middleware:
        faktory.client_middleware.add(lambda payload, call_next: call_next())
    server.description = "Faktory"
    with pytest.raises(FaktoryEnterpriseRequired):
        faktory.job(track=True)(rest).perform_bulk((number,) for number in range(BULK_CHUNK + 1))
    assert server.jobs == []
