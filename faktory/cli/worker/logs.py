"""The output of `faktory-worker`, as text or as JSON, and the standard streams in JSON.

Rules: in JSON both standard streams hold objects only. Printed lines, warnings and uncaught errors
become objects, too; output that bypasses Python's streams (of C code, of a job's subprocess) does
not. In text a line that begins with a time is one that was logged: whatever a message quotes,
control characters are escaped, and where it has several lines those after the first are indented.
Nothing here raises, waits for long (`writer`), or is longer than MAX_LINE.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any

from ...jobs.context import JobContext
from ...wire.failure import text_of
from ...wire.log import Lines, Log, cut, escape_lines, keep_enabled
from ...worker.logs import is_own, mark_records
from .. import streams, terminal
from .formats import MAX_LINE, MAX_TEXT, TextFormatter, format_json, json_of_job, shown_traceback
from .printing import TextStream
from .writer import Writer

log = Log(logging.getLogger("faktory.command"))


class LineHandler(logging.Handler):
    """Has each record written by the writer of a descriptor; never raises."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._writer = writer_of(descriptor)

    def createLock(self) -> None:
        """Have none: the writer needs none, and a lock might be found held."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> Any:
        """Write a record, unless a filter that was added drops it."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; wait for one of level ERROR, as the process may be about to die."""
        if getattr(record, "seconds", None) is not None:
            _end_lines()
        try:
            line = self.format(record)
        except Exception as error:
            line = self.format(_unwritable(record, error))
        self._writer.put(line, wait=(record.levelno or 0) >= logging.ERROR)

    def write_job(
        self, logger: str, message: str, job: JobContext, event: str, seconds: float | None
    ) -> bool:
        """Write the line of a job, see `worker.logs.LineWriter`."""
        takes_all = self.level <= logging.INFO and not self.filters and is_own(logger)
        own = self.__dict__  # where a program may have put a method of its own
        if not takes_all or "emit" in own or "handle" in own or "format" in own:
            return False
        line = self._job_line(logger, message, job, event, seconds)
        if line is None:
            return False
        if seconds is not None:
            _end_lines()
        self._writer.put(line)
        return True

    def _job_line(
        self,
        logger: str,  # noqa: ARG002
        message: str,
        job: JobContext,  # noqa: ARG002
        event: str,  # noqa: ARG002
        seconds: float | None,  # noqa: ARG002
    ) -> str | None:
        formatter = self.formatter
        return formatter.job_line(message) if type(formatter) is TextFormatter else None

    def flush(self) -> None:
        """Wait until all is written, a second at most."""
        self._writer.wait()


class JsonHandler(LineHandler):
    """Writes records as objects."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
        return format_json(record)

    def _job_line(
        self, logger: str, message: str, job: JobContext, event: str, seconds: float | None
    ) -> str | None:
        return json_of_job(logger, message, job, event, seconds)

    def write(self, line: str, wait: bool = False) -> None:
        """Write a line as it is."""
        self._writer.put(line, wait)


def _unwritable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    what = f"{cut(text_of(record.msg), 1000)!r} of {record.pathname}:{record.lineno}"
    why = f"{type(error).__name__}: {cut(text_of(error), 1000)}"
    return _record(logging.ERROR, f"a record cannot be written: {why}: {what}")


def _record(
    level: int, message: str, name: str = "faktory.log", event: str = "other"
) -> logging.LogRecord:
    record = logging.LogRecord(name, level, "", 0, message, (), None)
    if is_own(name):
        record.event = event
    return record


@cache
def _make_writer(descriptor: int) -> Writer:
    return Writer(descriptor, _say_dropped)


def writer_of(descriptor: int) -> Writer:
    """Return the writer of standard output (1) or error (2): one for both if they are one file."""
    try:
        same = os.path.sameopenfile(1, 2)
    except OSError:
        same = False
    return _make_writer(2 if same else descriptor)


def _say_dropped(count: int, why: str) -> str:
    lines = "line of the log was" if count == 1 else "lines of the log were"
    text = f"{count} {lines} dropped: {why}"
    return _format(_record(logging.WARNING, text, event="dropped_lines"))


class JsonStream(io.TextIOBase):
    """Replaces a standard stream: each line becomes an object, written by `handler`.

    A line that is a JSON object stays as it is: it comes from a log that the program has set up.
    What programs ask of a standard stream is there: the attributes of `io.TextIOWrapper`.
    """

    encoding = "utf-8"
    errors = "backslashreplace"
    mode = "w"
    line_buffering = True
    write_through = False

    def __init__(self, name: str, level: int, handler: JsonHandler, stream: Any) -> None:
        self.name = f"<{name}>"
        self._name = name
        self._level = level
        self._handler = handler
        self._stream = stream
        self.unfinished: dict[int, str] = {}  # by thread
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.unfinished.clear)  # the parent writes it

    @property
    def buffer(self) -> Any:
        """The original stream's buffer, for bytes, which stay as they are."""
        return self._stream.buffer

    def fileno(self) -> int:
        """Return the original stream's descriptor, which a subprocess may inherit."""
        return int(self._stream.fileno())

    def writable(self) -> bool:
        """Return True."""
        return True

    def reconfigure(
        self,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,  # noqa: ARG002
        line_buffering: bool | None = None,
        write_through: bool | None = None,
    ) -> None:
        """Note the settings; they change nothing, as an object of JSON is ASCII, and one line."""
        given = {"encoding": encoding, "errors": errors}
        given |= {"line_buffering": line_buffering, "write_through": write_through}  # type: ignore[dict-item]
        vars(self).update({name: value for name, value in given.items() if value is not None})

    def write(self, text: str) -> int:
        """Write the complete lines; keep the rest until its line is complete."""
        thread = threading.get_ident()
        *lines, rest = (self.unfinished.pop(thread, "") + text).split("\n")
        if rest:
            rest = cut(rest, MAX_TEXT - 100) if len(rest) > MAX_LINE else rest
            self.unfinished[thread] = rest
        for line in lines:
            self._put(line)
        return len(text)

    def flush(self) -> None:
        """Write this thread's unfinished line; wait until all is written, a second at most."""
        self.end_line()
        self._handler.flush()

    def end_line(self) -> None:
        """Write this thread's unfinished line."""
        self._put(self.unfinished.pop(threading.get_ident(), ""))

    def end(self) -> None:
        """Write the unfinished lines of all threads."""
        for thread in list(self.unfinished):
            self._put(self.unfinished.pop(thread, ""))

    def _put(self, line: str) -> None:
        if not line.strip():
            return
        # A process that writes to standard error may be about to die.
        waits = self._level >= logging.WARNING
        if line.startswith("{") and len(line) <= MAX_LINE and (found := _object(line)) is not None:
            self._handler.write(json.dumps(found), waits)
            return
        try:
            make = logging.getLogRecordFactory()
            self._handler.handle(make(self._name, self._level, "", 0, line, (), None))
        except Exception:  # the program's factory, or a filter
            self._handler.emit(_record(self._level, line, self._name))
        if waits:
            self._handler.flush()


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_printed: list[JsonStream | TextStream] = []  # what stands for the standard streams


def _end_lines() -> None:
    """Write what a job of this thread, which has ended, printed last without a line end."""
    for stream in _printed:
        if stream.unfinished:
            stream.end_line()


_format: Callable[[logging.LogRecord], str] = TextFormatter(many=False).format
_json = False
_is_live = False


def configure(log_format: str, level: int = logging.INFO, many: bool = False) -> None:
    """Set up the log and the standard streams; `many`: for one of several processes."""
    global _format, _json, _is_live
    mark_records()
    keep_enabled()
    if log_format != "json":
        handler = LineHandler(2)
        handler.setFormatter(_formatter(many))
        _format = handler.format
        _replace_streams()
        logging.basicConfig(level=level, handlers=[handler])  # nothing if there are others
        if handler in logging.root.handlers:
            run_in_background()
        else:
            _is_live = False
        return
    _json = True
    _format = format_json
    out, error = JsonHandler(1), JsonHandler(2)
    sys.stdout = JsonStream("stdout", logging.INFO, out, sys.__stdout__)
    sys.stderr = JsonStream("stderr", logging.WARNING, error, sys.__stderr__)
    _printed[:] = sys.stdout, sys.stderr
    logging.root.addHandler(error)
    logging.root.setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    run_in_background()


def _formatter(many: bool) -> TextFormatter:
    if not terminal.has_colour(sys.stderr):
        return TextFormatter(many)
    from .live import LiveFormatter

    return LiveFormatter(many)


def _replace_streams() -> None:
    """Have what the program prints go out in whole lines, in order with the log's."""
    global _is_live
    if sys.stderr is not sys.__stderr__ or sys.stderr is None:
        return
    writer = writer_of(2)
    if codec := _codec(sys.stderr):
        writer.encoding = codec
    if terminal.is_live(sys.stderr) and terminal.has_rich():
        _is_live = True
        writer.use_status_line()
    sys.stderr = TextStream(sys.stderr, writer, waits=True)
    _printed[:] = [sys.stderr]
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = TextStream(sys.stdout, writer if writer_of(1) is writer else None)
        _printed.append(sys.stdout)


def _codec(stream: Any) -> str:
    """Return the encoding of a stream, "" if a line end is not one byte of it."""
    try:
        return stream.encoding if "\n".encode(stream.encoding) == b"\n" else ""
    except (AttributeError, TypeError, LookupError, UnicodeError):
        return ""


def live_writer() -> Writer | None:
    """Return the writer of a terminal that can show how a worker is, None if there is none."""
    return writer_of(2) if _is_live else None


def run_in_background() -> None:
    """Have lines written by a thread, and wait for it no more: this process is a worker now.

    Until then a process that was forked waits for each line, since it may end at once.
    """
    for descriptor in _used():
        writer_of(descriptor).run_in_background()


def dropped() -> int:
    """Return how many lines of this process could not be written."""
    return sum(writer.dropped for writer in {writer_of(each) for each in _used()})


def _used() -> tuple[int, ...]:
    return (1, 2) if _json else (2,)


def close() -> bool:
    """Write what is left, for a second at most; return False if a reader does not take it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, JsonStream | TextStream):
            stream.end()
    for descriptor in _used():
        writer_of(descriptor).close()
    return streams.flush(sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)


def show_error(
    message: object, error: BaseException | None = None, level: int = logging.ERROR
) -> None:
    """Write what is wrong to standard error in the log's format, with the traceback of `error`.

    `message` has its text, with which that does not end again.
    """
    if _json:
        about = None if error is None else (type(error), error, error.__traceback__)
        log.log(level, "%s", Lines(message), exc_info=about)
        return
    trace = "" if error is None else shown_traceback(error, error.__traceback__, message=False)
    trace += "\n" * bool(trace)
    word = "warning: " if level == logging.WARNING else ""
    meaning = "warning" if word else "error"
    name = terminal.painted("faktory-worker:", meaning, sys.stderr)
    text = f"{escape_lines(trace)}{name} {escape_lines(f'{word}{message}')}"
    if sys.stderr is sys.__stderr__ or isinstance(sys.stderr, TextStream):
        writer_of(2).put(text, wait=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    log.critical("uncaught %s", _shown(error), exc_info=(kind, error, trace))


def _log_uncaught_in_thread(about: threading.ExceptHookArgs) -> None:
    error = about.exc_value or about.exc_type()
    name = about.thread.name if about.thread else "?"
    trace = (about.exc_type, error, about.exc_traceback)
    log.critical("thread %s ended by %s", name, _shown(error), exc_info=trace)


def _shown(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:
        return f"{type(error).__name__}, whose repr() raises"
