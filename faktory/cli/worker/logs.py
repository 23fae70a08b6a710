"""What `faktory-worker` says, as text or as JSON: one object a line, whoever says it.

Rules: in JSON nothing else comes out on the two standard streams: what is printed, warned about,
or raised and caught by nobody is made an object, too. Only what is written past Python's own
streams is not: by C code, or by a job's subprocess. A line is written whole, in one piece also
where several processes share the stream.
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


class Text(logging.Formatter):
    """Makes a line of text of a record: time, level, process if there are `many`, thread, message.

    By hand, as there are two lines a job: a template of `logging` is a quarter of what one costs.
    """

    def __init__(self, many: bool) -> None:
        super().__init__()
        self._many = many
        self._second = (-1, "")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, without a traceback, which comes after it."""
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


def as_json(record: logging.LogRecord) -> str:
    """Return a record as one line.

    `time` (UTC, ISO 8601), `level`, `logger`, `message`, `process`, `thread`; `jid` and `jobtype`
    inside a job; `exception` with a traceback, `stack`; what was passed as `extra`, by its name.
    """
    made = datetime.fromtimestamp(record.created, UTC)
    said: dict[str, Any] = {
        "time": made.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        "process": record.process,
        "thread": record.threadName,
    }
    if jid := getattr(record, "jid", ""):
        said.update(jid=jid, jobtype=getattr(record, "jobtype", ""))
    if record.exc_info:
        said["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    if record.stack_info:
        said["stack"] = record.stack_info
    others = vars(record).items()
    extra = {name: value for name, value in others if name not in _OWN and name not in said}
    try:
        return _encode(said | extra)
    except (ValueError, TypeError):  # NaN, keys that are no text, a list that holds itself
        return _encode(said | {name: repr(value) for name, value in extra.items()})


class JsonHandler(logging.Handler):
    """Writes records to a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as one line, or say on standard error what is wrong with it."""
        try:
            self.write(as_json(record))
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def write(self, line: str) -> None:
        """Write a line of ASCII."""
        data = f"{line}\n".encode("ascii", "backslashreplace")
        try:
            _take_turn(True)
            while data:
                data = data[os.write(self._descriptor, data) :]
        finally:
            _take_turn(False)


class Lines(io.TextIOBase):
    """Stands in for a standard stream: each line comes out as an object, by `handler`.

    A line that is a JSON object passes as it is: it is of a log that the program has set up.
    """

    def __init__(self, name: str, level: int, handler: JsonHandler, stream: Any) -> None:
        self._name = name
        self._level = level
        self._handler = handler
        self._stream = stream
        self._begun = threading.local()

    encoding = "utf-8"
    errors = "backslashreplace"

    @property
    def buffer(self) -> Any:
        """The stream beneath, for bytes, which pass as they are."""
        return self._stream.buffer

    def fileno(self) -> int:
        """Return the descriptor beneath, which a subprocess may inherit."""
        return int(self._stream.fileno())

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write the lines that are complete; keep the rest until it is."""
        *lines, rest = (getattr(self._begun, "text", "") + text).split("\n")
        self._begun.text = rest
        for line in lines:
            self._put(line)
        return len(text)

    def flush(self) -> None:
        """Write what this thread has begun, without waiting for the end of its line."""
        rest = getattr(self._begun, "text", "")
        self._begun.text = ""
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


def share() -> None:
    """Have processes that are forked from now on take turns in writing."""
    global _lock
    # A file that only these processes have, to lock: a lock of fcntl is a process's own, so it
    # ends with its process, however that ends.
    with TemporaryFile() as file:
        _lock = os.dup(file.fileno())


def _take_turn(begins: bool) -> None:
    if _lock is not None:
        import fcntl

        fcntl.lockf(_lock, fcntl.LOCK_EX if begins else fcntl.LOCK_UN)


_json = False


def start(log_format: str) -> None:
    """Say everything from now on in this format."""
    global _json
    if log_format != "json" or _json:
        return
    _json = True
    out, error = JsonHandler(1), JsonHandler(2)
    out.lock = error.lock  # both may be one pipe
    sys.stdout = Lines("stdout", logging.INFO, out, sys.__stdout__)
    sys.stderr = Lines("stderr", logging.WARNING, error, sys.__stderr__)
    logging.root.addHandler(error)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def configure(verbose: bool, many: bool) -> None:
    """Set up the log, for one of `many` processes or the only one."""
    mark_records()
    level = logging.DEBUG if verbose else logging.INFO
    if _json:
        logging.root.setLevel(level)
        return
    handler = logging.StreamHandler()
    handler.setFormatter(Text(many))
    logging.basicConfig(level=level, handlers=[handler])


def complain(fault: object, error: BaseException | None = None, level: int = logging.ERROR) -> None:
    """Say what is wrong, with the traceback of an error that is the user's."""
    if _json:
        about = None if error is None else (type(error), error, error.__traceback__)
        log.log(level, "%s", fault, exc_info=about)
        return
    if error is not None:
        traceback.print_exception(error)
    word = "warning: " if level == logging.WARNING else ""
    print(f"faktory-worker: {word}{fault}", file=sys.stderr, flush=True)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("nobody caught %r", error, exc_info=(kind, error, trace))


def _uncaught_in_thread(about: threading.ExceptHookArgs) -> None:
    error = about.exc_value or about.exc_type()
    name = about.thread.name if about.thread else "?"
    trace = (about.exc_type, error, about.exc_traceback)
    log.critical("thread %s ended by %r", name, error, exc_info=trace)
