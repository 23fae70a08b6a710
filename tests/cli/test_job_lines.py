"""The two lines that each job logs: without a record they are what they are with one."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from json import loads
from typing import Any

import pytest

from faktory.cli.worker import logs
from faktory.cli.worker.formats import TextFormatter, json_of_job
from faktory.jobs import runner
from faktory.jobs.context import JobContext, run_in
from faktory.jobs.middleware import Chain
from faktory.worker import logs as module
from faktory.worker.logs import JobLog, line_writer, mark_records
from faktory.worker.task import make_task

TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d{3}Z?")


class Lines(list[str]):
    """Takes lines in the place of a `Writer`."""

    def put(self, line: str, wait: bool = False) -> None:
        self.append(line)


class Rig:
    """The logger of jobs with one of our handlers, as `faktory-worker` sets it up."""

    def __init__(self, handler: logs.LineHandler, patch: pytest.MonkeyPatch) -> None:
        self.handler = handler
        self.lines = handler._writer = Lines()  # type: ignore[assignment]
        self.log = logging.getLogger("faktory.worker.job")
        self.records = 0
        """How many were made."""
        patch.setattr(self.log, "handlers", [handler])
        patch.setattr(self.log, "propagate", False)
        patch.setattr(self.log, "level", logging.INFO)
        patch.setattr(logging, "_logRecordFactory", logging.LogRecord)
        mark_records()
        self._count(logging.getLogRecordFactory(), patch)
        logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]

    def _count(self, factory: Any, patch: pytest.MonkeyPatch) -> None:
        mark = factory._mark

        def count(record: logging.LogRecord) -> None:
            self.records += 1
            mark(record)

        patch.setattr(factory, "_mark", count)

    def leave_pytest(self) -> None:
        """Remove the handlers that pytest adds when a test begins."""
        handlers = self.log.handlers
        handlers[:] = [each for each in handlers if "_pytest" not in type(each).__module__]

    def write(
        self,
        *args: object,
        jid: str = "12345678",
        jobtype: str = "work",
        queue: str = "default",
        seconds: float | None = 0.0125,
    ) -> list[str]:
        """Log a line in a job; return it without and with a record, both without their time."""
        job = JobContext({"jid": jid, "jobtype": jobtype, "args": [], "queue": queue})
        lines = JobLog(self.log)
        self.lines.clear()
        self.leave_pytest()
        text = "%s done in %.3f s%s"
        run_in(job, lambda: lines.info("done", text, job, 0.0125, *args, seconds=seconds))
        info = logging.INFO
        run_in(job, lambda: lines.log(info, "done", text, job, 0.0125, *args, seconds=seconds))
        return [TIMES.sub("TIME", line) for line in self.lines]


@pytest.fixture(params=["text", "text, many", "json"])
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    handler = logs.JsonHandler(2) if request.param == "json" else logs.LineHandler(2)
    if request.param != "json":
        handler.setFormatter(TextFormatter(many="many" in request.param))
    yield Rig(handler, monkeypatch)
    logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]


PLAIN = ["", ": Discard: bob", ': "quoted" \\ é 日本 🎈', ": " + "x" * 3000]
ODD = [": a\nb", ": \x1b[2J\u2028\u202e", ": " + "x" * 20_000, ": \udc80"]


@pytest.mark.parametrize("reason", PLAIN)
def test_a_line_without_a_record_is_the_same(rig: Rig, reason: str) -> None:
    quick, slow = rig.write(reason)
    assert quick == slow
    assert rig.records == 1  # the second one's


@pytest.mark.parametrize("reason", ODD)
def test_a_text_to_escape_or_cut_takes_a_record(rig: Rig, reason: str) -> None:
    quick, slow = rig.write(reason)
    assert quick == slow
    assert rig.records == 2


@pytest.mark.parametrize("odd", ["a\nb", "x" * 12_000, "\u202e" * 9, "é" * 200])
def test_odd_names_are_written_as_with_a_record(rig: Rig, odd: str) -> None:
    for names in ({"jid": odd}, {"jobtype": odd}, {"queue": odd}):
        quick, slow = rig.write("", **names)
        assert quick == slow


@pytest.mark.parametrize("seconds", [None, 0.0, 1e-7, 1 / 3, 12345.6789, 1e300])
def test_the_seconds_are_the_same(rig: Rig, seconds: float | None) -> None:
    quick, slow = rig.write("", seconds=seconds)
    assert quick == slow
    assert rig.records == 1


def test_middleware_may_change_what_a_line_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def move(_: JobContext, payload: dict[str, Any], perform: Callable[[], object]) -> object:
        payload.update(queue="other", retry=3)
        return perform()

    chain: Chain[Any] = Chain()
    chain.add(move)
    monkeypatch.setattr(runner, "worker_middleware", chain)
    job = JobContext({"jid": "0001", "jobtype": "work", "args": [], "queue": "one", "retry": 1})
    begun = json_of_job("faktory.worker", "work 0001 start", job, "start", None)
    runner.JobRunner({"work": make_task("work", lambda: None, False)}).run(job)
    ended = json_of_job("faktory.worker", "work 0001 done", job, "done", 1.0)
    lines = [loads(line or "") for line in (begun, ended)]
    found = [(line["queue"], line["retries_remaining"]) for line in lines]
    assert found == [("one", 1), ("other", 3)]


def test_an_odd_name_of_a_thread_is_written_as_with_a_record(rig: Rig) -> None:
    got: list[list[str]] = []
    for name in ("a\nb", "x" * 40_000, 'plain "é"'):
        thread = threading.Thread(target=lambda: got.append(rig.write("")), name=name)
        thread.start()
        thread.join()
    assert len(got) == 3
    assert all(quick == slow for quick, slow in got)


def test_another_name_of_the_level_is_used(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(logging._levelToName, logging.INFO, 'note "!"')
    quick, slow = rig.write("")
    assert quick == slow
    assert "note" in quick


def test_the_time_is_that_of_the_line(rig: Rig) -> None:
    before = int(time.time() * 1000)
    rig.write("")
    found = TIMES.search(rig.lines[0])
    assert found is not None
    shown = datetime.fromisoformat(found[0].replace(",", "."))
    assert before <= round(shown.timestamp() * 1000) <= time.time() * 1000


def add_handler(rig: Rig, _: pytest.MonkeyPatch) -> None:
    rig.log.handlers.append(logging.NullHandler())


def add_handler_above(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rig.log, "propagate", True)
    patch.setattr(logging.getLogger("faktory.worker"), "handlers", [logging.NullHandler()])


def filter_handler(rig: Rig, _: pytest.MonkeyPatch) -> None:
    rig.handler.addFilter(lambda _: True)


def filter_logger(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rig.log, "filters", [lambda _: True])


def wrap_method(_: Rig, patch: pytest.MonkeyPatch) -> None:
    """As Sentry does it."""
    call = logging.Logger.callHandlers
    patch.setattr(logging.Logger, "callHandlers", lambda self, record: call(self, record))


def wrap_emit(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    """As programs do it that color their lines."""
    emit = rig.handler.emit
    patch.setattr(rig.handler, "emit", lambda record: type(rig.handler).emit(rig.handler, record))
    assert rig.handler.emit is not emit


def wrap_factory(_: Rig, patch: pytest.MonkeyPatch) -> None:
    """As OpenTelemetry does it."""
    make = logging.getLogRecordFactory()
    patch.setattr(logging, "_logRecordFactory", lambda *args, **names: make(*args, **names))


def replace_factory_before(_: Rig, patch: pytest.MonkeyPatch) -> None:
    class Record(logging.LogRecord):
        pass

    patch.setattr(logging, "_logRecordFactory", Record)
    mark_records()


def log_no_threads(_: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(logging, "logThreads", False)


@pytest.mark.parametrize(
    "change",
    [
        add_handler,
        add_handler_above,
        filter_handler,
        filter_logger,
        wrap_method,
        wrap_emit,
        wrap_factory,
        replace_factory_before,
        log_no_threads,
    ],
)
def test_where_something_else_sees_records_they_are_made(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, change: Callable[[Rig, pytest.MonkeyPatch], None]
) -> None:
    change(rig, monkeypatch)
    seen: list[logging.LogRecord] = []
    emit = type(rig.handler).emit
    monkeypatch.setattr(
        type(rig.handler), "emit", lambda self, record: (seen.append(record), emit(self, record))
    )
    quick, slow = rig.write("")
    assert quick == slow
    assert len(seen) == 2


def test_another_formatter_of_the_program_is_used(rig: Rig) -> None:
    if isinstance(rig.handler, logs.JsonHandler):
        pytest.skip("a JsonHandler has no formatter")
    rig.handler.setFormatter(logging.Formatter("mine: %(message)s"))
    quick, slow = rig.write("")
    assert quick == slow == "mine: work 12345678 done in 0.013 s"


@pytest.mark.parametrize("where", ["logger", "handler"])
def test_a_level_above_info_silences_the_lines(rig: Rig, where: str) -> None:
    (rig.log if where == "logger" else rig.handler).setLevel(logging.WARNING)
    assert rig.write("") == []


def test_a_handler_of_the_program_gets_records(rig: Rig) -> None:
    """Such as that of a program with a `Worker` of its own."""
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    rig.log.handlers[:] = [handler]
    rig.write("")
    assert line_writer(rig.log) is None
    assert seen == ["work 12345678 done in 0.013 s"] * 2


def test_a_handler_that_raises_loses_no_line(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bool:
        raise MemoryError

    monkeypatch.setattr(logs.LineHandler, "write_job", broken)
    quick, slow = rig.write("")
    assert quick == slow


def test_our_handler_alone_needs_no_records(rig: Rig) -> None:
    rig.leave_pytest()
    assert module._PLAIN is not None
    assert line_writer(rig.log) is rig.handler
