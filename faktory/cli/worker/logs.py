"""The output of `faktory-worker`, as text or as JSON: one object a line.

Rules: in JSON both standard streams hold objects only. Printed lines, warnings and uncaught errors
become objects, too; output that bypasses Python's streams (of C code, of a job's subprocess) does
not. A line of JSON is never interleaved with another, also if several processes share the stream.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from tempfile import TemporaryFile
from time import localtime, strftime
from types import TracebackType
from typing import Any, Final

from ...worker.logs import mark_records

log = logging.getLogger("faktory.command")

_OWN: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "job", "jid", "jobtype"}

_encode: Final = json.JSONEncoder(default=repr, allow_nan=False).encode


class TextFormatter(logging.Formatter):
    """Writes time, level, process if there are `many`, thread, and message.

    By hand, as each job logs two lines: a template of `logging` takes a quarter of a line's time.
    """

    def __init__(self, many: bool) -> None:
        super().__init__()
        self._many = many
        self._second = (-1, "")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback comes after it."""
        second, time = self._second
        if second != int(record.created):
            second = int(record.created)
            time = strftime("%Y-%m-%d %H:%M:%S", localtime(second))
            self._second = second, time
        process = f"{record.process} " if self._many else ""
        job = getattr(record, "job", "")
        return (
            f"{time},{int(record.msecs):03} {record.levelname} {process}{record.threadName} "
            f"{job}{record.message}"
        )


def format_json(record: logging.LogRecord) -> str:
    """Return a record as one line of JSON.

    Its keys: `time` (UTC, ISO 8601), `level`, `logger`, `message`, `process`, `thread`; inside a
    job `jid` and `jobtype`; `exception` (a traceback) and `stack`; and the names in `extra`.
    """
    created = datetime.fromtimestamp(record.created, UTC)
    fields: dict[str, Any] = {
        "time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        "process": record.process,
        "thread": record.threadName,
    }
    if jid := getattr(record, "jid", ""):
        fields.update(jid=jid, jobtype=getattr(record, "jobtype", ""))
    if record.exc_info:
        fields["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    if record.stack_info:
        fields["stack"] = record.stack_info
    others = vars(record).items()
    extra = {name: value for name, value in others if name not in _OWN and name not in fields}
    try:
        return _encode(fields | extra)
    except (ValueError, TypeError):  # NaN, keys that are not strings, a list that contains itself
        return _encode(fields | {name: repr(value) for name, value in extra.items()})


class JsonHandler(logging.Handler):
    """Writes records to a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as one line, or to standard error why it cannot be written."""
        try:
            self.write(format_json(record))
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def write(self, line: str) -> None:
        """Write a line of ASCII."""
        data = f"{line}\n".encode("ascii", "backslashreplace")
        try:
            _lock_streams(True)
            while data:
                data = data[os.write(self._descriptor, data) :]
        finally:
            _lock_streams(False)


class JsonStream(io.TextIOBase):
    """Replaces a standard stream: each line becomes an object, written by `handler`.

    A line that is a JSON object stays as it is: it comes from a log that the program has set up.
    """

    def __init__(self, name: str, level: int, handler: JsonHandler, stream: Any) -> None:
        self._name = name
        self._level = level
        self._handler = handler
        self._stream = stream
        self._unfinished = threading.local()

    encoding = "utf-8"
    errors = "backslashreplace"

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

    def write(self, text: str) -> int:
        """Write the complete lines; keep the rest until its line is complete."""
        *lines, rest = (getattr(self._unfinished, "text", "") + text).split("\n")
        self._unfinished.text = rest
        for line in lines:
            self._put(line)
        return len(text)

    def flush(self) -> None:
        """Write this thread's unfinished line."""
        rest = getattr(self._unfinished, "text", "")
        self._unfinished.text = ""
        self._put(rest)

    def _put(self, line: str) -> None:
        if not line.strip():
            return
        if line.startswith("{") and _is_object(line):
            self._handler.write(json.dumps(json.loads(line)))
            return
        make = logging.getLogRecordFactory()
        self._handler.handle(make(self._name, self._level, "", 0, line, (), None))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


_lock: int | None = None
_json = False


def share() -> None:
    """Have the processes that are forked from now on take turns in writing JSON."""
    global _lock
    # A file that only these processes have, to lock: a lock of fcntl belongs to a process, so it
    # is released when its process ends, however that happens.
    with TemporaryFile() as file:
        _lock = os.dup(file.fileno())


def _lock_streams(locked: bool) -> None:
    if _lock is not None:
        import fcntl

        fcntl.lockf(_lock, fcntl.LOCK_EX if locked else fcntl.LOCK_UN)


def configure(log_format: str, verbose: bool = False, many: bool = False) -> None:
    """Set up the log, and for JSON the standard streams; `many`: for one of several processes."""
    global _json
    mark_records()
    level = logging.DEBUG if verbose else logging.INFO
    if log_format != "json":
        handler = logging.StreamHandler()
        handler.setFormatter(TextFormatter(many))
        logging.basicConfig(level=level, handlers=[handler])
        return
    _json = True
    out, error = JsonHandler(1), JsonHandler(2)
    out.lock = error.lock  # both may be one pipe
    sys.stdout = JsonStream("stdout", logging.INFO, out, sys.__stdout__)
    sys.stderr = JsonStream("stderr", logging.WARNING, error, sys.__stderr__)
    logging.root.addHandler(error)
    logging.root.setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def show_error(
    message: object, error: BaseException | None = None, level: int = logging.ERROR
) -> None:
    """Write what is wrong to standard error in the log's format, with the traceback of `error`."""
    if _json:
        about = None if error is None else (type(error), error, error.__traceback__)
        log.log(level, "%s", message, exc_info=about)
        return
    if error is not None:
        traceback.print_exception(error)
    word = "warning: " if level == logging.WARNING else ""
    print(f"faktory-worker: {word}{message}", file=sys.stderr, flush=True)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    log.critical("uncaught %r", error, exc_info=(kind, error, trace))


def _log_uncaught_in_thread(about: threading.ExceptHookArgs) -> None:
    error = about.exc_value or about.exc_type()
    name = about.thread.name if about.thread else "?"
    trace = (about.exc_type, error, about.exc_traceback)
    log.critical("thread %s ended by %r", name, error, exc_info=trace)
