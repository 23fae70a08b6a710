"""Lines of the log, as text or as a JSON object: of a record, or of a job without one.

Rules: a job's line without a record is the same as with one. What a line quotes is escaped, and cut
where it is long; a line of JSON is not longer than MAX_LINE.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from threading import current_thread
from time import localtime, strftime, time
from types import TracebackType
from typing import Any, Final

from ...jobs.context import JobContext
from ...wire.log import cut, escape, escape_lines
from ...worker.logs import is_own

MAX_TEXT: Final = 32_768
"""Characters of a message, of a traceback or of another value; the middle of more is cut."""

MAX_LINE: Final = 131_072
"""Characters of a line of JSON; where it would have more, its values are cut shorter."""

_OWN: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "job", "jid", "jobtype"}

_MAX_PLAIN: Final = 4096
"""Characters of a text that needs no record to be cut."""

_encode: Final = json.JSONEncoder(default=repr, allow_nan=False).encode


class TextFormatter(logging.Formatter):
    """Writes time, level, process if there are `many`, thread, and message.

    By hand, as each job logs two lines: a template of `logging` takes a quarter of a line's time.
    """

    def __init__(self, many: bool) -> None:
        super().__init__()
        self._many = many
        self._second = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback comes after it."""
        job = getattr(record, "job", "")
        text = f"{record.threadName} {job}{record.getMessage()}"
        if not text.isprintable() or len(text) > MAX_TEXT:
            text = indented(escape_lines(cut(text, MAX_TEXT)))
        line = self._line(int(record.created), record.msecs, record.levelname, record.process, text)
        for more in more_lines(record):
            line += "\n" + _LIKE_A_LINE.sub("    ", escape_lines(cut(more, MAX_TEXT)))
        return line

    def job_line(self, message: str) -> str | None:
        """Return a job's line, written at INFO by this thread now; None: a record is needed."""
        text = f"{current_thread().name} {message}"
        if not is_plain(text):
            return None
        now = time()
        level = logging.getLevelName(logging.INFO)
        return self._line(int(now), now % 1 * 1000, level, _process, text)

    def _line(self, second: int, msecs: float, level: str, process: int | None, text: str) -> str:
        known, shown = self._second
        if known != second:
            shown = strftime("%Y-%m-%d %H:%M:%S", localtime(second))
            self._second = second, shown
        many = f"{process} " if self._many else ""
        return f"{shown},{int(msecs):03} {level} {many}{text}"


_process = os.getpid()  # to ask for it is a call of the system for each line


def _note_process() -> None:
    global _process
    _process = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_process)


_LIKE_A_LINE: Final = re.compile(r"^(?=\d{4}-\d\d-\d\d )", re.M)
_CONTINUED: Final = re.compile(r"\n(?=\S)")
_REMOTE: Final = ("RemoteTraceback", "_RemoteTraceback")
"""Exceptions whose text is a traceback of another process: ours, and of `concurrent.futures`."""


def indented(text: str) -> str:
    """Return a text whose lines after the first one are indented."""
    return _CONTINUED.sub("\n    ", text)


def more_lines(record: logging.LogRecord) -> Iterator[str]:
    """Yield what follows a record's message: its traceback, and its stack."""
    if record.exc_info and record.exc_info[1] is not None:
        yield shown_traceback(record.exc_info[1], record.exc_info[2])
    elif record.exc_text:
        yield record.exc_text
    elif record.exc_info:
        yield "NoneType: None"
    if record.stack_info:
        yield record.stack_info


def shown_traceback(error: BaseException, trace: TracebackType | None, message: bool = True) -> str:
    """Return a traceback in which the text of each exception is one line.

    Without `message` it ends before that of the error, which is said elsewhere.
    """
    shown = [traceback.TracebackException(type(error), error, trace)]
    for each in shown:  # which grows
        text = getattr(each, "_str", None)  # where the text stands since Python 3.5
        if isinstance(text, str):
            remote = _name_of_type(each) in _REMOTE
            each._str = indented(text) if remote else escape(text)  # type: ignore[attr-defined]
        inner = (each.__cause__, each.__context__, *(each.exceptions or ()))
        shown += [other for other in inner if other is not None]
    lines = list(shown[0].format())
    ends = lines[-1:] == list(shown[0].format_exception_only())[-1:]  # not of a group, indented
    if ends and not message and not hasattr(error, "__notes__"):
        lines.pop()
    return "".join(lines).removesuffix("\n")


def _name_of_type(shown: traceback.TracebackException) -> str:
    if sys.version_info >= (3, 13):  # where exc_type is deprecated
        return (shown.exc_type_str or "").rpartition(".")[2]
    return getattr(shown.exc_type, "__name__", "")


def format_json(record: logging.LogRecord) -> str:
    """Return a record as one line of JSON.

    Its keys: `time` (UTC, ISO 8601), `level`, `logger`, `message`, `process`, `thread`; inside a
    job `jid` and `jobtype`; `exception` (a traceback) and `stack`; and the names in `extra`, which
    of this package's own records are `event` and those of `texts.fields_of`.
    """
    fields: dict[str, Any] = {
        "time": f"{_utc(int(record.created))}.{int(record.msecs):03}Z",
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        "process": record.process,
        "thread": record.threadName,
    }
    if is_own(record.name):
        fields["event"] = getattr(record, "event", "other")
    if jid := getattr(record, "jid", ""):
        fields.update(jid=jid, jobtype=getattr(record, "jobtype", ""))
    if record.exc_info:
        fields["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    if record.stack_info:
        fields["stack"] = record.stack_info
    others = vars(record).items()
    extra = {name: value for name, value in others if name not in _OWN and name not in fields}
    try:
        line = _encode(fields | extra if extra else fields)
        if len(line) <= MAX_TEXT:  # so none of its values has more
            return line
        line = _encode(_cut_texts(fields | extra, MAX_TEXT))
    except (ValueError, TypeError, RecursionError):
        # NaN, keys that are not strings, a list that contains itself
        extra = {name: repr(value) for name, value in extra.items()}
        line = _encode(_cut_texts(fields | extra, MAX_TEXT))
    if len(line) > MAX_LINE:
        extra = {name: repr(value) for name, value in extra.items()}
        line = _encode(_cut_texts(fields | extra, 1024))
    return line if len(line) <= MAX_LINE else _encode(_cut_texts(fields, 1024))


def json_of_job(
    logger: str, message: str, job: JobContext, event: str, seconds: float | None
) -> str | None:
    """Return a job's line, written at INFO by this thread now; None: a record is needed."""
    head = _json_head(logger, logging.getLevelName(logging.INFO))
    thread = _json_text(current_thread().name)
    fields = job.logged_as
    if fields is None:
        fields = job.logged_as = _json_of(job)
    if not (head and thread and fields and is_plain(message)):
        return None
    now = time()
    took = "" if seconds is None else f', "seconds": {round(seconds, 6)!r}'
    return (
        f'{{"time": "{_utc(int(now))}.{int(now % 1 * 1000):03}Z", {head}{_quoted(message)}, '
        f'"process": {_process}, "thread": {thread}, "event": "{event}", {fields}{took}}}'
    )


def _json_of(job: JobContext) -> str:
    """Return what both lines of a job have of it; "" if that takes a record."""
    jid, jobtype, queue = job.jid, job.jobtype, job.queue
    if not (jid and is_plain(jid) and is_plain(jobtype) and is_plain(queue)):
        return ""
    return (
        f'"jid": {_quoted(jid)}, "jobtype": {_quoted(jobtype)}, "queue": {_quoted(queue)}, '
        f'"attempt": {job.attempt}, "retries_remaining": {job.retries_remaining}'
    )


@lru_cache(maxsize=256)
def _json_text(text: str) -> str | None:
    """Return a text as JSON, None if it is not plain: for texts that are in many lines."""
    return _quoted(text) if is_plain(text) else None


@lru_cache(maxsize=16)
def _json_head(logger: str, level: str) -> str | None:
    if not (is_plain(logger) and is_plain(level)):
        return None
    return f'"level": {_quoted(level)}, "logger": {_quoted(logger)}, "message": '


def is_plain(text: str) -> bool:
    """Return whether nothing in a text is escaped or cut."""
    return text.isprintable() and len(text) <= _MAX_PLAIN


def _cut_texts(fields: dict[str, Any], limit: int) -> dict[str, Any]:
    return {
        name: cut(value, limit) if isinstance(value, str) else value
        for name, value in fields.items()
    }


@lru_cache(maxsize=16)
def _utc(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]
