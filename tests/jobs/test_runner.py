"""How a job is found and called; what a worker reports of it is in worker/test_running_job.py."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

import faktory
from faktory.jobs import JobContext, current_job, worker_middleware
from faktory.jobs.registry import UnknownJob
from faktory.jobs.runner import JobRunner

JOB = JobContext({"jid": "12345678", "jobtype": "call", "args": []})
VALUE = ContextVar("VALUE", default="as before")


class Task:
    """A task of a worker: calls a function with the job."""

    origin = "a test"
    time_limit = None

    def __init__(self, function: Callable[[JobContext], object]) -> None:
        self.run = function


@pytest.fixture(autouse=True)
def own_middleware() -> Iterator[None]:
    """Let each test begin without middleware."""
    yield
    worker_middleware.clear()


def run(function: Callable[[JobContext], object], *, middleware: bool = True) -> None:
    JobRunner({"call": Task(function)}, middleware=middleware).run(JOB)


def test_a_task_wins_over_a_declared_job() -> None:
    ran: list[str] = []
    faktory.job(name="call")(lambda: ran.append("declared"))
    tasks = {"call": Task(lambda job: ran.append("task"))}
    runner = JobRunner(tasks)
    runner.run(JOB)
    tasks.clear()
    runner.run(JOB)
    assert ran == ["task", "declared"]


def test_an_unknown_job_is_an_error_with_the_types_of_tasks_and_declared_jobs() -> None:
    faktory.job(name="resize")(lambda: None)
    runner = JobRunner({"greet": Task(print)})
    assert runner.jobtypes == ["greet", "resize"]
    with pytest.raises(UnknownJob, match=r"'call' .* Registered: greet, resize\."):
        runner.run(JOB)
    with pytest.raises(UnknownJob, match="Registered: resize"):
        JobRunner().find("call")


def test_each_job_is_the_current_one_in_a_context_of_its_own() -> None:
    seen: list[tuple[JobContext, str]] = []

    def function(job: JobContext) -> None:
        seen.append((current_job(), VALUE.get()))
        VALUE.set("changed")

    run(function)
    run(function)
    assert seen == [(JOB, "as before")] * 2
    assert VALUE.get() == "as before"
    with pytest.raises(RuntimeError, match="no job runs here"):
        current_job()


@pytest.mark.parametrize("error", [KeyError("lost"), SystemExit(3), faktory.Shutdown()])
def test_an_exception_of_a_job_is_raised_unchanged(error: BaseException) -> None:
    def function(job: JobContext) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run(function)
    assert caught.value is error


@pytest.mark.parametrize("middleware", [True, False])
def test_middleware_runs_around_a_job_unless_the_runner_has_none(middleware: bool) -> None:
    ran: list[str] = []

    @worker_middleware.add
    def around(
        job: JobContext, payload: dict[str, object], call_next: Callable[[], object]
    ) -> None:
        assert job is current_job()
        assert payload is job.payload
        ran.append("before")
        call_next()
        ran.append("after")

    run(lambda job: ran.append("job"), middleware=middleware)
    assert ran == (["before", "job", "after"] if middleware else ["job"])


async def coroutine(job: JobContext) -> None: ...


class Awaitable:
    def __await__(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize("function", [coroutine, lambda job: Awaitable()])
def test_an_awaitable_result_is_an_error(function: Callable[[JobContext], object]) -> None:
    with pytest.raises(TypeError, match=r"which nothing awaits here\. Run it inside the job"):
        run(function)
    gc.collect()  # a coroutine that was not closed would cause a warning now


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (SystemExit(7), 7), (SystemExit(), 0), (SystemExit("text"), 1), (KeyError(), 1)],
)
def test_a_child_that_comes_back_out_of_a_job_ends_with_the_exit_code_of_its_error(
    error: BaseException | None, code: int
) -> None:
    codes: list[int] = []

    def function(job: JobContext) -> None:
        child = os.fork()
        if child:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        elif error is not None:
            raise error

    run(function)
    assert codes == [code]


# Time limits


def limit(custom: object, declared: float | None, default: Any, runners: float | None) -> Any:
    """Return the time limit of a job by what it was pushed with, and so on."""
    task = Task(print)
    task.time_limit = declared  # type: ignore[assignment]
    faktory.default_job_options["time_limit"] = default
    payload = {"jid": "12345678", "jobtype": "call", "args": [], "custom": custom}
    return JobRunner(time_limit=runners).time_limit(task, JobContext(payload))


def test_a_job_has_the_first_time_limit_of_push_declaration_defaults_and_worker() -> None:
    assert limit({"time_limit": 1.5}, 2, 3, 4) == 1.5
    assert limit({"a": 1}, 2, 3, 4) == 2
    assert limit(None, None, timedelta(seconds=3), 4) == 3
    assert limit(None, None, None, 4) == 4
    assert limit({"time_limit": None}, None, None, None) is None


@pytest.mark.parametrize(
    "wrong",
    [0, -5, "30", True, [1], {"seconds": 1}, float("inf"), 10**7, 10**400, 10**5000, "x" * 1000],
    ids=lambda value: str(type(value)),
)
def test_a_wrong_time_limit_of_a_pushed_job_does_not_count(
    wrong: object, caplog: pytest.LogCaptureFixture
) -> None:
    assert limit({"time_limit": wrong}, 2, None, None) == 2
    (message,) = caplog.messages
    assert message.startswith("call 12345678: custom.time_limit is ")
    assert message.endswith(", which is not a time limit: ignored")
    assert len(message) < 250
