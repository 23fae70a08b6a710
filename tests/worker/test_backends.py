"""Errors that jobs raise in a backend, and how a processor reports and interrupts such jobs."""

from __future__ import annotations

import pickle
import subprocess
import sys
import traceback
from concurrent.futures import BrokenExecutor

import pytest

from faktory.exceptions import Discard, Retry, Shutdown, TimeLimitExceeded
from faktory.jobs.context import JobContext
from faktory.jobs.retries import BURY, DISCARD, FAIL, Policy, Verdict
from faktory.worker.backends.base import RemoteError, make_remote_error
from faktory.worker.interrupts import RunningJob

from .conftest import succeed
from .test_running_job import processor

TEXT = "Traceback (most recent call last):\n  in the job\nValueError: wrong\n"


def test_a_remote_error_has_the_name_the_text_and_the_traceback_of_an_error() -> None:
    error = make_remote_error(("ValueError", "wrong", []), None, TEXT)
    assert isinstance(error, Exception)
    assert not isinstance(error, ValueError)
    assert (type(error).__name__, str(error)) == ("ValueError", "wrong")
    assert "in the job" in "".join(traceback.format_exception(error))
    assert type(error) is type(make_remote_error(("ValueError", "other", []), None, ""))


@pytest.mark.parametrize("own", [Discard, Shutdown, TimeLimitExceeded])
def test_a_remote_error_of_an_exception_that_steers_a_job_is_an_instance_of_it(
    own: type[BaseException],
) -> None:
    error = make_remote_error(("Mine", "enough", []), own.__name__, "")
    assert isinstance(error, own)
    assert isinstance(error, Exception) is issubclass(own, Exception)
    assert (type(error).__name__, str(error)) == ("Mine", "enough")


@pytest.mark.parametrize("own", [None, "Shutdown"])
def test_a_remote_error_survives_pickle(own: str | None) -> None:
    error = make_remote_error(("ValueError", "wrong", ["a line"]), own, TEXT)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.report, str(again), str(again.__cause__)) == (
        error.report,
        "wrong",
        str(error.__cause__),
    )
    assert again.verdict == error.verdict


def test_a_remote_error_has_the_verdict_that_was_made_where_it_was_raised() -> None:
    report = ("RateLimited", "wait", ["a line"])
    verdict = Verdict("again", 60.0, False, "a note")
    error = pickle.loads(pickle.dumps(make_remote_error(report, "Retry", TEXT, verdict)))
    assert isinstance(error, Retry)
    assert isinstance(error, RemoteError)
    assert error.verdict == verdict
    assert make_remote_error(report, None, TEXT).verdict == FAIL
    assert make_remote_error(("Discard", "", []), "Discard", TEXT).verdict == DISCARD


@pytest.mark.parametrize(
    ("error", "verbs"),
    [
        (make_remote_error(("KeyError", "", []), None, ""), ["FAIL"]),
        (make_remote_error(("KeyError", "", []), None, "", BURY), ["FAIL", "MUTATE"]),
        (make_remote_error(("KeyError", "", []), None, "", Verdict("again", 60.0)), ["PUSHB"]),
        (make_remote_error(("KeyError", "", []), None, "", DISCARD), ["ACK"]),
        (BrokenExecutor("a process died"), ["FAIL"]),
        (KeyError("a copy of the error"), ["FAIL", "MUTATE"]),
    ],
)
def test_a_job_is_reported_as_it_was_judged_where_it_ran(
    error: BaseException, verbs: list[str]
) -> None:
    works = processor(succeed)
    works._manager.server_clock.learn(None, 0.0)  # or it would be asked first
    runs = works._manager.runner.find("work")
    runs.policy = Policy((ValueError,), (), None)  # type: ignore[misc]
    works.backend = FailingBackend(error)  # type: ignore[assignment]
    report = works.run_job(JobContext({"jid": "12345678", "jobtype": "work", "args": []}))
    assert report is not None
    assert [command.name for command in report.commands] == verbs


class FailingBackend:
    """A fake backend that fails each job with an error."""

    own_errors = (BrokenExecutor,)

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.interrupts: list[type[BaseException]] = []

    def run(self, task: object, job: JobContext) -> None:
        raise self.error

    def interrupt(self, exception: type[BaseException]) -> float | None:
        self.interrupts.append(exception)
        return 10.0 if len(self.interrupts) == 1 else None

    def kill(self) -> bool:
        return True

    def close(self) -> None: ...


def test_a_job_fails_with_the_report_of_its_backend(caplog: pytest.LogCaptureFixture) -> None:
    works = processor(succeed)
    works.backend = FailingBackend(
        make_remote_error(("ValueError", "wrong", ["a line"]), None, TEXT)
    )
    job = JobContext({"jid": "12345678", "jobtype": "work", "args": [], "backtrace": 5})
    report = works.run_job(job)
    assert report is not None
    assert b'"backtrace":["a line"]' in report.commands[0].data
    assert caplog.records[-1].exc_text is not None
    assert "in the job" in caplog.records[-1].exc_text
    assert "processor.py" not in caplog.records[-1].exc_text


def test_an_interrupt_is_repeated_when_the_job_does_not_end() -> None:
    backend = FailingBackend(make_remote_error(("Shutdown", "stop", []), "Shutdown", ""))
    running = RunningJob(lambda: None, backend)
    running.begin(JobContext({"jid": "12345678", "jobtype": "work", "args": []}))
    assert running.interrupt(Shutdown)
    assert running.due == 10.0
    running.check(9.9)
    running.check(10.0)
    assert running.due is None
    running.end()
    assert backend.interrupts == [Shutdown, Shutdown]


def test_processes_on_a_system_that_cannot_fork_are_an_error_with_a_remedy() -> None:
    """The modules that fork must not be imported for that, so this runs in a process of its own."""
    program = """if True:
        import os, signal
        from faktory import Worker
        for module, name in (os, "fork"), (os, "register_at_fork"), (signal, "SIGKILL"):
            if hasattr(module, name):
                delattr(module, name)
        Worker("tcp://somewhere", use_threads=False)
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ValueError: use_threads=False needs a system that can fork" in ended.stderr
    assert "leave it out" in ended.stderr
