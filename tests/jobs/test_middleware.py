"""The client middleware around each push, and the two chains of the process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import faktory
from faktory.exceptions import FaktoryBulkError, FaktoryPayloadError, FaktoryServerError
from faktory.jobs import Next, client_middleware
from faktory.jobs.middleware import join_batch
from faktory.jobs.push import BULK_CHUNK
from faktory.proto import JobTemplate

from .support import FakeServer

Payload = dict[str, Any]


def takes(image: int, size: str = "thumb") -> None: ...


resize = faktory.external("resize", takes, queue="images", retry=3, custom={"tags": ["x"]})


@pytest.fixture
def seen() -> list[Payload]:
    """The payloads that a middleware was called with, as they were then."""
    seen: list[Payload] = []

    @client_middleware.add
    def look(payload: Payload, call_next: Next) -> Any:
        seen.append({**payload, "args": list(payload["args"])})
        return call_next()

    return seen


def test_a_middleware_sees_the_job_as_it_will_be_sent(
    server: FakeServer, seen: list[Payload]
) -> None:
    jid = resize.perform_async(1, size="full")
    assert seen == server.jobs
    assert seen == [
        {
            "jid": jid,
            "jobtype": "resize",
            "queue": "images",
            "args": [1, "full"],
            "retry": 3,
            "custom": {"tags": ["x"]},
        }
    ]


def test_a_middleware_sees_the_time_of_a_job_as_text(
    server: FakeServer, seen: list[Payload]
) -> None:
    when = datetime(2100, 1, 2, tzinfo=UTC)
    resize.perform_at(when, 1)
    resize.perform_in(timedelta(hours=1), 1)
    resize.perform_in(0, 1)
    assert seen[0]["at"] == "2100-01-02T00:00:00Z"
    assert timedelta(minutes=59) < datetime.fromisoformat(seen[1]["at"]) - datetime.now(UTC)
    assert "at" not in seen[2]
    assert server.jobs == seen


def test_a_middleware_may_change_the_job(server: FakeServer) -> None:
    @client_middleware.add
    def change(payload: Payload, call_next: Next) -> Any:
        payload["jid"] = "my-own-jid"
        payload["queue"] = "low"
        payload["args"].append("full")
        payload["custom"]["tenant"] = 7
        payload["at"] = datetime(2100, 1, 2, tzinfo=UTC)
        del payload["retry"]
        return call_next()

    assert resize.perform_async(1) == "my-own-jid"
    assert server.jobs == [
        {
            "jid": "my-own-jid",
            "jobtype": "resize",
            "queue": "low",
            "args": [1, "full"],
            "retry": 25,
            "custom": {"tags": ["x"], "tenant": 7},
            "at": "2100-01-02T00:00:00Z",
        }
    ]


def test_a_change_by_a_middleware_is_in_one_job_only(server: FakeServer) -> None:
    row: Any = [1]

    @client_middleware.add
    def change(payload: Payload, call_next: Next) -> Any:
        payload["args"].append("full")
        payload["custom"]["tags"].append("y")
        payload["custom"]["new"] = True
        return call_next()

    resize.perform_async(*row)
    resize.set(queue="low").perform_async(*row)
    resize.perform_bulk([row, row])
    assert [job["args"] for job in server.jobs] == [[1, "full"]] * 4
    assert [job["custom"] for job in server.jobs] == [{"tags": ["x", "y"], "new": True}] * 4
    assert row == [1]
    client_middleware.clear()
    resize.perform_async(1)
    assert server.jobs[-1]["custom"] == {"tags": ["x"]}


def test_a_stopped_push_returns_the_value_of_the_middleware(server: FakeServer) -> None:
    client_middleware.add(lambda payload, call_next: None)
    for push in (
        resize.perform_async,
        lambda *args: resize.perform_in(60, *args),
        lambda *args: resize.perform_at("2100-01-02T00:00:00Z", *args),
    ):
        assert push(1) is None
    client_middleware.prepend(lambda payload, call_next: call_next() or "stopped")
    assert resize.perform_async(1) == "stopped"
    assert server.opened == []


def test_wrong_arguments_do_not_reach_the_middleware(
    server: FakeServer, seen: list[Payload]
) -> None:
    with pytest.raises(TypeError):
        resize.perform_async()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        resize.perform_bulk([(1,), ()])
    assert seen == []


def test_an_error_of_a_push_passes_the_middleware(server: FakeServer) -> None:
    caught: list[Exception] = []

    @client_middleware.add
    def watch(payload: Payload, call_next: Next) -> Any:
        try:
            return call_next()
        except FaktoryServerError as error:
            caught.append(error)
            raise

    server.refuse = lambda job: "no more room"
    with pytest.raises(FaktoryServerError, match="no more room"):
        resize.perform_async(1)
    assert len(caught) == 1


def test_a_wrong_change_by_a_middleware_is_refused_by_field(server: FakeServer) -> None:
    @client_middleware.add
    def spoil(payload: Payload, call_next: Next) -> Any:
        payload["queue"] = "a b"
        return call_next()

    with pytest.raises(FaktoryPayloadError, match="queue is 'a b'"):
        resize.perform_async(1)
    assert server.opened == []


def test_a_class_and_an_external_job_pass_the_middleware_too(
    server: FakeServer, seen: list[Payload]
) -> None:
    class Work(faktory.Job):
        def perform(self) -> None: ...

    Work.perform_async()
    Work.perform_bulk([()])
    faktory.external("Other").perform_async()
    assert [payload["jobtype"] for payload in seen] == ["Work", "Work", "Other"]


def test_a_push_by_a_client_passes_no_middleware(server: FakeServer, seen: list[Payload]) -> None:
    with faktory.Client("tcp://fake:1") as client:
        client.push({"jobtype": "resize", "args": []})
    assert len(server.jobs) == 1
    assert seen == []


# Bulk pushes


def test_each_job_of_a_bulk_passes_the_middleware(server: FakeServer, seen: list[Payload]) -> None:
    jids = resize.perform_bulk((number,) for number in range(BULK_CHUNK + 1))
    assert seen == server.jobs
    assert server.sizes == [BULK_CHUNK, 1]
    assert [payload["jid"] for payload in seen] == jids
    assert [payload["args"] for payload in seen] == [[n] for n in range(BULK_CHUNK + 1)]


def test_each_job_of_a_bulk_may_be_changed(server: FakeServer) -> None:
    @client_middleware.add
    def change(payload: Payload, call_next: Next) -> Any:
        payload["jid"] = f"image-{payload['args'][0]:03}"
        payload["queue"] = "odd" if payload["args"][0] % 2 else "even"
        jid = call_next()
        assert jid == payload["jid"]
        return jid

    assert resize.perform_bulk([(1,), (2,)]) == ["image-001", "image-002"]
    assert [job["queue"] for job in server.jobs] == ["odd", "even"]


@pytest.mark.parametrize("many", [False, True])
def test_a_change_after_the_push_comes_too_late(server: FakeServer, many: bool) -> None:
    @client_middleware.add
    def for_the_push_alone(payload: Payload, call_next: Next) -> Any:
        payload["custom"]["trace"] = "now"
        try:
            return call_next()
        finally:
            del payload["custom"]["trace"]
            payload["custom"]["tags"].clear()
            payload["args"].clear()
            payload["queue"] = "late"

    if many:
        resize.perform_bulk([(1,)])
    else:
        resize.perform_async(1)
    (job,) = server.jobs
    assert (job["queue"], job["args"]) == ("images", [1])
    assert job["custom"] == {"tags": ["x"], "trace": "now"}


def test_stopped_jobs_of_a_bulk_are_left_out(server: FakeServer) -> None:
    @client_middleware.add
    def stop(payload: Payload, call_next: Next) -> Any:
        return call_next() if payload["args"][0] % 2 else None

    jids = resize.perform_bulk((number,) for number in range(5))
    assert [job["args"] for job in server.jobs] == [[1], [3]]
    assert [job["jid"] for job in server.jobs] == jids


def test_a_bulk_whose_jobs_are_all_stopped_opens_no_connection(server: FakeServer) -> None:
    client_middleware.add(lambda payload, call_next: None)
    assert resize.perform_bulk((number,) for number in range(BULK_CHUNK + 5)) == []
    assert server.opened == []


def spoil_one(number: int) -> None:
    """Add a middleware that puts a value that is not JSON into one job."""

    @client_middleware.add
    def spoil(payload: Payload, call_next: Next) -> Any:
        if payload["args"][0] == number:
            payload["custom"]["when"] = datetime.now(UTC)
        return call_next()


def test_a_wrong_value_in_the_first_chunk_is_raised_before_anything_is_sent(
    server: FakeServer,
) -> None:
    spoil_one(7)
    with pytest.raises(FaktoryPayloadError, match=r"\[7\].*custom.*when"):
        resize.perform_bulk((number,) for number in range(10))
    assert server.opened == []


def test_a_wrong_field_in_the_first_chunk_is_raised_before_anything_is_sent(
    server: FakeServer,
) -> None:
    @client_middleware.add
    def spoil(payload: Payload, call_next: Next) -> Any:
        if payload["args"][0] == 7:
            payload["queue"] = "a b"
        return call_next()

    with pytest.raises(FaktoryPayloadError, match=r"\[7\].*queue.*'a b'"):
        resize.perform_bulk((number,) for number in range(10))
    assert server.opened == []


def test_a_wrong_value_in_a_later_chunk_is_raised_with_the_jids_that_were_sent(
    server: FakeServer,
) -> None:
    spoil_one(BULK_CHUNK + 7)
    with pytest.raises(FaktoryBulkError, match=r"custom.*when") as caught:
        resize.perform_bulk((number,) for number in range(BULK_CHUNK + 10))
    assert caught.value.jids == [job["jid"] for job in server.jobs]
    assert len(caught.value.jids) == BULK_CHUNK
    assert caught.value.unknown == caught.value.unsent == []
    assert isinstance(caught.value.__cause__, FaktoryPayloadError)


def test_an_error_of_a_middleware_in_a_later_chunk_has_the_jids_that_were_sent(
    server: FakeServer,
) -> None:
    @client_middleware.add
    def fail(payload: Payload, call_next: Next) -> Any:
        if payload["args"][0] == BULK_CHUNK:
            raise KeyError("no tenant")
        return call_next()

    with pytest.raises(FaktoryBulkError, match="no tenant") as caught:
        resize.perform_bulk((number,) for number in range(BULK_CHUNK + 10))
    assert caught.value.jids == [job["jid"] for job in server.jobs]
    assert len(caught.value.jids) == BULK_CHUNK


def test_row_numbers_count_stopped_jobs_too(server: FakeServer) -> None:
    @client_middleware.add
    def stop(payload: Payload, call_next: Next) -> Any:
        return call_next() if payload["args"][0] >= 10 else None

    rows: list[tuple[Any, ...]] = [(number,) for number in range(BULK_CHUNK)]
    with pytest.raises(FaktoryBulkError, match=rf"from row {BULK_CHUNK} on: rows\[1\]") as caught:
        resize.perform_bulk([*rows, (1000,), ()])
    assert len(caught.value.jids) == BULK_CHUNK - 10


def test_without_added_middleware_a_bulk_is_rendered_from_a_template(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def template(jobtype: str, fields: dict[str, Any]) -> JobTemplate:
        made.append(jobtype)
        return JobTemplate(jobtype, fields)

    monkeypatch.setattr("faktory.jobs.push.JobTemplate", template)
    resize.perform_bulk([(1,), (2,)])
    assert made == ["resize"]
    client_middleware.add(lambda payload, call_next: call_next())
    resize.perform_bulk([(1,), (2,)])
    assert made == ["resize"]
    client_middleware.clear()
    resize.perform_bulk([(1,), (2,)])
    assert made == ["resize", "resize"]
    same = [{**job, "jid": ""} for job in server.jobs]
    assert same[:2] == same[2:4] == same[4:]


def test_the_chains_begin_with_the_built_in_middleware_only() -> None:
    assert list(faktory.client_middleware) == [join_batch]
    assert list(faktory.worker_middleware) == []
