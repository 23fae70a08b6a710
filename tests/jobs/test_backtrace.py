"""The backtrace in the report of a failed job; wire/test_failure.py tests how it is cut."""

from __future__ import annotations

from typing import Any

import pytest

import faktory
from faktory.jobs import Next, registry, worker_middleware
from faktory.jobs.context import JobContext
from faktory.jobs.runner import JobRunner
from faktory.wire.failure import describe


def load() -> None:
    try:
        {}["rows"]
    except KeyError as missing:
        raise ValueError("bad input") from missing


def test_a_backtrace_has_the_cause_of_a_failure_with_middleware_around_the_job() -> None:
    @faktory.job
    def import_rows() -> None:
        load()

    @worker_middleware.add
    def timed(job: JobContext, payload: dict[str, Any], call_next: Next) -> Any:
        return call_next()

    found = registry.find("import_rows")
    assert found is not None
    context = JobContext({"jid": "12345678", "jobtype": "import_rows", "args": []})
    try:
        with pytest.raises(ValueError, match="bad input") as caught:
            JobRunner().call(found, context)
    finally:
        worker_middleware.remove(timed)
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)  # type: ignore[union-attr]
    backtrace = describe(error, backtrace=20)[2]
    assert "KeyError: 'rows'" in backtrace
    assert "ValueError: bad input" in backtrace
    assert [line.split()[-1] for line in backtrace if line.startswith("  File")] == [
        "load",
        "timed",
        "import_rows",
        "load",
    ]
