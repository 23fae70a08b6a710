from __future__ import annotations

import gc
import inspect
import json
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from threading import Event, Thread
from types import FrameType
from typing import Any

import pytest

from faktory.exceptions import Discard, Shutdown
from faktory.jobs.context import JobContext, current_job
from faktory.wire.commands import Command
from faktory.worker import executor
from faktory.worker.executor import Slot

Runner = Callable[[JobContext], object]
LOG = logging.getLogger("test.executor")
SILENT = logging.getLogger("test.executor.silent")
SILENT.disabled = True


def unheard(job: JobContext, error: BaseException) -> None:
    """Hear of a job that raised."""


def unlimited() -> None:
    """Hear of a job that has a time limit."""


def payload(**fields: Any) -> JobContext:
    return JobContext({"jid": "12345678", "jobtype": "work", "args": [], **fields})


def run(runner: Runner, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Run one job; return the verb and the content of its report."""
    return said(Slot(LOG, unheard, unlimited).run(payload(**fields), runner))


def said(command: Command[None] | None) -> tuple[str, dict[str, Any]]:
    assert command is not None
    verb, _, text = command.data.decode().partition(" ")
    return verb, json.loads(text)


def raiser(error: BaseException) -> Runner:
    def runner(context: JobContext) -> object:
        raise error

    return runner


# What becomes of a job


def test_a_job_that_returns_is_acknowledged() -> None:
    assert run(lambda context: "anything") == ("ACK", {"jid": "12345678"})


def test_a_job_sees_its_context() -> None:
    seen: list[object] = []
    run(lambda context: seen.append((context.args, current_job().jid)), args=[1])
    assert seen == [([1], "12345678")]


class OfOurOwn(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        SystemExit("wrong"),
        KeyboardInterrupt("wrong"),
        GeneratorExit("wrong"),
        MemoryError("wrong"),
        OfOurOwn("wrong"),
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
        raise OfOurOwn


class Lying(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


@pytest.mark.parametrize("error", [Speechless, Lying])
def test_an_error_whose_text_cannot_be_had_is_reported_all_the_same(error: type[Exception]) -> None:
    verb, failure = run(raiser(error()), backtrace=10)
    assert verb == "FAIL"
    assert failure["errtype"] == error.__name__
    assert "its text cannot be had" in failure["message"]
    assert failure["backtrace"]


def test_text_that_cannot_be_sent_as_it_is_is_sent_as_it_can_be() -> None:
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
    gc.collect()  # a coroutine that was not closed would complain now


def test_start_and_end_are_logged_with_type_and_jid(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(lambda context: None)
    run(raiser(ValueError("wrong")))
    assert caplog.messages[0] == caplog.messages[2] == "work 12345678 start"
    assert caplog.messages[1].startswith("work 12345678 done in 0.")
    assert caplog.messages[3].startswith("work 12345678 fail in 0.")
    assert caplog.messages[3].endswith("ValueError: wrong")


def test_a_level_that_changes_while_jobs_run_counts_from_then_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slot = Slot(LOG, unheard, unlimited)
    for level in (logging.WARNING, logging.INFO, logging.WARNING):
        caplog.set_level(level)
        slot.run(payload(), lambda context: None)
    assert len(caplog.records) == 2


def test_what_is_logged_says_where_it_comes_from(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(lambda context: None)
    lines, first = inspect.getsourcelines(Slot._say)
    for record in caplog.records:
        assert (record.name, record.filename) == (LOG.name, "executor.py")
        assert record.funcName == "_say"
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


def test_a_failed_jobs_variables_are_let_go_at_once() -> None:
    class Large:
        pass

    alive: list[weakref.ref[Large]] = []

    def runner(context: JobContext) -> object:
        large = Large()
        alive.append(weakref.ref(large))
        raise ValueError

    gc.disable()
    try:
        Slot(SILENT, unheard, unlimited).run(payload(backtrace=5), runner)
        assert alive[0]() is None
    finally:
        gc.enable()


# Interrupts


class Running:
    """A slot in a thread of its own that runs jobs one after the other."""

    def __init__(self, *runners: Runner, log: logging.Logger = LOG) -> None:
        self.slot = Slot(log, unheard, unlimited)
        self.reports: list[tuple[str, dict[str, Any]] | None] = []
        self.escaped: list[BaseException] = []
        self.thread = Thread(target=self._run, args=runners)
        self.thread.start()

    def _run(self, *runners: Runner) -> None:
        try:
            for number, runner in enumerate(runners):
                command = self.slot.run(payload(jid=f"{number:08}", args=[number % 50]), runner)
                assert self.slot.context is None
                self.reports.append(None if command is None else said(command))
        except BaseException as error:
            self.escaped.append(error)

    def join(self) -> None:
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert self.escaped == []


def spin(context: JobContext) -> object:
    while True:
        time.sleep(0.001)


def test_an_interrupt_hits_the_job_that_runs_and_no_later_one(
    wait_until: Callable[..., object],
) -> None:
    running = Running(spin, lambda context: "well")
    wait_until(lambda: running.slot.context)
    assert running.slot.interrupt(Shutdown)
    running.join()
    first, second = running.reports
    assert first is not None
    assert first[0] == "FAIL"
    assert (first[1]["jid"], first[1]["errtype"]) == ("00000000", "Shutdown")
    assert second == ("ACK", {"jid": "00000001"})


def test_without_a_job_there_is_nothing_to_interrupt() -> None:
    slot = Slot(LOG, unheard, unlimited)
    assert not slot.interrupt(Shutdown)
    assert slot.disown() is None
    assert said(slot.run(payload(), lambda context: None))[0] == "ACK"
    assert not slot.interrupt(Shutdown)


def test_an_interrupt_that_comes_as_the_job_ends_is_taken_back(
    wait_until: Callable[..., object],
) -> None:
    go_on = Event()
    running = Running(lambda context: go_on.wait(10), lambda context: None)
    slot = running.slot
    wait_until(lambda: slot.context)
    with slot._lock:  # the job's end has to wait for what `interrupt` does under this lock
        go_on.set()
        wait_until(lambda: slot._ending)
        slot._interrupted = True
        executor.raise_in(slot._thread, Shutdown)
    running.join()
    assert [report and report[0] for report in running.reports] == ["ACK", "ACK"]


def test_a_lock_that_an_interrupt_left_taken_is_given_back() -> None:
    slot = Slot(LOG, unheard, unlimited)

    def job(context: JobContext) -> object:
        slot._interrupted = True
        slot._lock.acquire()  # as if struck between this and what would give it back
        raise Shutdown

    assert said(slot.run(payload(), job))[1]["errtype"] == "Shutdown"
    other = threading.Thread(target=slot.interrupt, args=(Shutdown,), daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()


def test_an_interrupt_that_cuts_the_end_of_a_job_short_leaves_nothing_behind() -> None:
    slot = Slot(LOG, unheard, unlimited)

    def cut(frame: FrameType, event: str, arg: object) -> None:
        """Raise where an interrupt would: at the first step of a function."""
        if event == "call" and frame.f_code is Slot._leave.__code__:
            raise Shutdown  # Python takes the profiler away then

    sys.setprofile(cut)
    try:
        report = slot.run(payload(), lambda context: None)
        assert sys.getprofile() is None
    finally:
        sys.setprofile(None)
    assert said(report)[0] == "ACK"
    assert slot.context is None


def test_interrupts_at_any_moment_never_leave_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm of short jobs and interrupts: each job is reported, no interrupt escapes."""
    # One may strike inside a finalizer that happens to run in the job's thread: that only warns.
    monkeypatch.setattr(sys, "unraisablehook", lambda *_: None)

    def give_way(context: JobContext) -> object:
        return [time.sleep(0) for _ in range(context.args[0])]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = Running(*[give_way] * 2000, log=SILENT)
        hits = 0
        while running.thread.is_alive():
            hits += running.slot.interrupt(Shutdown)
    finally:
        sys.setswitchinterval(interval)
    running.join()
    assert len(running.reports) == 2000
    verbs = {report and report[0] for report in running.reports}
    assert verbs == {"ACK", "FAIL"}, hits


def test_a_job_may_catch_an_interrupt_and_end_well(wait_until: Callable[..., object]) -> None:
    def tidy(context: JobContext) -> object:
        try:
            return spin(context)
        except Shutdown:
            return "tidied up"

    running = Running(tidy)
    wait_until(lambda: running.slot.context)
    running.slot.interrupt(Shutdown)
    running.join()
    assert running.reports == [("ACK", {"jid": "00000000"})]


def test_a_closed_slot_fails_the_job_that_comes_too_late() -> None:
    slot = Slot(LOG, unheard, unlimited)
    assert not slot.close(Shutdown)
    ran: list[object] = []
    verb, failure = said(slot.run(payload(), ran.append))
    assert (verb, failure["errtype"]) == ("FAIL", "Shutdown")
    assert ran == []


def test_closing_a_slot_interrupts_the_job_that_runs(wait_until: Callable[..., object]) -> None:
    running = Running(spin, lambda context: None)
    wait_until(lambda: running.slot.context)
    assert running.slot.close(Shutdown)
    running.join()
    assert [report and report[0] for report in running.reports] == ["FAIL", "FAIL"]


def test_a_disowned_job_is_reported_by_nobody_else(
    wait_until: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    go_on = Event()
    running = Running(lambda context: go_on.wait(10))
    wait_until(lambda: running.slot.context)
    job = running.slot.disown()
    assert job is not None
    assert job.jid == "00000000"
    go_on.set()
    running.join()
    assert running.reports == [None]
    assert "too late to be reported" in caplog.text


def test_nothing_is_imported_for_jobs_that_are_not_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "raise_in", lambda *_: pytest.fail("nobody asked for that"))
    assert run(lambda context: None)[0] == "ACK"
