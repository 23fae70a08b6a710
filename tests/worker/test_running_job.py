"""How a processor runs one job, what it reports of it, and how the job is interrupted."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from threading import Thread
from types import FrameType
from typing import Any

import pytest

from faktory.exceptions import Discard, Shutdown
from faktory.jobs.context import JobContext, current_job, reservation_clock
from faktory.worker import interrupts
from faktory.worker.delivery import Delivery
from faktory.worker.interrupts import RunningJob
from faktory.worker.logs import JobLog
from faktory.worker.processor import Processor

from .conftest import Held, WaitUntil, end_reservation, make_manager, spin, succeed

Runner = Callable[[JobContext], object]
LOG = logging.getLogger("test.processors")
SILENT = logging.getLogger("test.silent_processors")
SILENT.getChild("job").disabled = True


class Runs:
    """Runs each job by the next of its functions, called with the job."""

    origin = "a test"
    time_limit = None
    policy = None
    exhausted_handlers = ()
    is_async = False

    def __init__(self, *functions: Runner) -> None:
        self.functions = list(functions)

    def run(self, job: JobContext) -> object:
        return self.functions.pop(0)(job)


def processor(*functions: Runner, log: logging.Logger = LOG) -> Processor:
    """A processor, not started, whose jobs are run by these functions."""
    return make_manager({"work": Runs(*functions)}, log).make_processor("faktory-1")


def payload(**fields: Any) -> JobContext:
    return JobContext({"jid": "12345678", "jobtype": "work", "args": [], **fields})


def run(runner: Runner, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Run one job; return the verb and the content of its report."""
    return parsed(processor(runner).run_job(payload(**fields)))


def parsed(delivery: Delivery | None) -> tuple[str, dict[str, Any]]:
    assert delivery is not None
    (command,) = delivery.commands
    verb, _, text = command.data.decode().partition(" ")
    return verb, json.loads(text)


def raiser(error: BaseException) -> Runner:
    def runner(context: JobContext) -> object:
        raise error

    return runner


# What is reported


def test_a_job_that_returns_is_acknowledged() -> None:
    assert run(lambda context: "anything") == ("ACK", {"jid": "12345678"})


def test_a_job_sees_its_context() -> None:
    seen: list[object] = []
    run(lambda context: seen.append((context.args, current_job().jid)), args=[1])
    assert seen == [([1], "12345678")]


class OwnError(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        SystemExit("wrong"),
        KeyboardInterrupt("wrong"),
        GeneratorExit("wrong"),
        MemoryError("wrong"),
        OwnError("wrong"),
        ExceptionGroup("wrong", [ValueError("inner")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_job_that_raises_anything_fails_with_it(error: BaseException) -> None:
    verb, failure = run(raiser(error))
    assert verb == "FAIL"
    assert (failure["jid"], failure["errtype"]) == ("12345678", type(error).__name__)
    assert "wrong" in failure["message"]
    assert failure["backtrace"] == []


class Speechless(Exception):
    def __str__(self) -> str:
        raise OwnError


class Lying(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


@pytest.mark.parametrize("error", [Speechless, Lying])
def test_an_error_whose_text_cannot_be_read_is_reported(error: type[Exception]) -> None:
    verb, failure = run(raiser(error()), backtrace=10)
    assert verb == "FAIL"
    assert failure["errtype"] == error.__name__
    assert "its text cannot be had" in failure["message"]
    assert failure["backtrace"]


class Raises(BaseException):
    pass


class Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise Raises(name)
        return type.__getattribute__(cls, name)


class NamelessError(Exception, metaclass=Nameless):
    pass


class ClasslessError(Exception):
    @property
    def __class__(self) -> Any:
        raise Raises("class")


HOSTILE = {"NamelessError": NamelessError, "ClasslessError": ClasslessError}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_error_whose_own_methods_raise_is_reported_and_logged_with_its_message(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    handler = logging.StreamHandler(sys.stdout)
    LOG.addHandler(handler)
    LOG.propagate = False
    try:
        verb, failure = run(raiser(HOSTILE[name]("own message")), backtrace=10)
    finally:
        LOG.removeHandler(handler)
        LOG.propagate = True
    assert (verb, failure["errtype"], failure["message"]) == ("FAIL", name, "own message")
    assert failure["backtrace"]
    assert f"{name}: own message" in capsys.readouterr().out


def test_the_message_of_a_failure_is_escaped_and_cut() -> None:
    _, failure = run(raiser(ValueError("\ud800 and \0 and é" * 500)))
    assert failure["message"].startswith("\\ud800 and \0 and é")
    assert len(failure["message"].encode()) <= 1000


@pytest.mark.parametrize(("asked", "lines"), [(None, 0), (0, 0), (2, 2), (1000, 50)])
def test_a_failure_has_as_many_lines_of_traceback_as_the_job_asks_for(
    asked: int | None, lines: int
) -> None:
    def ping(depth: int) -> None:
        pong(depth - 1)

    def pong(depth: int) -> None:  # two functions, since Python folds the lines of one
        if depth < 0:
            raise ValueError("deep down")
        ping(depth - 1)

    _, failure = run(lambda context: ping(60), backtrace=asked)
    assert len(failure["backtrace"]) == lines
    if lines:
        assert failure["backtrace"][-1] == "ValueError: deep down"


def test_a_discarded_job_is_acknowledged_and_its_reason_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    assert run(raiser(Discard("nobody needs it"))) == ("ACK", {"jid": "12345678"})
    assert "work 12345678 discarded" in caplog.messages[-1]
    assert caplog.messages[-1].endswith(": nobody needs it")


async def coroutine() -> None: ...


class Awaitable:
    def __await__(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize("make", [coroutine, Awaitable])
def test_a_job_that_returns_an_awaitable_fails(make: Callable[[], object]) -> None:
    verb, failure = run(lambda context: make())
    assert (verb, failure["errtype"]) == ("FAIL", "TypeError")
    assert "nothing awaits" in failure["message"]
    gc.collect()  # a coroutine that was not closed would cause a warning now


def test_start_and_end_are_logged_with_type_and_jid(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(succeed)
    run(raiser(ValueError("wrong")))
    assert [re.sub(r"\d+\.\d{3} s", "N s", message) for message in caplog.messages] == [
        "work 12345678 start",
        "work 12345678 done in N s",
        "work 12345678 start",
        "work 12345678 fail in N s (attempt 1 of 26, runs again in about 30 s): ValueError: wrong",
    ]


def test_a_log_level_may_change_while_jobs_run(caplog: pytest.LogCaptureFixture) -> None:
    works = processor(*[succeed] * 3)
    for level in (logging.WARNING, logging.INFO, logging.WARNING):
        caplog.set_level(level)
        works.run_job(payload())
    assert len(caplog.records) == 2


def test_a_log_record_has_the_place_that_it_comes_from(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(succeed)
    lines, first = inspect.getsourcelines(JobLog.log)
    for record in caplog.records:
        assert (record.name, record.filename) == (f"{LOG.name}.job", "logs.py")
        assert record.funcName == "log"
        assert first <= record.lineno < first + len(lines)


def test_a_failure_is_logged_with_its_traceback_from_the_job_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(raiser(ValueError("wrong")))
    assert caplog.records[-1].exc_text is not None
    lines = caplog.records[-1].exc_text.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert __file__ in lines[1]
    assert lines[-1] == "ValueError: wrong"


def test_the_variables_of_a_failed_job_are_released_at_once() -> None:
    class Large:
        pass

    alive: list[weakref.ref[Large]] = []

    def runner(context: JobContext) -> object:
        large = Large()
        alive.append(weakref.ref(large))
        raise ValueError

    gc.disable()
    try:
        processor(runner, log=SILENT).run_job(payload(backtrace=5))
        assert alive[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (None, "done in"),
        (ValueError("wrong"), "fail in .* ValueError: wrong"),
        (Discard("not needed"), "discarded in .* not needed"),
    ],
)
def test_a_job_that_ends_after_its_reservation_is_not_reported_and_logged_once(
    caplog: pytest.LogCaptureFixture, error: BaseException | None, how: str
) -> None:
    def late(context: JobContext) -> None:
        end_reservation()
        if error is not None:
            raise error

    manager = make_manager({"work": Runs(late)}, LOG)
    handled: list[object] = []
    manager.on_failure = lambda *about: handled.append(about)  # type: ignore[method-assign]
    assert manager.make_processor("faktory-1").run_job(payload(retry=0)) is None
    (record,) = caplog.records
    message = record.getMessage()
    assert record.levelno == logging.WARNING
    assert message.startswith("work 12345678 ended too late")
    assert "has failed it and may give it out again" in message
    assert re.search(how, message)
    assert handled == []


def test_a_reservation_that_was_extended_counts_to_its_new_end() -> None:
    def extended(context: JobContext) -> None:
        end_reservation()
        context.extend(reservation_clock() + 60)

    assert run(extended) == ("ACK", {"jid": "12345678"})


def test_the_job_table_has_the_end_of_the_reservation_when_it_is_extended() -> None:
    written: list[tuple[str, str | None, float]] = []

    class Table:
        def write(self, owner: str, jid: str | None, until: float = 0.0) -> None:
            written.append((owner, jid, until))

    manager = make_manager({"work": Runs(lambda job: job.extend(5.0))}, LOG)
    manager.job_table = Table()
    works = manager.make_processor("faktory-1")
    job = payload()
    ends = job._ends
    manager.record(works, job)
    works.run_job(job)
    manager.record(works, None)
    job.extend(7.0)  # in a thread of the job, after its end
    assert written == [
        ("faktory-1", "12345678", ends),
        ("faktory-1", "12345678", 5.0),
        ("faktory-1", None, 0.0),
    ]


# Interrupts


class Running:
    """A processor that runs its jobs in a thread of its own, one after the other."""

    def __init__(self, *runners: Runner, log: logging.Logger = LOG) -> None:
        self.processor = processor(*runners, log=log)
        self.job: RunningJob = self.processor.running
        self.reports: list[tuple[str, dict[str, Any]] | None] = []
        self.escaped: list[BaseException] = []
        self.thread = Thread(target=self._run, args=(len(runners),))
        self.thread.start()

    def _run(self, count: int) -> None:
        try:
            for number in range(count):
                job = payload(jid=f"{number:08}", args=[number % 50])
                delivery = self.processor.run_job(job)
                assert self.job.job is None
                self.reports.append(delivery and parsed(delivery))
        except BaseException as error:
            self.escaped.append(error)

    def join(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert self.escaped == []


def test_an_interrupt_hits_the_job_that_runs_and_no_later_one(wait_until: WaitUntil) -> None:
    running = Running(spin, succeed)
    wait_until(lambda: running.job.job)
    assert running.job.interrupt(Shutdown)
    running.join()
    first, second = running.reports
    assert first is not None
    assert first[0] == "FAIL"
    assert (first[1]["jid"], first[1]["errtype"]) == ("00000000", "Shutdown")
    assert second == ("ACK", {"jid": "00000001"})


def test_without_a_job_there_is_nothing_to_interrupt() -> None:
    works = processor(succeed)
    assert not works.running.interrupt(Shutdown)
    assert works.running.disown() is None
    assert parsed(works.run_job(payload()))[0] == "ACK"
    assert not works.running.interrupt(Shutdown)


def test_an_interrupt_that_comes_as_the_job_ends_is_absorbed(
    wait_until: WaitUntil, held: Held
) -> None:
    running = Running(held.hold, succeed)
    job = running.job
    wait_until(lambda: job.job)
    with job._lock:  # the job's end has to wait for what `interrupt` does under this lock
        held.release()
        wait_until(lambda: job.ending)
        job._raised = True
        interrupts.raise_in(job._thread, Shutdown)
    running.join()
    assert [report and report[0] for report in running.reports] == ["ACK", "ACK"]


def test_a_lock_that_an_interrupt_left_acquired_is_released() -> None:
    def job(context: JobContext) -> object:
        works.running._raised = True
        works.running._lock.acquire()  # as if interrupted between this and its release
        raise Shutdown

    works = processor(job)
    assert parsed(works.run_job(payload()))[1]["errtype"] == "Shutdown"
    other = threading.Thread(target=works.running.interrupt, args=(Shutdown,), daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()


def test_an_interrupt_in_the_end_of_a_job_does_not_keep_the_job() -> None:
    works = processor(succeed)

    def cut(frame: FrameType, event: str, arg: object) -> None:
        """Raise where an interrupt would: at the first step of a function."""
        if event == "call" and frame.f_code is RunningJob.end.__code__:
            raise Shutdown  # Python removes the profiler then

    sys.setprofile(cut)
    try:
        report = works.run_job(payload())
        assert sys.getprofile() is None
    finally:
        sys.setprofile(None)
    assert parsed(report)[0] == "ACK"
    assert works.running.job is None


@pytest.mark.parametrize("jobs", [500, pytest.param(2000, marks=pytest.mark.soak)])
def test_interrupts_at_any_moment_never_leave_the_job(
    jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many short jobs and interrupts: each job is reported, no interrupt escapes."""
    # One may be raised in a finalizer that happens to run in the job's thread: that only warns.
    monkeypatch.setattr(sys, "unraisablehook", lambda *_: None)

    def give_way(context: JobContext) -> object:
        return [time.sleep(0) for _ in range(context.args[0])]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = Running(*[give_way] * jobs, log=SILENT)
        hits = 0
        while running.thread.is_alive():
            hits += running.job.interrupt(Shutdown)
    finally:
        sys.setswitchinterval(interval)
    running.join()
    assert len(running.reports) == jobs
    outcomes = {report and (report[0], report[1].get("errtype")) for report in running.reports}
    assert outcomes == {("ACK", None), ("FAIL", "Shutdown")}, hits


def test_a_job_may_catch_an_interrupt_and_end_well(wait_until: WaitUntil) -> None:
    def tidy(context: JobContext) -> object:
        try:
            return spin()
        except Shutdown:
            return "tidied up"

    running = Running(tidy)
    wait_until(lambda: running.job.job)
    running.job.interrupt(Shutdown)
    running.join()
    assert running.reports == [("ACK", {"jid": "00000000"})]


def test_a_job_that_comes_after_close_fails() -> None:
    ran: list[object] = []
    works = processor(ran.append)
    assert not works.running.close(Shutdown)
    verb, failure = parsed(works.run_job(payload()))
    assert (verb, failure["errtype"]) == ("FAIL", "Shutdown")
    assert ran == []


def test_close_interrupts_the_running_job(wait_until: WaitUntil) -> None:
    running = Running(spin, succeed)
    wait_until(lambda: running.job.job)
    assert running.job.close(Shutdown)
    running.join()
    assert [report and report[0] for report in running.reports] == ["FAIL", "FAIL"]


def test_a_disowned_job_is_not_reported_by_its_processor(
    wait_until: WaitUntil, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(held.hold)
    wait_until(lambda: running.job.job)
    job = running.job.disown()
    assert job is not None
    assert job.jid == "00000000"
    held.release()
    running.join()
    assert running.reports == [None]
    assert "too late to be reported" in caplog.text


def test_nothing_is_raised_in_a_job_that_is_not_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interrupts, "raise_in", lambda *_: pytest.fail("it was called"))
    assert run(succeed)[0] == "ACK"
