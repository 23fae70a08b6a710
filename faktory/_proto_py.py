"""The protocol core in pure Python: parse replies, encode command lines and job JSON, make jids.

The twin of `_proto.pyx` and its readable specification: same names, same order, same errors. Both
change in the same commit.

Rules: no I/O. Error replies are returned, not raised; only broken framing raises, and then the
parser cannot be used any more. Broken JSON in a well-framed reply consumes only that reply. Sizes
that a peer sends are checked against a limit before memory is allocated. The fast paths pass
irregular values to `_json`, which has all cases and all error messages.

A `ReplyParser` belongs to one connection, and can be used by one thread at a time. The functions
can be called from any thread.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import accumulate
from json import JSONDecoder, JSONEncoder
from typing import Any, Final

from . import _json
from .exceptions import FaktoryPayloadError, FaktoryProtocolError, FaktoryServerError

MAX_BULK: Final = 512 * 1024 * 1024
"""Limit of a bulk reply in bytes: the largest value of Redis, which stores the server's jobs."""

MAX_LINE: Final = 1024 * 1024
"""Limit of any other reply in bytes: an error can repeat the rejected command."""

_MIN_ROOM: Final = 64 * 1024
"""Minimum bytes of a view, and how many a parser buffers beyond one reply of full size."""

_MAX_IDLE: Final = 1024 * 1024
"""Maximum bytes of an empty buffer; a larger one is replaced."""

_MAX_DIGITS: Final = 19
"""Maximum digits of a number in a reply: a signed 64-bit integer."""

_JIDS: Final = 256
"""Number of job ids from one read of the system's random source."""


class NeedData(Enum):
    """The type of NEED_DATA, so that type checkers can distinguish it from a reply."""

    NEED_DATA = "no whole reply yet"


NEED_DATA: Final = NeedData.NEED_DATA


class ReplyParser:
    """Split a byte stream into replies.

    Pass received bytes to `feed`, or let a socket write into `get_buffer` and pass the count to
    `buffer_updated`; then call `next` or `next_json` until it returns NEED_DATA. `max_bulk` and
    `max_line` are limits in bytes without the framing. The first byte that cannot be part of a
    reply raises FaktoryProtocolError.
    """

    __slots__ = ("_buffer", "_end", "_failure", "_max_bulk", "_max_line", "_scanned", "_start")

    def __init__(self, max_bulk: int = MAX_BULK, max_line: int = MAX_LINE) -> None:
        self._max_bulk = max_bulk
        self._max_line = max_line
        self._buffer = bytearray(_MIN_ROOM)
        self._start = 0  # where the next reply begins
        self._end = 0  # how far the buffer is filled
        self._scanned = 0  # how far the line was already searched for its end
        self._failure = ""

    def __len__(self) -> int:
        """Return how many bytes wait: replies that were not taken, and a part of one."""
        return self._end - self._start

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add received bytes, which may be split anywhere."""
        view = data if type(data) is bytes else _contiguous(data)
        size = len(view)
        self._make_room(size)
        self._buffer[self._end : self._end + size] = view
        self._add(size)

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Return a writable view of at least `sizehint` bytes, valid until the next method call."""
        self._make_room(max(sizehint, _MIN_ROOM))
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Add the first `nbytes` bytes of the view from `get_buffer`."""
        self._check_usable()
        if not 0 <= nbytes <= len(self._buffer) - self._end:
            raise ValueError(f"{nbytes} bytes do not fit into the view from get_buffer")
        self._add(nbytes)

    def _add(self, size: int) -> None:
        self._end += size
        if self._end - self._start > self._max_bulk + self._max_line + _MIN_ROOM:
            raise self._fail(f"{self._end - self._start} bytes wait unread, which is too many")

    def next(self) -> str | bytes | int | None | FaktoryServerError | NeedData:
        """Remove and return the next reply, or return NEED_DATA.

        `+` gives a str, `$` bytes, `$-1` None, `:` an int, `-` a FaktoryServerError.
        """
        return self._next(bytes)  # type: ignore[return-value]

    def next_json(self) -> object:
        """Remove and return the next reply like `next`, but decode a bulk reply from JSON.

        Invalid JSON raises FaktoryJSONError, lack of memory too; that reply is consumed.
        """
        return self._next(_load)

    def _next(self, decode: Callable[[memoryview], object]) -> object:
        if self._start == self._end:
            self._check_usable()  # a failed parser has an empty buffer
            return NEED_DATA
        kind = self._buffer[self._start]
        if kind == ord("$"):
            return self._bulk(decode)
        if kind == ord(":"):
            return self._integer()
        if kind not in b"+-":
            raise self._fail(f"a reply begins with +, -, : or $, not with {bytes([kind])!r}")
        line = self._line()
        if line is None:
            return NEED_DATA
        return line if kind == ord("+") else FaktoryServerError.of(line)

    def _bulk(self, decode: Callable[[memoryview], object]) -> object:
        header = self._length() or self._number("the length of a bulk reply", self._max_bulk)
        if header is None:
            return NEED_DATA
        size, begin = header
        if size == -1:
            self._consume(begin)
            return None
        if size < 0:
            raise self._fail(f"the length of a bulk reply is {size}")
        end = begin + size
        for pos, expected in ((end, ord("\r")), (end + 1, ord("\n"))):
            if pos >= self._end:
                return NEED_DATA
            if self._buffer[pos] != expected:
                raise self._fail(f"a bulk reply ends with \\r\\n, {self._not_with(pos)}")
        buffer = self._buffer
        self._consume(end + 2)
        return decode(memoryview(buffer)[begin:end])

    def _length(self) -> tuple[int, int] | None:
        """Read the length of a bulk reply if it is complete and regular, as a fast path."""
        end = self._buffer.find(b"\r\n", self._start, self._start + 12)
        digits = self._buffer[self._start + 1 : end]
        if end < 0 or end + 2 > self._end or not digits.isdigit():
            return None
        length = int(digits)
        return (length, end + 2) if length <= self._max_bulk else None

    def _integer(self) -> int | NeedData:
        number = self._number("an integer", 2**63 - 1)
        if number is None:
            return NEED_DATA
        value, end = number
        self._consume(end)
        return value

    def _number(self, what: str, limit: int) -> tuple[int, int] | None:
        """Read the number after the type byte; return its value and the end of its line."""
        pos = self._start + 1
        negative = pos < self._end and self._buffer[pos] == ord("-")
        pos += negative
        first = pos
        value = 0
        while pos < self._end:
            byte = self._buffer[pos]
            if ord("0") <= byte <= ord("9"):
                value = value * 10 + byte - ord("0")
                if value > limit or pos - first == _MAX_DIGITS:
                    raise self._fail(f"{what} is {value} or more, above the limit of {limit}")
            elif byte == ord("\r") and pos > first:
                if pos + 1 == self._end:
                    return None
                if self._buffer[pos + 1] != ord("\n"):
                    raise self._fail(f"{what} ends with \\r\\n, {self._not_with(pos + 1)}")
                return (-value if negative else value), pos + 2
            else:
                raise self._fail(f"{what} ends with \\r\\n after its digits, {self._not_with(pos)}")
            pos += 1
        return None

    def _line(self) -> str | None:
        """Remove and return a line without its type byte and line end.

        The server truncates errors by bytes, so a character can be incomplete: it is replaced.
        """
        begin = self._start + 1
        scan = max(begin, self._scanned)
        end = self._buffer.find(b"\r", scan, self._end)
        seen = self._end if end < 0 else end
        newline = self._buffer.find(b"\n", scan, seen)
        if newline >= 0:
            raise self._fail(f"a line ends with \\r\\n, {self._not_with(newline)}")
        if seen - begin > self._max_line:
            raise self._fail(f"a line is longer than the limit of {self._max_line} bytes")
        self._scanned = seen
        if end < 0 or end + 1 == self._end:
            return None
        if self._buffer[end + 1] != ord("\n"):
            raise self._fail(f"a line ends with \\r\\n, {self._not_with(end + 1)}")
        line = self._buffer[begin:end].decode("utf-8", "replace")
        self._consume(end + 2)
        return line

    def _consume(self, end: int) -> None:
        self._start = end
        self._scanned = 0
        if end == self._end:
            self._start = self._end = 0
            if len(self._buffer) > _MAX_IDLE:
                self._buffer = bytearray(_MIN_ROOM)

    def _make_room(self, size: int) -> None:
        """Ensure that `size` bytes fit behind the data, without resizing a buffer that has views.

        The cost is amortized: moving by the bytes read since, growing by the bytes received.
        """
        self._check_usable()
        if len(self._buffer) - self._end >= size:
            return
        try:
            data = self._buffer[self._start : self._end]
            if len(data) + size > len(self._buffer) // 2:
                self._buffer = bytearray(max(len(data) + size, 2 * len(data)))
        except MemoryError:
            raise self._too_large() from None
        self._buffer[: len(data)] = data
        self._scanned = max(0, self._scanned - self._start)
        self._start = 0
        self._end = len(data)

    def _not_with(self, pos: int) -> str:
        return f"not with {bytes(self._buffer[pos : pos + 1])!r}"

    def _fail(self, fault: str) -> FaktoryProtocolError:
        self._failure = f"the peer does not speak Faktory's protocol: {fault}"
        self._buffer = bytearray()
        self._start = self._end = 0
        return FaktoryProtocolError(self._failure)

    def _too_large(self) -> FaktoryProtocolError:
        error = _json.unfinished(memoryview(self._buffer)[self._start : self._end])
        self._failure = str(error)
        self._buffer = bytearray()
        self._start = self._end = 0
        return error

    def _check_usable(self) -> None:
        if self._failure:
            raise FaktoryProtocolError(self._failure)


def load_json(data: bytes | bytearray | memoryview) -> Any:
    """Decode UTF-8 JSON like `json.loads`.

    Raises FaktoryJSONError, with the offset in bytes, for invalid JSON, for NaN, infinities and
    numbers that overflow to one, for more than 512 nested containers, and for lack of memory.
    """
    return _load(_contiguous(data))


def _load(data: bytes | bytearray | memoryview) -> Any:
    try:
        text = str(data, "utf-8")
        if len(text) <= _json.MAX_DEPTH or not _may_be_too_deep(data, text):
            if text[:1] not in _SPACES:
                value, end = _scan(text, 0)
                if end == len(text):
                    return value
            return _decode(text)
    except (ValueError, RecursionError, StopIteration):
        pass
    except MemoryError:
        raise _json.too_large(data) from None
    try:
        return _json.read(bytes(data))
    except MemoryError:
        raise _json.too_large(data) from None


def dump_json(value: object) -> bytes:
    """Encode as compact UTF-8 JSON.

    Raises FaktoryPayloadError, with the path to the value and the remedy, for values that the
    server would change or that JSON lacks: integers beyond +-2^53, NaN and infinities, lone
    surrogates, keys that are not text, other types, more than 512 nested containers. Subclasses
    of `int`, `str`, `float`, `dict`, `list` and `tuple` are encoded as their base.
    """
    return _dump(value, ())


def encode_command(verb: str, *words: str, json: object = None) -> bytes:
    """Encode a command line: verb, words, and then `json` unless it is None.

    Raises FaktoryPayloadError for a word that is empty or contains a space, a line end or another
    unprintable character: the server splits the line at these.
    """
    for word in (verb, *words):
        if not _json.is_a(word, str) or not word.isprintable() or word == "" or " " in word:
            raise FaktoryPayloadError(
                f"{word!r} cannot be a word of the command {verb!r}: "
                "use text without spaces, line ends and control characters, and not empty."
            )
    line = " ".join((verb, *words)).encode()
    if json is not None:
        body = dump_json(json)
        if verb == "MUTATE":  # the server splits it at spaces (`server/mutate.go: mutate`)
            body = body.replace(b" ", b"\\u0020")
        line += b" " + body
    return line + b"\r\n"


def encode_push(job: dict[str, Any]) -> bytes:
    """Encode the PUSH of a job; raises FaktoryPayloadError like `dump_json`."""
    if not _json.is_a(job, dict):
        raise _not_a_dict(job, "the job")
    return b"PUSH " + _dump(job, ()) + b"\r\n"


def encode_push_bulk(jobs: Iterable[dict[str, Any]]) -> bytes:
    """Encode the PUSHB of many jobs; the path in an error begins with the job's index."""
    pieces = []
    for index, job in enumerate(jobs):
        if not _json.is_a(job, dict):
            raise _not_a_dict(job, f"jobs[{index}]")
        pieces.append(_dump(job, ("jobs", index)))
    return b"PUSHB [" + b",".join(pieces) + b"]\r\n"


def complete_job(job: object, queues: set[str], retry: int) -> dict[str, Any] | None:
    """Return the job to send, completed, if it is an ordinary one: a new dict, else None.

    Ordinary is a dict of `jobtype`, `args`, and perhaps `queue` and `retry`, of exact types, with a
    queue that is in `queues`.
    """
    if type(job) is not dict or len(job) > 4:
        return None
    jobtype, args = job.get("jobtype"), job.get("args")
    queue, own_retry = job.get("queue"), job.get("retry")
    if len(job) != 2 + (queue is not None) + (own_retry is not None):
        return None
    if (
        type(jobtype) is not str
        or not jobtype
        or (type(args) is not list and type(args) is not tuple)
    ):
        return None
    if queue is None:
        queue = "default"
    elif type(queue) is not str or queue not in queues:
        return None
    if own_retry is not None:
        if type(own_retry) is not int or not -1 <= own_retry <= _json.MAX_INTEGER:
            return None
        retry = own_retry
    return {"jid": new_jid(), "jobtype": jobtype, "queue": queue, "args": args, "retry": retry}


class JobTemplate:
    """A job type and its options, encoded once, to push many jobs.

    `options` are fields of the job's wire dict (`queue`, `retry`, `custom`...).
    """

    __slots__ = ("_head",)

    def __init__(self, jobtype: str, options: Mapping[str, object]) -> None:
        for name in ("jid", "jobtype", "args"):
            if name in options:
                raise FaktoryPayloadError(f"the template sets {name!r} itself. Leave it out.")
        self._head = dump_json({"jobtype": jobtype, **options})[:-1] + b',"jid":"'

    def encode_bulk(
        self, rows: Iterable[Sequence[object]], least: int = 0, most: int | None = None
    ) -> tuple[bytes, list[str]]:
        """Encode one PUSHB with a job for each row of arguments; return it and the new jids.

        A row of less than `least` or more than `most` arguments raises FaktoryPayloadError.
        """
        pieces = []
        jids = []
        for index, args in enumerate(rows):
            if not (_json.is_a(args, list) or _json.is_a(args, tuple)):
                raise FaktoryPayloadError(
                    f"rows[{index}] is {_json.kind(args)}; a row is a tuple of arguments. "
                    "For a single argument: (value,)."
                )
            if len(args) < least or (most is not None and len(args) > most):
                raise FaktoryPayloadError(f"rows[{index}] has {len(args)} arguments")
            jid = new_jid()
            jids.append(jid)
            pieces.append(
                b'%b%b","args":%b}' % (self._head, jid.encode(), _dump(args, ("rows", index)))
            )
        return b"PUSHB [" + b",".join(pieces) + b"]\r\n", jids


def new_jid() -> str:
    """Return a new job id: 24 random hex digits. Safe in threads and after fork."""
    try:
        return _jids.pop()
    except IndexError:
        digits = os.urandom(12 * _JIDS).hex()
        _jids.extend(digits[i : i + 24] for i in range(24, len(digits), 24))
        return digits[:24]


_jids: list[str] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_jids.clear)


def _contiguous(data: bytes | bytearray | memoryview) -> memoryview:
    view = memoryview(data)
    return (view if view.c_contiguous else memoryview(view.tobytes())).cast("B")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(text)
    return number


def _reject_constant(name: str) -> None:
    raise ValueError(name)


_decoder = JSONDecoder(parse_float=_finite, parse_constant=_reject_constant)
_decode = _decoder.decode
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]
_SPACES = " \t\n\r"  # `scan_once` does not skip them; the server writes none around a value

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def _may_be_too_deep(data: bytes | bytearray | memoryview, text: str) -> bool:
    """Return whether containers may be nested too deep, before a decoder recurses into them.

    Most values have too few containers. Otherwise count brackets up and down outside strings; the
    result is exact up to the first byte that is not JSON, where decoding ends. The regular
    expression does not backtrack, so it takes linear time on any input.
    """
    if text.count("[") + text.count("{") <= _json.MAX_DEPTH:
        return False
    steps = _STRING.sub(b"", data).translate(_STEPS, _NO_BRACKET)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > _json.MAX_DEPTH


_encode = JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode

_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Without one the standard encoder can crash where another thread changes a list that it reads."""

_LEAVES = frozenset({str, float, bool, type(None)})


def _dump(value: object, root: Sequence[str | int]) -> bytes:
    if _HAS_GIL and _is_plain(value):
        try:
            return _encode(value).encode()
        except (TypeError, ValueError, RecursionError):
            pass
    return _json.write(value, root)


def _is_plain(value: object) -> bool:
    """Return whether the standard encoder encodes this value correctly, or raises an error.

    By itself, it accepts keys that are not text and integers of any size, and recurses for each
    level.
    """
    stack = [iter((value,))]
    while stack:
        for child in stack[-1]:
            kind = type(child)
            if kind in _LEAVES:
                continue
            if kind is int:
                if -_json.MAX_INTEGER <= child <= _json.MAX_INTEGER:  # type: ignore[operator]
                    continue
                return False
            if kind is dict:
                assert isinstance(child, dict)
                if not {str}.issuperset(map(type, list(child))):
                    return False
                stack.append(iter(list(child.values())))
            elif kind is list or kind is tuple:
                stack.append(iter(child))  # type: ignore[call-overload]
            else:
                return False
            if len(stack) > _json.MAX_DEPTH + 1:
                return False
            break
        else:
            stack.pop()
    return True


def _not_a_dict(job: object, name: str) -> FaktoryPayloadError:
    return FaktoryPayloadError(
        f"{name} is {_json.kind(job)}; a job is a dict with at least 'jobtype' and 'args'."
    )
