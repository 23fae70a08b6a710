# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""The protocol core, compiled: parse replies, encode command lines and job JSON, make jids.

The twin of `_proto_py.py`, which is easier to read: same names, same order, same errors, same
bytes consumed. Both change in the same commit.

Rules, beside those of the twin: the fast paths accept regular JSON and exact builtin types, and
return NULL for the rest; `_json` then processes the value again and returns the result or raises
the error. No function recurses. A pointer into an object is used in one function only, which
meanwhile runs no Python code or holds a reference to the object. The GIL protects shared state
(jids, keys); `_threads.h` says what does so without one.

A function that writes to an `_Out` may write _ROOM bytes behind its position; before it writes
more, it checks the room.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

import os
from enum import Enum

from .exceptions import FaktoryPayloadError, FaktoryProtocolError, FaktoryServerError

MAX_BULK = 512 * 1024 * 1024
"""Limit of a bulk reply in bytes: the largest value of Redis, which stores the server's jobs."""

MAX_LINE = 1024 * 1024
"""Limit of any other reply in bytes: an error can repeat the rejected command."""

cdef enum:
    _MIN_ROOM = 64 * 1024  # of a view, and how much a parser buffers beyond one reply of full size
    _MAX_IDLE = 1024 * 1024  # bytes of an empty buffer; a larger one is replaced
    _MAX_DIGITS = 19  # of a number in a reply: a signed 64-bit integer
    _MAX_DEPTH = 512  # as in `_json`
    _MOST_DIGITS = 1_000_000_000  # more than JSON can have, in the exponent of a number
    _ROOM = 64  # bytes that can be written without a check: any number, some punctuation
    _SCRATCH = 2048  # bytes of output before a bytes object is allocated
    _LARGE = 128 * 1024  # bytes of output that grow by less at a time
    _PIECE = 256  # characters beyond ASCII that are written with one check
    _ITEMS = 256  # items of open lists before memory is allocated
    _KEYS = 1024  # cached keys, a power of two
    _OWN_KEYS = 256  # those of one parser
    _MAX_KEY = 16  # characters of a cached key
    _INTEGERS = 1024  # integers from 0 on that are made once

cdef int64_t _MAX_INTEGER = 1 << 53  # as in `_json`

cdef struct _Out:
    PyObject *buffer  # the bytes object with the output once it exceeds `scratch`, or NULL
    char *start
    char *limit
    char[_SCRATCH] scratch

cdef struct _Open:
    PyObject *here  # the dict, or NULL for a list, whose items are the last ones of `_Items`
    PyObject *key  # owned: the key of the dict's next value
    Py_ssize_t first  # place of the list's first item

cdef struct _Items:
    PyObject **place  # owned items of lists that are open
    Py_ssize_t room
    (PyObject *)[_ITEMS] some

cdef struct _Parent:
    PyObject *container
    Py_ssize_t pos  # position of the next item
    Py_ssize_t left  # number of items left

cdef struct _Key:
    PyObject *text
    uint64_t head, tail
    Py_ssize_t size

cdef _Key[_KEYS] _keys  # of all parsers and of `load_json`; without a GIL each parser has its own
cdef (PyObject *)[_INTEGERS] _integers  # made when first read; none without a GIL


class NeedData(Enum):
    """The type of NEED_DATA, so that type checkers can distinguish it from a reply."""

    NEED_DATA = "no whole reply yet"


NEED_DATA = NeedData.NEED_DATA
cdef object _need_data = NEED_DATA
cdef str _ok = "OK"


@cython.final
@cython.auto_pickle(False)
cdef class ReplyParser:
    """Split a byte stream into replies.

    Pass received bytes to `feed`, or let a socket write into `get_buffer` and pass the count to
    `buffer_updated`; then call `next` or `next_json` until it returns NEED_DATA. `max_bulk` and
    `max_line` are limits in bytes without the framing. The first byte that cannot be part of a
    reply raises FaktoryProtocolError.
    """

    cdef bytearray _buffer
    cdef Py_ssize_t _start  # where the next reply begins
    cdef Py_ssize_t _end  # how far the buffer is filled
    cdef Py_ssize_t _scanned  # how far the line was already searched for its end
    cdef Py_ssize_t _max_bulk, _max_line, _max_waiting
    cdef str _failure
    cdef _Key *_own_keys

    def __cinit__(self, max_bulk=MAX_BULK, max_line=MAX_LINE):
        if NO_GIL:
            self._own_keys = <_Key *> PyMem_Calloc(_OWN_KEYS, sizeof(_Key))
            if self._own_keys is NULL:
                raise MemoryError()
        self._max_bulk = max_bulk
        self._max_line = max_line
        self._max_waiting = min(max_bulk + max_line + _MIN_ROOM, PY_SSIZE_T_MAX)
        self._buffer = bytearray(_MIN_ROOM)
        self._failure = ""

    def __dealloc__(self):
        cdef int place
        if NO_GIL and self._own_keys is not NULL:
            for place in range(_OWN_KEYS):
                Py_XDECREF(self._own_keys[place].text)
            PyMem_Free(self._own_keys)

    @cython.critical_section
    def __len__(self):
        """Return how many bytes wait: replies that were not taken, and a part of one."""
        return self._end - self._start

    @cython.critical_section
    def feed(self, data):
        """Add received bytes, which may be split anywhere."""
        cdef const char *source
        cdef Py_ssize_t size
        holder = _contiguous(data, &source, &size)
        self._make_room(size)
        if size:
            memmove(PyByteArray_AS_STRING(self._buffer) + self._end, source, size)
        self._add(size)

    @cython.critical_section
    def get_buffer(self, Py_ssize_t sizehint=-1):
        """Return a writable view of at least `sizehint` bytes, valid until the next method call."""
        self._make_room(max(sizehint, _MIN_ROOM))
        return memoryview(self._buffer)[self._end :]

    @cython.critical_section
    def buffer_updated(self, Py_ssize_t nbytes):
        """Add the first `nbytes` bytes of the view from `get_buffer`."""
        self._check_usable()
        if not 0 <= nbytes <= PyByteArray_GET_SIZE(self._buffer) - self._end:
            raise ValueError(f"{nbytes} bytes do not fit into the view from get_buffer")
        self._add(nbytes)

    cdef int _add(self, Py_ssize_t size) except -1:
        self._end += size
        if self._end - self._start > self._max_waiting:
            raise self._fail(f"{self._end - self._start} bytes wait unread, which is too many")
        return 0

    @cython.critical_section
    def next(self):
        """Remove and return the next reply, or return NEED_DATA.

        `+` gives a str, `$` bytes, `$-1` None, `:` an int, `-` a FaktoryServerError.
        """
        return self._next(False)

    @cython.critical_section
    def next_json(self):
        """Remove and return the next reply like `next`, but decode a bulk reply from JSON.

        Invalid JSON raises FaktoryJSONError, lack of memory too; that reply is consumed.
        """
        return self._next(True)

    cdef object _next(self, bint decode):
        if self._start == self._end:
            self._check_usable()  # a failed parser has an empty buffer
            return _need_data
        cdef const char *data = PyByteArray_AS_STRING(self._buffer) + self._start
        if self._end - self._start >= 5 and memcmp(data, b"+OK\r\n", 5) == 0 < self._max_line - 1:
            self._consume(self._start + 5)  # the most common reply needs no new object
            return _ok
        cdef unsigned char kind = data[0]
        if kind == b"$":
            return self._bulk(decode)
        if kind == b":":
            return self._integer()
        if kind != b"+" and kind != b"-":
            raise self._fail(f"a reply begins with +, -, : or $, not with {bytes([kind])!r}")
        line = self._line()
        if line is None:
            return _need_data
        return line if kind == b"+" else FaktoryServerError.of(line)

    cdef object _bulk(self, bint decode):
        cdef int64_t size
        cdef Py_ssize_t begin = self._number("the length of a bulk reply", self._max_bulk, &size)
        if begin == 0:
            return _need_data
        if size == -1:
            self._consume(begin)
            return None
        if size < 0:
            raise self._fail(f"the length of a bulk reply is {size}")
        if self._end - begin <= size:
            return _need_data
        cdef bytearray buffer = self._buffer  # a reference, because it is read after _consume
        cdef const char *data = PyByteArray_AS_STRING(buffer)
        cdef Py_ssize_t pos
        for pos in range(begin + size, begin + size + 2):
            if pos == self._end:
                return _need_data
            if data[pos] != (c"\n" if pos > begin + size else c"\r"):
                raise self._fail(f"a bulk reply ends with \\r\\n, {self._not_with(pos)}")
        self._consume(begin + size + 2)
        if decode:
            return _load(data + begin, size, self._own_keys if NO_GIL else _keys)
        return data[begin : begin + size]

    cdef object _integer(self):
        cdef int64_t value = 0
        cdef Py_ssize_t end = self._number("an integer", 0x7FFFFFFFFFFFFFFF, &value)
        if end == 0:
            return _need_data
        self._consume(end)
        return value

    cdef Py_ssize_t _number(self, str what, int64_t limit, int64_t *number) except -1:
        """Read the number after the type byte; return the end of its line, or 0 if incomplete."""
        cdef const unsigned char *data = <unsigned char *> PyByteArray_AS_STRING(self._buffer)
        cdef Py_ssize_t pos = self._start + 1
        cdef bint negative = pos < self._end and data[pos] == b"-"
        pos += negative
        cdef Py_ssize_t first = pos
        cdef uint64_t value = 0
        cdef unsigned char byte
        while pos < self._end:
            byte = data[pos]
            if b"0" <= byte <= b"9":
                if pos - first == _MAX_DIGITS or value * 10 + (byte - c"0") > <uint64_t> limit:
                    reached = <object> value * 10 + (byte - c"0")
                    raise self._fail(f"{what} is {reached} or more, above the limit of {limit}")
                value = value * 10 + (byte - c"0")
            elif byte == b"\r" and pos > first:
                if pos + 1 == self._end:
                    return 0
                if data[pos + 1] != b"\n":
                    raise self._fail(f"{what} ends with \\r\\n, {self._not_with(pos + 1)}")
                number[0] = -<int64_t> value if negative else <int64_t> value
                return pos + 2
            else:
                raise self._fail(f"{what} ends with \\r\\n after its digits, {self._not_with(pos)}")
            pos += 1
        return 0

    cdef str _line(self):
        """Remove and return a line without its type byte and line end.

        The server truncates errors by bytes, so a character can be incomplete: it is replaced.
        """
        cdef const char *data = PyByteArray_AS_STRING(self._buffer)
        cdef Py_ssize_t begin = self._start + 1
        cdef Py_ssize_t end = max(begin, self._scanned)
        while end < self._end and data[end] != b"\r":
            if data[end] == b"\n":
                raise self._fail(f"a line ends with \\r\\n, {self._not_with(end)}")
            end += 1
        if end - begin > self._max_line:
            raise self._fail(f"a line is longer than the limit of {self._max_line} bytes")
        self._scanned = end
        if self._end - end < 2:
            return None
        if data[end + 1] != b"\n":
            raise self._fail(f"a line ends with \\r\\n, {self._not_with(end + 1)}")
        line = data[begin:end].decode("utf-8", "replace")
        self._consume(end + 2)
        return line

    cdef int _consume(self, Py_ssize_t end) except -1:
        self._start = end
        self._scanned = 0
        if end == self._end:
            self._start = self._end = 0
            if PyByteArray_GET_SIZE(self._buffer) > _MAX_IDLE:
                self._buffer = bytearray(_MIN_ROOM)
        return 0

    cdef int _make_room(self, Py_ssize_t size) except -1:
        """Ensure that `size` bytes fit behind the data, without resizing a buffer that has views.

        The cost is amortized: moving by the bytes read since, growing by the bytes received.
        """
        self._check_usable()
        cdef Py_ssize_t all_room = PyByteArray_GET_SIZE(self._buffer)
        if all_room - self._end >= size:
            return 0
        cdef bytearray fresh = self._buffer
        cdef Py_ssize_t waiting = self._end - self._start
        if size > all_room // 2 - waiting:
            try:
                fresh = bytearray(max(<object> waiting + size, <object> waiting * 2))
            except MemoryError:
                raise self._too_large() from None
        memmove(
            PyByteArray_AS_STRING(fresh), PyByteArray_AS_STRING(self._buffer) + self._start, waiting
        )
        self._buffer = fresh
        self._scanned = max(0, self._scanned - self._start)
        self._start = 0
        self._end = waiting
        return 0

    cdef str _not_with(self, Py_ssize_t pos):
        return f"not with {bytes(self._buffer[pos : pos + 1])!r}"

    cdef object _fail(self, str fault):
        self._failure = f"the peer does not speak Faktory's protocol: {fault}"
        self._buffer = bytearray()
        self._start = self._end = 0
        return FaktoryProtocolError(self._failure)

    cdef object _too_large(self):
        from . import _json
        error = _json.unfinished(memoryview(self._buffer)[self._start : self._end])
        self._failure = str(error)
        self._buffer = bytearray()
        self._start = self._end = 0
        return error

    cdef int _check_usable(self) except -1:
        if self._failure:
            raise FaktoryProtocolError(self._failure)
        return 0


def load_json(data):
    """Decode UTF-8 JSON like `json.loads`.

    Raises FaktoryJSONError, with the offset in bytes, for invalid JSON, for NaN, infinities and
    numbers that overflow to one, for more than 512 nested containers, and for lack of memory.
    """
    cdef const char *source
    cdef Py_ssize_t size
    if NO_GIL and type(data) is not bytes:
        data = memoryview(data).tobytes()  # which no other thread changes while it is read
    holder = _contiguous(data, &source, &size)
    return _load(source, size, NULL if NO_GIL else _keys)


def dump_json(value):
    """Encode as compact UTF-8 JSON.

    Raises FaktoryPayloadError, with the path to the value and the remedy, for values that the
    server would change or that JSON lacks: integers beyond +-2^53, NaN and infinities, lone
    surrogates, keys that are not text, other types, more than 512 nested containers. Subclasses
    of `int`, `str`, `float`, `dict`, `list` and `tuple` are encoded as their base.
    """
    return _encode(b"", value, b"")


def encode_command(verb, *words, json=None):
    """Encode a command line: verb, words, and then `json` unless it is None.

    Raises FaktoryPayloadError for a word that is empty or contains a space, a line end or another
    unprintable character: the server splits the line at these.
    """
    for word in (verb, *words):
        if not isinstance(word, str) or not word.isprintable() or word == "" or " " in word:
            raise FaktoryPayloadError(
                f"{word!r} cannot be a word of the command {verb!r}: "
                "use text without spaces, line ends and control characters, and not empty."
            )
    line = " ".join((verb, *words)).encode()
    if json is None:
        return line + b"\r\n"
    if verb == "MUTATE":  # the server splits it at spaces (`server/mutate.go: mutate`)
        return line + b" " + dump_json(json).replace(b" ", b"\\u0020") + b"\r\n"
    return _encode(line + b" ", json, b"\r\n")


def encode_push(job):
    """Encode the PUSH of a job; raises FaktoryPayloadError like `dump_json`."""
    if not isinstance(job, dict):
        raise _not_a_dict(job, "the job")
    return _encode(b"PUSH ", job, b"\r\n")


def encode_push_bulk(jobs):
    """Encode the PUSHB of many jobs; the path in an error begins with the job's index."""
    cdef Py_ssize_t index = 0
    cdef _Out out
    cdef char *p = _open(&out)
    try:
        p = _put(p, b"PUSHB [", 7)
        for job in jobs:
            if not isinstance(job, dict):
                raise _not_a_dict(job, f"jobs[{index}]")
            if index:
                p = _put(p, b",", 1)
            p = _dump(&out, p, job, "jobs", index)
            index += 1
        return _close(&out, _put(p, b"]\r\n", 3))
    finally:
        Py_XDECREF(out.buffer)


def complete_job(job, set queues not None, retry):
    """Return the job to send, completed, if it is an ordinary one: a new dict, else None.

    Ordinary is a dict of `jobtype`, `args`, and perhaps `queue` and `retry`, of exact types, with a
    queue that is in `queues`.
    """
    if type(job) is not dict or len(<dict> job) > 4:
        return None
    jobtype, args = (<dict> job).get("jobtype"), (<dict> job).get("args")
    queue, own_retry = (<dict> job).get("queue"), (<dict> job).get("retry")
    if len(<dict> job) != 2 + (queue is not None) + (own_retry is not None):
        return None
    if type(jobtype) is not str or not jobtype or (type(args) is not list and type(args) is not tuple):
        return None
    if queue is None:
        queue = "default"
    elif type(queue) is not str or queue not in queues:
        return None
    if own_retry is not None:
        if type(own_retry) is not int or not -1 <= own_retry <= _MAX_INTEGER:
            return None
        retry = own_retry
    return {"jid": new_jid(), "jobtype": jobtype, "queue": queue, "args": args, "retry": retry}


@cython.final
@cython.auto_pickle(False)
cdef class JobTemplate:
    """A job type and its options, encoded once, to push many jobs.

    `options` are fields of the job's wire dict (`queue`, `retry`, `custom`...).
    """

    cdef bytes _head

    def __cinit__(self, jobtype, options):
        for name in ("jid", "jobtype", "args"):
            if name in options:
                raise FaktoryPayloadError(f"the template sets {name!r} itself. Leave it out.")
        self._head = dump_json({"jobtype": jobtype, **options})[:-1] + b',"jid":"'

    def encode_bulk(self, rows, Py_ssize_t least=0, most=None):
        """Encode one PUSHB with a job for each row of arguments; return it and the new jids.

        A row of less than `least` or more than `most` arguments raises FaktoryPayloadError.
        """
        cdef Py_ssize_t limit = PY_SSIZE_T_MAX if most is None else most
        cdef list jids = []
        cdef _Out out
        cdef char *p = _open(&out)
        try:
            p = _put(p, b"PUSHB [", 7)
            for args in rows:
                if not isinstance(args, (list, tuple)):
                    from . import _json
                    raise FaktoryPayloadError(
                        f"rows[{len(jids)}] is {_json.kind(args)}; a row is a tuple of arguments. "
                        "For a single argument: (value,)."
                    )
                if not least <= len(args) <= limit:
                    raise FaktoryPayloadError(f"rows[{len(jids)}] has {len(args)} arguments")
                jid = new_jid()
                p = _put_bytes(&out, _put(p, b",", 1) if jids else p, self._head)
                jids.append(jid)
                p = _put(_put(p, ASCII_DATA(<PyObject *> jid), 24), b'","args":', 9)
                p = _dump(&out, p, args, "rows", len(jids) - 1)
                p = _put(p, b"}", 1)
            return _close(&out, _put(p, b"]\r\n", 3)), jids
        finally:
            Py_XDECREF(out.buffer)


cpdef str new_jid():
    """Return a new job id: 24 random hex digits. Safe in threads and after fork."""
    global jids_left
    if not jids_left:
        block = os.urandom(12 * JIDS)  # other threads may do the same meanwhile, harmlessly
        memcpy(random_bytes, PyBytes_AS_STRING(block), 12 * JIDS)
        jids_left = JIDS
    jids_left -= 1
    jid = OWNED(PyUnicode_New(24, 127))
    put_hex(ASCII_DATA(<PyObject *> jid), random_bytes + 12 * jids_left, 12)
    return jid


def _reset_after_fork():
    global jids_left
    jids_left = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


cdef object _contiguous(data, const char **start, Py_ssize_t *size):
    """Set `start` and `size` to an object's bytes, valid while the result is referenced."""
    if type(data) is bytes:
        start[0] = PyBytes_AS_STRING(data)
        size[0] = PyBytes_GET_SIZE(data)
        return data
    view = memoryview(data)
    view = (view if view.c_contiguous else memoryview(view.tobytes())).cast("B")
    start[0] = <const char *> PyMemoryView_GET_BUFFER(view).buf
    size[0] = PyMemoryView_GET_BUFFER(view).len
    return view


cdef object _not_a_dict(job, str name):
    from . import _json
    return FaktoryPayloadError(
        f"{name} is {_json.kind(job)}; a job is a dict with at least 'jobtype' and 'args'."
    )


cdef object _load(const char *data, Py_ssize_t size, _Key *keys):
    cdef PyObject *value = _read(data, data + size, keys)
    if value is NULL:
        return _load_again(data, size)
    return OWNED(value)


cdef object _load_again(const char *data, Py_ssize_t size):
    """Decode step by step what the fast path could not decode, unless it lacked memory."""
    cdef bint short = PyErr_Occurred() is not NULL and PyErr_ExceptionMatches(MemoryError)
    PyErr_Clear()
    from . import _json
    try:
        if not short:
            return _json.read(data[:size])
    except MemoryError:
        pass
    raise _json.too_large(PyMemoryView_FromMemory(<char *> data, size, PyBUF_READ))


cdef PyObject *_read(const char *p, const char *end, _Key *keys) noexcept:
    """Decode one value from all bytes, or return NULL.

    A list is made when it closes, of the items since it was opened.
    """
    cdef _Items items
    cdef PyObject *result = NULL
    cdef Py_ssize_t count
    items.place = items.some
    items.room = _ITEMS
    result = _read_value(p, end, &items, &count, keys)
    while count:
        count -= 1
        Py_DECREF(items.place[count])
    if items.place != items.some:
        PyMem_Free(items.place)
    return result


cdef PyObject *_read_value(
    const char *p, const char *end, _Items *items, Py_ssize_t *remaining, _Key *keys
) noexcept:
    """Decode like `_read`; set `remaining` to the number of items whose list was not made."""
    cdef _Open[_MAX_DEPTH] parents
    cdef PyObject *here = NULL  # the innermost open container: the dict, or NULL for a list
    cdef PyObject *key = NULL
    cdef PyObject *value = NULL
    cdef PyObject *result = NULL
    cdef Py_ssize_t first = 0, count = 0
    cdef int depth = 0, failed
    cdef char opening, closing = 0
    while True:
        p = skip_space(p, end)
        if here is not NULL:
            p = _read_key(p, end, &key, keys)
            if p is NULL:
                break
            p = skip_space(p, end)
        if p == end:
            break
        opening = p[0]
        if opening == b'"':
            p = _read_text(p + 1, end, &value, depth == 1 and here is not NULL, keys)
        elif opening == b"{" or opening == b"[":
            if depth == _MAX_DEPTH:
                break
            parents[depth] = _Open(here, key, first)
            depth += 1
            here = key = NULL
            first = count
            closing = opening + 2  # in ASCII
            if opening == b"{":
                here = PyDict_New()
                if here is NULL:
                    break
            p = skip_space(p + 1, end)
            if p == end:
                break
            if p[0] != closing:
                continue
            p += 1
            value = here if here is not NULL else PyList_New(0)
            depth -= 1
            here, key, first = parents[depth].here, parents[depth].key, parents[depth].first
            closing = b"}" if here is not NULL else b"]"
        elif b"0" <= opening <= b"9" or opening == b"-":
            p = _read_number(p, end, &value)
        else:
            p = _read_word(p, end, &value)
        if p is NULL or value is NULL:
            break
        while True:  # as many containers as close behind the value
            if depth == 0:
                if skip_space(p, end) == end:
                    result = value
                else:
                    Py_DECREF(value)
                p = NULL
                break
            if here is not NULL:
                failed = PyDict_SetItem(here, key, value)
                Py_DECREF(key)
                Py_DECREF(value)
                key = NULL
                if failed:
                    p = NULL
                    break
            else:
                if count == items.room and not _more_room(items):
                    Py_DECREF(value)
                    p = NULL
                    break
                items.place[count] = value
                count += 1
            p = skip_space(p, end)
            if p == end or p[0] != closing:
                break
            p += 1
            value = here
            if value is NULL:
                value = PyList_New(count - first)
                if value is NULL:
                    p = NULL
                    break
                memcpy(PySequence_Fast_ITEMS(value), items.place + first, (count - first) * sizeof(value))
                count = first
            depth -= 1
            here, key, first = parents[depth].here, parents[depth].key, parents[depth].first
            closing = b"}" if here is not NULL else b"]"
        if p is NULL or p == end or p[0] != b",":
            break
        p += 1
    remaining[0] = count
    Py_XDECREF(here)
    Py_XDECREF(key)
    while depth:
        depth -= 1
        Py_XDECREF(parents[depth].here)
        Py_XDECREF(parents[depth].key)
    return result


cdef bint _more_room(_Items *items) noexcept:
    cdef bint first = items.place == items.some
    cdef PyObject **place = <PyObject **> PyMem_Realloc(
        NULL if first else items.place, 2 * items.room * sizeof(items.place[0])
    )
    if place is NULL:
        return False
    if first:
        memcpy(place, items.some, items.room * sizeof(items.place[0]))
    items.place = place
    items.room *= 2
    return True


cdef inline const char *_read_text(
    const char *p, const char *end, PyObject **value, bint repeats, _Key *keys
) noexcept:
    """Decode text after its opening quote; return the position after the closing one.

    Short text that `repeats` is cached like keys: a job's queue and type, at the top level.
    """
    cdef int wide = 0
    cdef const char *stop = find_stop(p, end, &wide)
    if stop == end or stop[0] != b'"':
        return _read_escaped(p, stop, end, wide, value)
    if wide:
        value[0] = _decode(p, stop)
    elif repeats and stop - p <= _MAX_KEY:
        value[0] = _short_key(p, stop - p, keys)
    else:
        value[0] = _ascii(p, stop - p)
    return stop + 1


cdef inline PyObject *_ascii(const char *p, Py_ssize_t size) noexcept:
    cdef PyObject *text = PyUnicode_New(size, 127)
    if text is not NULL:
        copy_exactly(ASCII_DATA(text), p, size)
    return text


cdef PyObject *_decode(const char *p, const char *end) noexcept:
    """Decode UTF-8; return NULL if it is invalid."""
    cdef unsigned largest
    cdef Py_ssize_t count = survey_utf8(p, end - p, &largest)
    cdef PyObject *text = PyUnicode_New(
        count,
        127 if largest < 0x80 else 0xFF if largest < 0xC4 else 0xFFFF if largest < 0xF0 else 0x10FFFF
    )
    if text is not NULL and not decode_utf8(PyUnicode_DATA(text), p, end, PyUnicode_KIND(text)):
        Py_DECREF(text)
        return NULL
    return text


cdef const char *_read_escaped(
    const char *p, const char *stop, const char *end, int wide, PyObject **value
) noexcept:
    """Decode text whose first stop is not a quote.

    Lone surrogates are accepted among ASCII only: "surrogatepass" would also accept raw ones.
    """
    cdef char[_SCRATCH] scratch
    cdef char *start = scratch
    cdef char *to = scratch
    cdef int codes = 0
    cdef bint lone = False
    cdef const char *last = unescape(
        &to, scratch + (_SCRATCH - 2 * STEP), p, end, &wide, &codes, &lone
    )
    value[0] = NULL
    if last == end or last[0] != b'"':
        if to < scratch + (_SCRATCH - 2 * STEP):
            return NULL
        while stop == end or stop[0] != b'"':
            if end - stop < 2 or stop[0] != b"\\":
                return NULL
            stop = find_stop(stop + 2, end, &wide)
        start = to = <char *> PyMem_Malloc(stop - p + 3 * STEP)
        if start is NULL:
            return NULL
        last = unescape(&to, start + (stop - p + STEP), p, end, &wide, &codes, &lone)
    if last == end or last[0] != b'"' or (lone and wide):
        pass
    elif lone:
        value[0] = PyUnicode_DecodeUTF8(start, to - start, b"surrogatepass")
    elif wide or codes > 127:
        value[0] = _decode(start, to)
    else:
        value[0] = _ascii(start, to - start)
    if start != scratch:
        PyMem_Free(start)
    return last + 1


cdef inline const char *_read_key(
    const char *p, const char *end, PyObject **key, _Key *keys
) noexcept:
    """Decode a key and its colon; return the position after it."""
    cdef int wide = 0
    cdef const char *stop
    if p == end or p[0] != b'"':
        return NULL
    p += 1
    stop = find_stop(p, end, &wide)
    if not wide and stop - p <= _MAX_KEY and stop != end and stop[0] == b'"':
        key[0] = _short_key(p, stop - p, keys)
        p = stop + 1
    else:
        p = _read_text(p, end, key, False, keys)
    if p is NULL or key[0] is NULL:
        return NULL
    p = skip_space(p, end)
    if p == end or p[0] != b":":
        return NULL
    return p + 1


cdef inline PyObject *_short_key(const char *p, Py_ssize_t size, _Key *keys) noexcept:
    """Return a short ASCII key; jobs repeat their keys, so they are cached with their hashes."""
    cdef uint64_t head, tail, mixed
    cdef _Key *cached
    cdef PyObject *text
    if NO_GIL and keys is NULL:
        text = PyUnicode_New(size, 127)
        if text is not NULL:
            memcpy(ASCII_DATA(text), p, size)
        return text
    both_ends(p, size, &head, &tail)
    mixed = (head + tail * 31 + <uint64_t> size) * <uint64_t> 0x9E3779B97F4A7C15
    cached = &keys[(mixed >> 40) % (_OWN_KEYS if NO_GIL else _KEYS)]
    text = cached.text
    if text is NULL or cached.head != head or cached.tail != tail or cached.size != size:
        text = PyUnicode_New(size, 127)
        if text is NULL:
            return NULL
        memcpy(ASCII_DATA(text), p, size)
        PyObject_Hash(text)
        Py_XDECREF(cached.text)
        cached[0] = _Key(text, head, tail, size)
    Py_INCREF(text)
    return text


cdef inline PyObject *_short_integer(long number) noexcept:
    cdef PyObject *made
    if NO_GIL or not 0 <= number < _INTEGERS:
        return PyLong_FromLong(number)  # faster than PyLong_FromLongLong
    made = _integers[number]
    if made is NULL:
        made = _integers[number] = PyLong_FromLong(number)
    Py_XINCREF(made)
    return made


cdef inline const char *_read_number(const char *p, const char *end, PyObject **value) noexcept:
    cdef const char *start = p
    cdef bint negative = p[0] == b"-"
    cdef const char *first = p + negative
    cdef uint64_t number = 0
    cdef PyObject *text
    cdef Py_ssize_t digits
    cdef int64_t exponent = 0, power = 0
    cdef bint minus
    cdef int before, behind
    cdef double result
    p = first + read_short(first, end, &number, &before, &behind)
    if p != first and p[0] | 0x20 != b"e" and (first[0] != b"0" or before == 1):
        if not behind:
            value[0] = _short_integer(-<long> number if negative else <long> number)
            return p
        if EXACT_QUOTIENT:  # of two exact numbers: it is the nearest double
            result = <double> <int64_t> number / POWERS[behind]
            value[0] = PyFloat_FromDouble(-result if negative else result)
            return p
    number = 0
    p = read_digits(first, end, &number)
    digits = p - first
    if digits == 0 or (first[0] == b"0" and digits > 1):
        return NULL
    if p == end or (p[0] != b"." and p[0] | 0x20 != b"e"):
        if digits < 19:
            value[0] = PyLong_FromLongLong(-<int64_t> number if negative else <int64_t> number)
        else:
            text = PyUnicode_DecodeUTF8(start, p - start, NULL)
            if text is NULL:
                return NULL
            value[0] = PyLong_FromUnicodeObject(text, 10)
            Py_DECREF(text)
        return p
    if p[0] == b".":
        first = p + 1
        p = read_digits(first, end, &number)
        if p == first:
            return NULL
        digits += p - first
        exponent = first - p
    if p < end and p[0] | 0x20 == b"e":
        p += 1
        minus = p < end and p[0] == b"-"
        p += p < end and (p[0] == b"+" or p[0] == b"-")
        first = p
        while p < end and b"0" <= p[0] <= b"9":
            power = min(power * 10 + (p[0] - c"0"), _MOST_DIGITS)
            p += 1
        if p == first:
            return NULL
        exponent += -power if minus else power
    if not powers[0].high and _fill_powers() < 0:
        return NULL
    if digits > _MAX_DIGITS:
        first = start + negative
        while first < p and (first[0] == b"0" or first[0] == b"."):
            digits -= first[0] == b"0"
            first += 1
    if digits <= _MAX_DIGITS and read_decimal(number, exponent, &result):
        value[0] = PyFloat_FromDouble(-result if negative else result)
        return p
    if p == end:  # the conversion needs a byte that ends the number
        return NULL
    result = PyOS_string_to_double(start, <char **> &start, NULL)
    if start != p or result - result != 0:
        return NULL
    value[0] = PyFloat_FromDouble(result)
    return p


cdef inline const char *_read_word(const char *p, const char *end, PyObject **value) noexcept:
    cdef int size = 5 if p[0] == b"f" else 4
    if end - p < size:
        return NULL
    if memcmp(p, b"true", 4) == 0:
        value[0] = Py_True
    elif memcmp(p, b"null", 4) == 0:
        value[0] = <PyObject *> None
    elif memcmp(p, b"false", size) == 0:
        value[0] = Py_False
    else:
        return NULL
    Py_INCREF(value[0])
    return p + size


cdef inline char *_open(_Out *out) noexcept:
    out.buffer = NULL
    out.start = out.scratch
    out.limit = out.scratch + _SCRATCH
    return out.start


cdef char *_grow(_Out *out, char *p, Py_ssize_t room) except NULL:
    """Make room for that many bytes; return the new position."""
    cdef Py_ssize_t size = p - out.start
    cdef Py_ssize_t before = out.limit - out.start
    # Up to a size that is soon written, fewer copies are worth more than the memory.
    cdef Py_ssize_t all_room = max((4 if before < _LARGE else 2) * before, size + room)
    if out.buffer is NULL:
        out.buffer = new_bytes(NULL, all_room)
        memcpy(bytes_data(out.buffer), out.scratch, size)
    else:
        _PyBytes_Resize(&out.buffer, all_room)
    out.start = bytes_data(out.buffer)
    out.limit = out.start + all_room
    return out.start + size


cdef bytes _close(_Out *out, char *p):
    """Return the output up to `p` as bytes."""
    cdef Py_ssize_t size = p - out.start
    if out.buffer is NULL:
        return PyBytes_FromStringAndSize(out.scratch, size)
    _PyBytes_Resize(&out.buffer, size)
    return <bytes> out.buffer


cdef inline char *_put(char *p, const char *data, Py_ssize_t size) noexcept:
    memcpy(p, data, size)
    return p + size


cdef char *_put_bytes(_Out *out, char *p, bytes data) except NULL:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    if out.limit - p < size + _ROOM:
        p = _grow(out, p, size + _ROOM)
    return _put(p, PyBytes_AS_STRING(data), size)


cdef bytes _encode(bytes before, value, bytes after):
    cdef _Out out
    cdef char *p = _open(&out)
    try:
        p = _put_bytes(&out, p, before)
        p = _dump(&out, p, value, "", 0)
        return _close(&out, _put_bytes(&out, p, after))
    finally:
        Py_XDECREF(out.buffer)


cdef char *_dump(_Out *out, char *p, value, str name, Py_ssize_t index) except NULL:
    """Encode JSON; an error's path begins with `name[index]`, unless the name is empty."""
    cdef Py_ssize_t before = p - out.start
    cdef held_t held
    if NO_GIL:
        held.count = 0
        try:
            p = _write(out, p, <PyObject *> value, &held)
        finally:
            while held.count:
                let_go(&held)
    else:
        p = _write(out, p, <PyObject *> value, NULL)
    if p is NULL:
        from . import _json
        written = _json.write(value, (name, index) if name else ())
        p = _put_bytes(out, out.start + before, written)
    return p


cdef char *_write(_Out *out, char *p, PyObject *value, held_t *held) except? NULL:
    """Encode a value of exact builtin types, or return NULL.

    Without a GIL, `held` has the open containers, also when this has failed.
    """
    cdef _Parent[_MAX_DEPTH] parents
    cdef PyObject *here = NULL  # the innermost open container
    cdef Py_ssize_t pos = 0  # position of its next item
    cdef Py_ssize_t left = 0  # number of its items left
    cdef PyObject *key
    cdef PyObject *item
    cdef PyObject *kind
    cdef PyObject **items = NULL  # of a list or tuple, while no Python code runs
    cdef Py_ssize_t next_pos, size
    cdef int depth = 0
    cdef bint is_dict, keyed = False, opened = False
    while True:
        if out.limit - p < _ROOM:
            p = _grow(out, p, _ROOM)
        kind = TYPE(value)
        if kind == <PyObject *> str:
            p = _put_text(out, p, value)
        elif kind == <PyObject *> int:
            p = put_integer(p, COMPACT_VALUE(value)) if IS_COMPACT(value) else _put_long(p, value)
        elif kind == <PyObject *> dict or kind == <PyObject *> list or kind == <PyObject *> tuple:
            if depth == _MAX_DEPTH:
                return NULL
            if NO_GIL:
                hold(held, value)
            is_dict = kind == <PyObject *> dict
            size = PyDict_GET_SIZE(value) if is_dict else PySequence_Fast_GET_SIZE(value)
            if size == 0:
                p = _put(p, b"{}" if is_dict else b"[]", 2)
                if NO_GIL:
                    let_go(held)
            else:
                parents[depth] = _Parent(here, pos, left)
                depth += 1
                here = value
                keyed = is_dict
                items = NULL if keyed else PySequence_Fast_ITEMS(value)
                pos = 0
                left = size
                p = _put(p, b"{" if keyed else b"[", 1)
                opened = True
        elif kind == <PyObject *> float:
            p = _put_float(p, PyFloat_AS_DOUBLE(value))
        elif value == <PyObject *> None:
            p = _put(p, b"null", 4)
        elif value == Py_True:
            p = _put(p, b"true", 4)
        elif value == Py_False:
            p = _put(p, b"false", 5)
        else:
            return NULL
        if p is NULL:
            return NULL
        while not opened:
            if depth == 0:
                return p
            p = _put(p, b",", 1)
            if left:
                break
            p[-1] = b"}" if keyed else b"]"
            depth -= 1
            if NO_GIL:
                let_go(held)
            here, pos, left = parents[depth].container, parents[depth].pos, parents[depth].left
            if depth:
                keyed = TYPE(here) == <PyObject *> dict
                items = NULL if keyed else PySequence_Fast_ITEMS(here)
            if out.limit - p < _ROOM:
                p = _grow(out, p, _ROOM)
        opened = False
        left -= 1
        if not keyed:
            if NO_GIL:  # while this thread waited for an inner container, this one was not held
                if pos >= PySequence_Fast_GET_SIZE(here):
                    return NULL
                items = PySequence_Fast_ITEMS(here)
            value = items[pos]
            pos += 1
            continue
        next_pos = pos  # variables whose address is taken are not kept in registers
        if not PyDict_Next(here, &next_pos, &key, &item) or TYPE(key) != <PyObject *> str:
            return NULL
        pos, value = next_pos, item
        p = _put_text(out, p, key)
        if p is NULL:
            return NULL
        p = _put(p, b":", 1)


cdef inline char *_put_text(_Out *out, char *p, PyObject *text) except? NULL:
    """Encode an exact str, or return NULL at a lone surrogate."""
    cdef Py_ssize_t size, done
    if not PyUnicode_IS_COMPACT_ASCII(text):
        return _put_wide(out, p, text)
    size = PyUnicode_GET_LENGTH(text)
    if out.limit - p < size + _ROOM:
        p = _grow(out, p, size + _ROOM)
    p[0] = b'"'
    done = put_clean(p + 1, ASCII_DATA(text), size)
    p += done + 1
    if done < size:
        p = _put_escaped(out, p, ASCII_DATA(text) + done, size - done)
        if p is NULL:
            return NULL
    p[0] = b'"'
    return p + 1


cdef char *_put_escaped(_Out *out, char *p, const char *s, Py_ssize_t size) except NULL:
    """Encode text that begins with a character to escape."""
    cdef Py_ssize_t done
    while size:
        p = put_escape(p, s[0])
        s += 1
        size -= 1
        if out.limit - p < size + _ROOM:
            p = _grow(out, p, size + _ROOM)
        done = put_clean(p, s, size)
        p += done
        s += done
        size -= done
    return p


cdef char *_put_wide(_Out *out, char *p, PyObject *text) except? NULL:
    """Encode text that is not ASCII, or return NULL at a lone surrogate."""
    cdef Py_ssize_t left = PyUnicode_GET_LENGTH(text), size
    cdef int width = PyUnicode_KIND(text)
    cdef const char *s = <const char *> PyUnicode_DATA(text)
    if width == 0:  # text of the old C API without its characters yet
        return NULL
    p[0] = b'"'
    p += 1
    while left:
        size = min(left, _PIECE)
        if out.limit - p < 6 * size + _ROOM:
            p = _grow(out, p, 6 * size + _ROOM)
        p = put_wide(p, s, size, width)
        if p is NULL:
            return NULL
        s += size * width
        left -= size
    p[0] = b'"'
    return p + 1


cdef char *_put_long(char *p, PyObject *value) noexcept:
    """Encode an integer of any size, or return NULL if the server would change it."""
    cdef int overflow
    cdef int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or not -_MAX_INTEGER <= number <= _MAX_INTEGER:
        return NULL
    return put_integer(p, number)


cdef char *_put_float(char *p, double number) except? NULL:
    """Encode a float like `float.__repr__`, or return NULL if it is not finite."""
    if number - number != 0:
        return NULL
    if not NO_GIL and not powers[0].high:
        _fill_powers()
    return put_double(p, number)


cdef int _fill_powers() except -1:
    """Compute the powers of ten for `put_double`: their leading 128 bits, rounded up."""
    cdef int exponent
    cdef object one = 1, ten = 10
    for exponent in range(MOST_POWER, LEAST_POWER - 1, -1):  # powers[0] last, as a completion mark
        power = ten ** <object> abs(exponent)
        size = power.bit_length()
        if exponent < 0:
            leading = (one << size + 127) // power + 1
        else:
            leading = -(-(power << 128) >> size)
        powers[exponent - LEAST_POWER] = power_t(leading >> 64, leading & 0xFFFFFFFFFFFFFFFF)
    return 0


if NO_GIL:
    _fill_powers()
