"""Client middleware with a form for many jobs at once: `client_middleware.add(mw, bulk=bmw)`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import faktory
from faktory import testing
from faktory.exceptions import FaktoryBulkError, FaktoryPayloadError
from faktory.jobs import Next, client_middleware
from faktory.jobs.bulk import BULK_CHUNK
from faktory.proto import JobTemplate

from .support import FakeServer

Fields = dict[str, Any]
Bulk = Callable[[Fields, int, Callable[[], Any]], object]


def takes(image: int, size: str = "thumb") -> None: ...


resize = faktory.external("resize", takes, queue="images", retry=3, custom={"tags": ["x"]})


def plain(payload: Fields, call_next: Next) -> Any:
    raise AssertionError("its form for many runs")


def rows(count: int) -> list[tuple[int]]:
    return [(number,) for number in range(count)]


def both_ways(bulk: Bulk) -> list[str]:
    """Push three rows by `perform_bulk` and by `aperform_bulk`; return the jids."""
    client_middleware.add(plain, bulk=bulk)
    jids = resize.perform_bulk(rows(3))
    with testing.fake():
        jids += asyncio.run(resize.aperform_bulk(rows(3)))
    return jids


def test_it_sees_the_shared_fields_once_a_chunk(server: FakeServer) -> None:
    seen: list[tuple[Fields, int]] = []
    returned: list[Any] = []

    def look(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        seen.append((dict(fields), count))
        returned.append(call_next())
        return returned[-1]

    client_middleware.add(plain, bulk=look)
    jids = resize.perform_bulk(rows(BULK_CHUNK + 2))
    fields = {"jobtype": "resize", "queue": "images", "retry": 3, "custom": {"tags": ["x"]}}
    assert seen == [(fields, BULK_CHUNK), (fields, 2)]
    assert returned == [jids[:BULK_CHUNK], jids[BULK_CHUNK:]]
    assert server.sizes == [BULK_CHUNK, 2]


def test_no_rows_call_nothing(server: FakeServer) -> None:
    client_middleware.add(plain, bulk=lambda *_: pytest.fail("there is nothing to push"))
    assert resize.perform_bulk([]) == []
    assert asyncio.run(resize.aperform_bulk([])) == []


def test_it_may_change_the_fields_of_its_chunk(server: FakeServer) -> None:
    number = iter("ab")

    def tag(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        fields["jobtype"] = "scale"
        fields["queue"] = next(number)
        fields["at"] = datetime(2100, 1, 2, tzinfo=UTC)
        fields["custom"]["tags"].append("y")
        del fields["retry"]
        try:
            return call_next()
        finally:
            fields["custom"]["tags"].clear()  # too late

    client_middleware.add(plain, bulk=tag)
    resize.perform_bulk(rows(BULK_CHUNK + 1))
    first, *_, last = server.jobs
    assert first == {
        "jid": first["jid"],
        "jobtype": "scale",
        "queue": "a",
        "args": [0],
        "retry": 25,
        "at": "2100-01-02T00:00:00Z",
        "custom": {"tags": ["x", "y"]},
    }
    assert (last["queue"], last["custom"]) == ("b", {"tags": ["x", "y"]})


def test_chunks_that_differ_in_the_kind_of_a_number_differ(server: FakeServer) -> None:
    values = iter([1, True, 1.5])

    def tag(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        fields["custom"]["value"] = next(values)
        return call_next()

    client_middleware.add(plain, bulk=tag)
    resize.perform_bulk(rows(2 * BULK_CHUNK + 1))
    found = [job["custom"]["value"] for job in server.jobs[::BULK_CHUNK]]
    assert list(map(repr, found)) == ["1", "True", "1.5"]


def test_a_bulk_stays_on_its_fast_path(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def template(jobtype: str, fields: Fields) -> JobTemplate:
        made.append(jobtype)
        return JobTemplate(jobtype, fields)

    monkeypatch.setattr("faktory.jobs.push.JobTemplate", template)
    client_middleware.add(plain, bulk=lambda fields, count, call_next: call_next())
    resize.perform_bulk(rows(2 * BULK_CHUNK))
    assert made == ["resize"]


def test_one_middleware_without_a_bulk_form_has_all_called_for_each_job(
    server: FakeServer,
) -> None:
    calls: list[str] = []

    def tag(payload: Fields, call_next: Next) -> Any:
        calls.append("tag")
        return call_next()

    client_middleware.add(tag, bulk=lambda *_: pytest.fail("each job for itself"))
    client_middleware.add(lambda payload, call_next: call_next())
    resize.perform_bulk(rows(3))
    assert calls == ["tag"] * 3


def test_a_job_on_its_own_calls_the_plain_form(server: FakeServer) -> None:
    client_middleware.add(
        lambda payload, call_next: call_next(), bulk=lambda *_: pytest.fail("one job")
    )
    resize.perform_async(1)
    resize.set(debounce=60).perform_bulk(rows(2))  # each job has a jid and times of its own
    resize.set(expires_in=60).perform_bulk(rows(2), over=60)
    assert len(server.jobs) == 5


def test_the_first_bulk_middleware_is_the_outermost_and_the_batch_is_joined(
    server: FakeServer,
) -> None:
    calls: list[str] = []

    def named(name: str) -> Bulk:
        def bulk(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
            calls.append(f"{name} {fields['custom'].get('bid')}")
            return call_next()

        return bulk

    client_middleware.add(lambda payload, call_next: call_next(), bulk=named("outer"))
    client_middleware.add(plain, bulk=named("inner"))
    with faktory.Batch(success="Done").jobs() as batch:
        resize.perform_bulk(rows(2))
    assert calls == [f"outer {batch.bid}", f"inner {batch.bid}"]
    assert {job["custom"]["bid"] for job in server.jobs} == {batch.bid}


def test_without_call_next_nothing_of_that_chunk_is_pushed(server: FakeServer) -> None:
    chunks: list[int] = []

    def stop(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        chunks.append(count)
        return call_next() if len(chunks) == 2 else None

    client_middleware.add(plain, bulk=stop)
    jids = resize.perform_bulk(rows(2 * BULK_CHUNK + 1))
    assert chunks == [BULK_CHUNK, BULK_CHUNK, 1]
    assert [job["args"][0] for job in server.jobs] == list(range(BULK_CHUNK, 2 * BULK_CHUNK))
    assert jids == [job["jid"] for job in server.jobs]


@pytest.mark.parametrize(("name", "value"), [("jid", "12345678"), ("args", [1])])
def test_what_each_job_has_of_its_own_is_refused(
    server: FakeServer, name: str, value: object
) -> None:
    def spoil(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        fields[name] = value
        return call_next()

    with pytest.raises(FaktoryPayloadError, match=f"a bulk middleware has set {name} to .*bulk="):
        both_ways(spoil)
    with pytest.raises(FaktoryPayloadError, match=f"a bulk middleware has set {name} to"):
        asyncio.run(resize.aperform_bulk(rows(3)))
    assert server.jobs == []


def test_jobs_that_are_spread_have_times_of_their_own(server: FakeServer) -> None:
    def at(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        assert "at" not in fields
        fields["at"] = "2100-01-02T00:00:00Z"
        return call_next()

    def expires(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        fields["custom"]["expires_in"] = 5
        return call_next()

    for bulk, name in ((at, "at"), (expires, "custom.expires_in")):
        client_middleware.add(plain, bulk=bulk)
        with pytest.raises(FaktoryPayloadError, match=f"has set {name} to"):
            resize.perform_bulk(rows(3), over=60)
    assert server.jobs == []


@pytest.mark.parametrize(
    ("name", "value"), [("queue", "a b"), ("custom", {"when": datetime.now(UTC)}), ("color", "red")]
)
def test_a_wrong_field_is_refused_by_its_name(server: FakeServer, name: str, value: object) -> None:
    def spoil(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        fields[name] = value
        return call_next()

    with pytest.raises(FaktoryPayloadError, match=name):
        both_ways(spoil)
    assert server.jobs == []


def test_a_wrong_row_is_an_error_of_call_next(server: FakeServer) -> None:
    caught: list[Exception] = []

    def watch(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        try:
            return call_next()
        except Exception as error:
            caught.append(error)
            raise

    client_middleware.add(plain, bulk=watch)
    with pytest.raises(TypeError, match=r"rows\[1\]") as raised:
        resize.perform_bulk([(1,), ()])
    assert caught == [raised.value]


def test_refused_jobs_are_not_among_those_that_call_next_returns(server: FakeServer) -> None:
    returned: list[list[str]] = []
    server.refuse = lambda job: "no" if job["args"][0] == 1 else None

    def keep(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        returned.append(call_next())
        return None  # is not looked at

    client_middleware.add(plain, bulk=keep)
    with pytest.raises(FaktoryBulkError) as caught:
        resize.perform_bulk(rows(3))
    assert returned == [[job["jid"] for job in server.jobs]] == [caught.value.jids]
    assert list(caught.value.refused.values()) == ["no"]


def test_a_broken_connection_is_an_error_of_call_next_with_all_jids(server: FakeServer) -> None:
    server.break_after = 1
    caught: list[FaktoryBulkError] = []

    def watch(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        try:
            return call_next()
        except FaktoryBulkError as error:
            caught.append(error)
            raise

    client_middleware.add(plain, bulk=watch)
    with pytest.raises(FaktoryBulkError) as raised:
        resize.perform_bulk(rows(BULK_CHUNK + 2))
    assert caught == [raised.value]
    assert raised.value.jids == [job["jid"] for job in server.jobs]
    assert len(raised.value.unknown) == 2


@pytest.mark.parametrize("before", [True, False])
def test_an_error_of_a_bulk_middleware_has_the_jids_that_were_sent(
    server: FakeServer, before: bool
) -> None:
    def fail(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        if before and server.sizes:
            raise KeyError("no tenant")
        result = call_next()
        if not before:
            raise KeyError("no tenant")
        return result

    client_middleware.add(plain, bulk=fail)
    with pytest.raises(FaktoryBulkError, match="no tenant") as caught:
        resize.perform_bulk(rows(BULK_CHUNK + 2))
    assert caught.value.jids == [job["jid"] for job in server.jobs]
    assert len(caught.value.jids) == BULK_CHUNK


# On an event loop


def test_on_an_event_loop_it_returns_what_call_next_gives(server: FakeServer) -> None:
    async def awaited(rest: Any) -> Any:
        jids = await rest
        ended.append(len(jids))

    ended: list[int] = []

    def untouched(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        fields["custom"]["bulk"] = count
        return call_next()

    def sees_the_end(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        return awaited(call_next())

    client_middleware.add(lambda payload, call_next: call_next(), bulk=untouched)
    client_middleware.add(plain, bulk=sees_the_end)
    with testing.fake():
        jids = asyncio.run(resize.aperform_bulk(rows(BULK_CHUNK + 2)))
        jobs = resize.jobs
    assert ended == [BULK_CHUNK, 2]
    assert [job["jid"] for job in jobs] == jids
    assert [job["custom"]["bulk"] for job in jobs] == [BULK_CHUNK] * BULK_CHUNK + [2] * 2


def test_on_an_event_loop_it_cannot_drop_what_call_next_gives(server: FakeServer) -> None:
    def drops(fields: Fields, count: int, call_next: Callable[[], Any]) -> object:
        call_next()
        return None

    client_middleware.add(plain, bulk=drops)
    with testing.fake():
        with pytest.raises(RuntimeError, match="or return a coroutine that awaits it"):
            asyncio.run(resize.aperform_bulk(rows(2)))
        assert resize.jobs == []
        client_middleware.add(plain, bulk=lambda *_: None)  # stops the push
        assert asyncio.run(resize.aperform_bulk(rows(2))) == []


def test_through_a_producer_each_job_is_on_its_own(server: FakeServer) -> None:
    seen: list[int] = []

    def look(payload: Fields, call_next: Next) -> Any:
        seen.append(payload["args"][0])
        return call_next()

    client_middleware.add(look, bulk=lambda *_: pytest.fail("a producer takes jobs one by one"))
    with testing.fake(), faktory.Producer() as producer:
        assert len(resize.set(pool=producer).perform_bulk(rows(3))) == 3
    assert seen == [0, 1, 2]
