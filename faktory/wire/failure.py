"""An exception as FAIL reports it: type, message and lines of traceback, which can always be sent.

Rules: nothing in here raises, whatever the exception's class does, since a failed report loses a
job. Texts are cut to what the server keeps, between characters (`manager/retry.go: cleanse` cuts
between bytes).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Final

from ..exceptions import FaktoryError

MAX_ERRTYPE: Final = 100
"""Bytes that the server keeps of the error's type."""

MAX_MESSAGE: Final = 1000
"""Bytes that the server keeps of the message."""

MAX_BACKTRACE: Final = 50
"""Lines that the server keeps of the traceback."""


_MAX_CHUNK: Final = MAX_BACKTRACE * MAX_MESSAGE
"""Characters that are looked at of a frame, or of a message, in a traceback."""

_GET_TRACEBACK: Final = BaseException.__dict__["__traceback__"].__get__


def describe(
    error: BaseException | None,
    errtype: str | None = None,
    message: str | None = None,
    backtrace: int | Sequence[str] | None = None,
) -> tuple[str, str, list[str]]:
    """Return type, message and traceback lines of a failure.

    `errtype` and `message` replace the exception's own. `backtrace` is the lines, one by one or as
    one text, or how many of the exception's to take: the last ones, which show where it happened.
    """
    if errtype is None:
        errtype = "unknown" if error is None else name_of(error)
    if message is None:
        message = "" if error is None else text_of(error)
    if backtrace is None:
        lines: Sequence[str] = ()
    elif isinstance(backtrace, int):
        lines = _traceback(error)[-backtrace:] if backtrace > 0 and error is not None else ()
    elif isinstance(backtrace, str):
        lines = backtrace.splitlines()
    else:
        lines = list(backtrace)
    return (
        clean(errtype, MAX_ERRTYPE),
        clean(message, MAX_MESSAGE),
        [clean(line, MAX_MESSAGE) for line in lines[-MAX_BACKTRACE:]],
    )


def clean(text: object, limit: int) -> str:
    """Return text that can be sent: without lone surrogates, at most `limit` bytes."""
    data = text_of(text)[:limit].encode("utf-8", "backslashreplace")
    return data[:limit].decode("utf-8", "ignore")


def text_of(error: object) -> str:
    """Return `str(error)` as plain text, or an exception's arguments and a note that it raised."""
    try:
        return str.__str__(str(error))  # a subclass of str could raise later
    except BaseException as second:
        note = f"(its text cannot be had: str() raised {name_of(second)})"
    try:
        return f"{str.__str__(BaseException.__str__(error))} {note}".lstrip()  # type: ignore[arg-type]
    except BaseException:  # not an exception, or its arguments raise, too
        return note


def name_of(error: BaseException) -> str:
    """Return the name of an exception's class, whatever its metaclass does."""
    kind = type(error)
    try:
        return str.__str__(kind.__name__)
    except BaseException:
        return str(type.__dict__["__name__"].__get__(kind))


def traceback_of(error: BaseException) -> TracebackType | None:
    """Return an error's traceback without the frames of this package that lead to other code.

    Where a traceback is cut, the frames of the job, or of the cause, are what counts. So do they
    where this package refuses something on purpose: then its frames at the end are left out, too,
    and nothing is left where there are no others.
    """
    steps = []
    step: TracebackType | None = _GET_TRACEBACK(error)
    while step is not None:
        steps.append(step)
        step = step.tb_next
    if steps and _is_own(steps[-1]) and _is_refusal(error, steps[-1]):
        while steps and _is_own(steps[-1]):
            steps.pop()
    kept: TracebackType | None = None
    leading = False
    for step in reversed(steps):
        if not _is_own(step):
            leading = True
        elif leading:
            continue
        kept = TracebackType(kept, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return kept


def _is_own(step: TracebackType) -> bool:
    name = step.tb_frame.f_globals.get("__name__")  # code run by `exec` may have any
    return isinstance(name, str) and name.startswith("faktory.")


def _is_refusal(error: BaseException, step: TracebackType) -> bool:
    """Return whether this package has raised an error itself: any other is a defect of it."""
    from opcode import opmap

    return (
        issubclass(type(error), FaktoryError)
        or step.tb_frame.f_code.co_code[step.tb_lasti] == opmap["RAISE_VARARGS"]
    )


def _traceback(error: BaseException) -> list[str]:
    import traceback  # takes long, and is needed for failures only

    found = traceback_of(error)
    try:
        chunks = traceback.format_exception(type(error), error, found)
    except MemoryError:
        return ["(the traceback cannot be had: MemoryError)"]
    except BaseException:  # of the error's own methods, or of those of its causes
        text = clean(f"{name_of(error)}: {text_of(error)}", MAX_MESSAGE)
        chunks = ["Traceback (most recent call last):\n", *traceback.format_tb(found), text]
    return [line for chunk in chunks for line in chunk[:_MAX_CHUNK].splitlines()]
