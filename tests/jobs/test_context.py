from __future__ import annotations

from contextvars import copy_context
from threading import Thread
from typing import Any

import pytest

from faktory.jobs.context import JobContext, current_job, run_in

PAYLOAD: dict[str, Any] = {
    "jid": "12345678",
    "jobtype": "resize",
    "queue": "images",
    "args": [1, {"a": 2}],
    "custom": {"k": "v"},
}


def test_a_context_tells_what_the_payload_says() -> None:
    job = JobContext(PAYLOAD)
    assert (job.jid, job.jobtype, job.queue) == ("12345678", "resize", "images")
    assert (job.args, job.custom, job.attempt) == ([1, {"a": 2}], {"k": "v"}, 1)
    assert repr(job) == "<job resize 12345678>"


def test_what_a_payload_leaves_out_has_a_sensible_value() -> None:
    job = JobContext({"jid": "12345678", "jobtype": "resize", "args": None, "custom": None})
    assert (job.queue, job.args, job.custom, job.attempt) == ("default", [], {}, 1)


def test_what_a_job_does_to_its_context_does_not_change_it() -> None:
    job = JobContext(PAYLOAD)
    job.args.append(3)
    job.custom["k"] = "changed"
    assert (job.args, job.custom) == (PAYLOAD["args"], {"k": "v"})


@pytest.mark.parametrize(
    ("failure", "attempt"),
    [(None, 1), ({"retry_count": 0}, 2), ({"retry_count": 4, "remaining": 1}, 6), ({"x": 1}, 2)],
)
def test_attempts_are_counted_from_one(failure: object, attempt: int) -> None:
    # The server's count is 0 after the first failure.
    assert JobContext({**PAYLOAD, "failure": failure}).attempt == attempt


def test_outside_a_job_there_is_no_current_one() -> None:
    with pytest.raises(RuntimeError, match="no job runs here"):
        current_job()


def test_the_current_job_is_the_innermost_and_ends_with_it() -> None:
    outer, inner = JobContext(PAYLOAD), JobContext({**PAYLOAD, "jid": "abcdefgh"})
    seen = []

    def run() -> None:
        seen.append(current_job())
        run_in(inner, lambda: seen.append(current_job()))
        seen.append(current_job())

    run_in(outer, run)
    assert seen == [outer, inner, outer]
    with pytest.raises(RuntimeError):
        current_job()


def test_the_current_job_ends_when_it_fails() -> None:
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        run_in(JobContext(PAYLOAD), fail)
    with pytest.raises(RuntimeError):
        current_job()


def test_a_thread_with_a_copied_context_sees_the_job_and_another_does_not() -> None:
    seen: list[object] = []

    def look() -> None:
        try:
            seen.append(current_job().jid)
        except RuntimeError:
            seen.append(None)

    def run() -> None:
        for thread in (Thread(target=copy_context().run, args=(look,)), Thread(target=look)):
            thread.start()
            thread.join()

    run_in(JobContext(PAYLOAD), run)
    assert seen == ["12345678", None]
