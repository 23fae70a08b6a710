# cython: language_level=3, cdivision=True
"""The protocol core, compiled: replies in, command lines and job JSON out and in, jids.

The twin of `_proto_py.py`, which says what each of these means: same names, same order, same
errors, same bytes consumed; a change to one lands in the other in the same commit.

Rules, beside those of the twin: the fast paths take exact builtin types and regular JSON and
give up on anything else; `_json` then goes through the value or the bytes again, with the result
or the text of the error. Nothing here recurses. A pointer into an object lives inside one
function, which runs no Python code meanwhile or holds the object. What is shared (jids, keys) is
kept consistent by the GIL.

Output goes to an `_Out`. Who writes has its position `p` in a register and finds room for _ROOM
bytes there; what may be longer asks for more first.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memmove, strlen

import os
from enum import Enum

from .exceptions import FaktoryPayloadError, FaktoryProtocolError, FaktoryServerError

cdef extern from *:
    r"""
    #include <float.h>
    #include <string.h>
    #if defined(__SSE2__) || defined(_M_X64)
    #include <emmintrin.h>
    #endif
    #if defined(_MSC_VER)
    #include <intrin.h>
    #endif

    /* A stop is what JSON text does not hold as it is: a control, the quote, the backslash.
       The result has the high bit of each stop, and perhaps of bytes above the lowest of them. */
    #define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))
    static inline uint64_t stops(uint64_t w) {
        uint64_t quote = w ^ EACH('"'), backslash = w ^ EACH('\\');
        return ((~w & (w - EACH(0x20))) | (~quote & (quote - EACH(1)))
                | (~backslash & (backslash - EACH(1)))) & EACH(0x80);
    }

    /* How many of the STEP bytes at s come before a stop; sets *wide if they are not all ASCII. */
    #if defined(__SSE2__) || defined(_M_X64)
    #define STEP 16
    static inline int run(const char *s, int *wide) {
        __m128i v = _mm_loadu_si128((const __m128i *)s);
        __m128i marks = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')),
                                     _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
        __m128i controls = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1F)), v);
        unsigned found = (unsigned)_mm_movemask_epi8(_mm_or_si128(marks, controls)) | 1u << STEP;
    #if defined(_MSC_VER)
        unsigned long n;
        _BitScanForward(&n, found);
    #else
        int n = __builtin_ctz(found);
    #endif
        *wide |= _mm_movemask_epi8(v) & ((1 << n) - 1);
        return (int)n;
    }
    #else
    #define STEP 8
    static inline int run(const char *s, int *wide) {
        uint64_t w;
        int n = 0;
        memcpy(&w, s, 8);
        while (n < STEP && (!stops(w) || !stops(EACH(0x80) | (unsigned char)s[n])))
            *wide |= s[n++] & 0x80;
        return n;
    }
    #endif

    /* Two numbers that hold all of n characters, at most 16; what is behind those is not read. */
    static inline void both_ends(const char *s, Py_ssize_t n, uint64_t *head, uint64_t *tail) {
        uint32_t a, b;
        if (n >= 8) {
            memcpy(head, s, 8);
            memcpy(tail, s + n - 8, 8);
        } else if (n >= 4) {
            memcpy(&a, s, 4);
            memcpy(&b, s + n - 4, 4);
            *head = *tail = a | (uint64_t)b << 32;
        } else {
            const unsigned char *u = (const unsigned char *)s;
            *head = *tail = n ? EACH(0x80) << 24 | u[0] | u[n / 2] << 8 | u[n - 1] << 16 : EACH(0x80);
        }
    }

    static const double POWERS[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7,
                                    1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};

    #define ASCII_DATA(text) ((char *)((PyASCIIObject *)(text) + 1))
    #define OWNED(pointer) (pointer)
    #define TYPE(pointer) ((PyObject *)Py_TYPE(pointer))
    """
    const int STEP
    int run(const char *, int *) noexcept
    uint64_t stops(uint64_t) noexcept
    void both_ends(const char *, Py_ssize_t, uint64_t *, uint64_t *) noexcept
    const double *POWERS
    const int FLT_EVAL_METHOD
    char *ASCII_DATA(PyObject *)
    object OWNED(PyObject *)
    PyObject *TYPE(PyObject *)

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    const int Py_DTSF_ADD_DOT_0
    void Py_INCREF(PyObject *)
    void Py_DECREF(PyObject *)
    void Py_XDECREF(PyObject *)
    void PyErr_Clear()
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *, Py_ssize_t) except NULL
    int _PyBytes_Resize(PyObject **, Py_ssize_t) except -1
    char *bytes_data "PyBytes_AS_STRING"(PyObject *)
    Py_ssize_t bytes_size "PyBytes_GET_SIZE"(PyObject *)
    PyObject *PyDict_New() noexcept
    int PyDict_Next(PyObject *, Py_ssize_t *, PyObject **, PyObject **) noexcept
    int PyDict_SetItem(PyObject *, PyObject *, PyObject *) noexcept
    PyObject *PyFloat_FromDouble(double) noexcept
    double PyFloat_AS_DOUBLE(PyObject *)
    PyObject *PyList_New(Py_ssize_t) noexcept
    int PyList_Append(PyObject *, PyObject *) noexcept
    PyObject *PySequence_Fast_GET_ITEM(PyObject *, Py_ssize_t)
    Py_ssize_t PySequence_Fast_GET_SIZE(PyObject *)
    PyObject *PyLong_FromLongLong(long long) noexcept
    PyObject *PyLong_FromUnicodeObject(PyObject *, int) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject *, int *) noexcept
    Py_buffer *PyMemoryView_GET_BUFFER(object)
    Py_hash_t PyObject_Hash(PyObject *) noexcept
    char *PyOS_double_to_string(double, char, int, int, int *) except NULL
    double PyOS_string_to_double(const char *, char **, PyObject *) noexcept
    PyObject *PyUnicode_AsUTF8String(PyObject *) noexcept
    PyObject *PyUnicode_DecodeUTF8(const char *, Py_ssize_t, const char *) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject *)
    bint PyUnicode_IS_COMPACT_ASCII(PyObject *)
    PyObject *PyUnicode_New(Py_ssize_t, uint32_t) noexcept


MAX_BULK = 512 * 1024 * 1024
"""Bytes of a bulk reply: what Redis, which keeps the server's jobs, stores in a value at most."""

MAX_LINE = 1024 * 1024
"""Bytes of any other reply: an error may echo the command that it refuses."""

cdef enum:
    # Bytes of room that a parser offers at least, and may buffer beyond one reply of full size.
    _SPARE = 64 * 1024
    # Bytes of buffer that a parser keeps at most while nothing is in it.
    _KEPT = 1024 * 1024
    # Digits of a number in a reply: those of a signed 64-bit integer.
    _MAX_DIGITS = 19
    # Job ids made from one read of the system's random source.
    _JIDS = 256
    # `_json.MAX_DEPTH`.
    _MAX_DEPTH = 512
    # Bytes that may be written without a look at the room: any number, a few marks.
    _ROOM = 64
    # Bytes of output that need no object before they are complete.
    _SCRATCH = 2048
    # Characters of a key that is kept, and how many such keys at most (a power of two).
    _MAX_KEY = 16
    _KEYS = 1024

cdef int64_t _MAX_INTEGER = 1 << 53  # `_json.MAX_INTEGER`

cdef struct _Out:
    PyObject *whole  # the bytes object that the output moved to when it outgrew `scratch`
    char *limit
    char[_SCRATCH] scratch

cdef struct _Open:
    PyObject *container
    Py_ssize_t pos

cdef struct _Key:
    PyObject *text
    uint64_t head
    uint64_t tail
    Py_ssize_t size


class NeedData(Enum):
    """The type of NEED_DATA, by which type checkers tell it from a reply."""

    NEED_DATA = "no whole reply yet"


NEED_DATA = NeedData.NEED_DATA
cdef object _need_data = NEED_DATA


@cython.final
@cython.auto_pickle(False)
cdef class ReplyParser:
    """Cut a byte stream into replies.

    Give it bytes by `feed`, or let a socket write into `get_buffer` and say how many by
    `buffer_updated`; take replies by `next` or `next_json` until NEED_DATA comes. `max_bulk`
    and `max_line` are bytes without the framing. Bytes that are no reply raise
    FaktoryProtocolError as soon as the first wrong one is there.
    """

    cdef bytearray _buffer
    cdef Py_ssize_t _start  # where the next reply begins
    cdef Py_ssize_t _end  # how far the buffer is filled
    cdef Py_ssize_t _scanned  # how far a line was already searched for its end
    cdef Py_ssize_t _max_bulk
    cdef Py_ssize_t _max_line
    cdef Py_ssize_t _max_waiting
    cdef str _failure

    def __cinit__(self, max_bulk=MAX_BULK, max_line=MAX_LINE):
        self._max_bulk = max_bulk
        self._max_line = max_line
        self._max_waiting = min(max_bulk + max_line + _SPARE, PY_SSIZE_T_MAX)
        self._buffer = bytearray(_SPARE)
        self._failure = ""

    def feed(self, data):
        """Add received bytes, split anywhere."""
        cdef memoryview view
        cdef const char *source
        cdef Py_ssize_t size
        if type(data) is bytes:
            source = PyBytes_AS_STRING(data)
            size = PyBytes_GET_SIZE(data)
        else:
            view = _contiguous(data)
            source = <const char *> PyMemoryView_GET_BUFFER(view).buf
            size = PyMemoryView_GET_BUFFER(view).len
        self._make_room(size)
        if size:
            memmove(PyByteArray_AS_STRING(self._buffer) + self._end, source, size)
        self._add(size)

    def get_buffer(self, Py_ssize_t sizehint=-1):
        """Lend writable room for `sizehint` bytes or more, until the next call of any method."""
        self._make_room(max(sizehint, _SPARE))
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, Py_ssize_t nbytes):
        """Say how many bytes were written into what `get_buffer` lent."""
        self._refuse_if_failed()
        if not 0 <= nbytes <= PyByteArray_GET_SIZE(self._buffer) - self._end:
            raise ValueError(f"{nbytes} bytes are not within what get_buffer lent")
        self._add(nbytes)

    def next(self):
        """Take the next reply, or NEED_DATA.

        `+` gives a str, `$` bytes, `$-1` None, `:` an int, `-` a FaktoryServerError.
        """
        return self._next(False)

    def next_json(self):
        """Take the next reply as `next` does, but a bulk reply comes decoded from JSON.

        FaktoryJSONError where it is none; that reply is consumed.
        """
        return self._next(True)

    cdef object _next(self, bint decode):
        self._refuse_if_failed()
        if self._start == self._end:
            return _need_data
        cdef unsigned char kind = PyByteArray_AS_STRING(self._buffer)[self._start]
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
        cdef int64_t size = 0
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
        cdef bytearray buffer = self._buffer  # held: consumed before it is read
        cdef const char *data = PyByteArray_AS_STRING(buffer) + begin
        if data[size] != b"\r":
            raise self._fail(f"a bulk reply ends with \\r\\n, {self._not_with(begin + size)}")
        if self._end - begin == size + 1:
            return _need_data
        if data[size + 1] != b"\n":
            raise self._fail(f"a bulk reply ends with \\r\\n, {self._not_with(begin + size + 1)}")
        self._consume(begin + size + 2)
        return _load(data, size) if decode else PyBytes_FromStringAndSize(data, size)

    cdef object _integer(self):
        cdef int64_t value = 0
        cdef Py_ssize_t end = self._number("an integer", 0x7FFFFFFFFFFFFFFF, &value)
        if end == 0:
            return _need_data
        self._consume(end)
        return value

    cdef Py_ssize_t _number(self, str what, int64_t limit, int64_t *number) except -1:
        """Read the number behind the type byte; return where its line ends, 0 if not there yet."""
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
        """Take a line without its type byte and end.

        The server cuts error texts by bytes, so a character may be broken: it is replaced.
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

    cdef void _consume(self, Py_ssize_t end) except *:
        self._start = end
        self._scanned = 0
        if end == self._end:
            self._start = self._end = 0
            if PyByteArray_GET_SIZE(self._buffer) > _KEPT:
                self._buffer = bytearray(_SPARE)

    cdef int _add(self, Py_ssize_t nbytes) except -1:
        self._end += nbytes
        cdef Py_ssize_t waiting = self._end - self._start
        if waiting > self._max_waiting:
            raise self._fail(f"{waiting} bytes wait unread, which is too many")
        return 0

    cdef int _make_room(self, Py_ssize_t size) except -1:
        """See that `size` bytes fit behind the data; a buffer of which a view is out stays whole.

        Moving is paid for by what was read since, growing by what has arrived.
        """
        self._refuse_if_failed()
        cdef Py_ssize_t all_room = PyByteArray_GET_SIZE(self._buffer)
        if all_room - self._end >= size:
            return 0
        cdef bytearray fresh = self._buffer
        cdef Py_ssize_t waiting = self._end - self._start
        if size > all_room // 2 - waiting:
            fresh = bytearray(max(<object> waiting + size, <object> waiting * 2))
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

    cdef int _refuse_if_failed(self) except -1:
        if self._failure:
            raise FaktoryProtocolError(self._failure)
        return 0


def load_json(data):
    """Decode UTF-8 JSON with the meaning of `json.loads`.

    FaktoryJSONError, with the offset in bytes, for what is none, for NaN, infinities and numbers
    that overflow to one, and for more than 512 containers inside one another.
    """
    cdef memoryview view
    if type(data) is bytes:
        return _load(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    view = _contiguous(data)
    return _load(<char *> PyMemoryView_GET_BUFFER(view).buf, PyMemoryView_GET_BUFFER(view).len)


def dump_json(value):
    """Encode as compact UTF-8 JSON.

    FaktoryPayloadError, with the path to the value and what to do, for what the server would
    change: integers beyond +-2^53, NaN and infinities, lone surrogates, keys that are no text,
    types that JSON lacks, more than 512 containers inside one another. Subclasses of `int`,
    `str`, `float`, `dict`, `list` and `tuple` go as their base.
    """
    cdef _Out out
    cdef char *p = _open(&out)
    try:
        p = _dump(&out, p, value, "", 0)
        return _close(&out, p)
    finally:
        Py_XDECREF(out.whole)


def encode_command(verb, *words, json=None):
    """Encode a command line: verb, words, and `json` behind them unless it is None.

    FaktoryPayloadError for a word that is empty or holds a space, a line end or any other
    character that cannot be shown: the server splits the line at those.
    """
    cdef _Out out
    cdef char *p = _open(&out)
    try:
        p = _put_word(&out, p, verb, verb)
        for word in words:
            p[0] = b" "
            p = _put_word(&out, p + 1, word, verb)
        if json is not None:
            p[0] = b" "
            p += 1
            if verb == "MUTATE":  # the server splits it at spaces (`server/mutate.go: mutate`)
                p = _put_bytes(&out, p, dump_json(json).replace(b" ", b"\\u0020"))
            else:
                p = _dump(&out, p, json, "", 0)
        p = _put(p, b"\r\n", 2)
        return _close(&out, p)
    finally:
        Py_XDECREF(out.whole)


def encode_push(job):
    """Encode the PUSH of a job; see `dump_json` for what is refused."""
    if not isinstance(job, dict):
        _refuse_job(job, "the job")
    cdef _Out out
    cdef char *p = _open(&out)
    try:
        p = _put(p, b"PUSH ", 5)
        p = _dump(&out, p, job, "", 0)
        p = _put(p, b"\r\n", 2)
        return _close(&out, p)
    finally:
        Py_XDECREF(out.whole)


def encode_push_bulk(jobs):
    """Encode the PUSHB of many jobs; a refusal's path begins with the job's index."""
    cdef Py_ssize_t index = 0
    cdef _Out out
    cdef char *p = _open(&out)
    try:
        p = _put(p, b"PUSHB [", 7)
        for job in jobs:
            if not isinstance(job, dict):
                _refuse_job(job, f"jobs[{index}]")
            if index:
                p = _put(p, b",", 1)
            p = _dump(&out, p, job, "jobs", index)
            index += 1
        p = _put(p, b"]\r\n", 3)
        return _close(&out, p)
    finally:
        Py_XDECREF(out.whole)


@cython.final
@cython.auto_pickle(False)
cdef class JobTemplate:
    """A job type and its options, rendered once, for pushing many of it.

    `options` are fields of the job on the wire (`queue`, `retry`, `custom`...).
    """

    cdef bytes _head

    def __cinit__(self, jobtype, options):
        for name in ("jid", "jobtype", "args"):
            if name in options:
                raise FaktoryPayloadError(f"the template sets {name!r} itself. Leave it out.")
        self._head = dump_json({"jobtype": jobtype, **options})[:-1] + b',"jid":"'

    def encode_bulk(self, rows):
        """Encode one PUSHB with a job for each row of arguments; return it and the jids made."""
        cdef list jids = []
        cdef Py_ssize_t index = 0
        cdef _Out out
        cdef char *p = _open(&out)
        try:
            p = _put(p, b"PUSHB [", 7)
            for args in rows:
                if not isinstance(args, (list, tuple)):
                    from . import _json
                    raise FaktoryPayloadError(
                        f"rows[{index}] is {_json.kind(args)}; a row is a tuple of arguments. "
                        "For a single argument: (value,)."
                    )
                jid = _new_jid()
                jids.append(jid)
                if index:
                    p = _put(p, b",", 1)
                p = _put_bytes(&out, p, self._head)
                p = _put(p, ASCII_DATA(<PyObject *> jid), 24)
                p = _put(p, b'","args":', 9)
                p = _dump(&out, p, args, "rows", index)
                p = _put(p, b"}", 1)
                index += 1
            p = _put(p, b"]\r\n", 3)
            return _close(&out, p), jids
        finally:
            Py_XDECREF(out.whole)


def new_jid():
    """Make a job id: 24 random hex digits. Safe in threads and after fork."""
    return _new_jid()


cdef str _new_jid():
    global _jids_left
    cdef bytes block
    if not _jids_left:
        block = os.urandom(12 * _JIDS)  # another thread may do the same meanwhile: no harm
        memcpy(_random, PyBytes_AS_STRING(block), 12 * _JIDS)
        _jids_left = _JIDS
    _jids_left -= 1
    cdef const unsigned char *taken = _random + 12 * _jids_left
    jid = OWNED(PyUnicode_New(24, 127))
    cdef char *p = ASCII_DATA(<PyObject *> jid)
    cdef int i
    for i in range(12):
        p[2 * i] = b"0123456789abcdef"[taken[i] >> 4]
        p[2 * i + 1] = b"0123456789abcdef"[taken[i] & 15]
    return jid


cdef unsigned char[12 * _JIDS] _random
cdef Py_ssize_t _jids_left = 0


def _forget_jids():
    global _jids_left
    _jids_left = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_jids)


cdef memoryview _contiguous(data):
    view = memoryview(data)
    return (view if view.c_contiguous else memoryview(view.tobytes())).cast("B")


cdef object _load(const char *data, Py_ssize_t size):
    cdef PyObject *value = _read(data, data + size)
    if value is not NULL:
        return OWNED(value)
    PyErr_Clear()
    from . import _json
    return _json.read(data[:size])


cdef PyObject *_read(const char *p, const char *end) noexcept:
    """Decode one value of JSON that fills all bytes, or return NULL.

    A container joins its parent when it opens, so that the root owns everything.
    """
    cdef (PyObject *)[_MAX_DEPTH] parents
    cdef int depth = 0
    cdef PyObject *root = NULL
    cdef PyObject *here = NULL  # the innermost open container
    cdef PyObject *key = NULL  # owned, while `here` is a dict that waits for its value
    cdef PyObject *value
    cdef bint opens
    cdef char closing = 0
    while True:
        p = _skip_space(p, end)
        if p == end:
            break
        opens = False
        if p[0] == b'"':
            p = _read_text(p + 1, end, &value)
        elif p[0] == b"{" or p[0] == b"[":
            if depth == _MAX_DEPTH:
                break
            opens = True
            value = PyDict_New() if p[0] == b"{" else PyList_New(0)
            p += 1
        elif p[0] == b"-" or b"0" <= p[0] <= b"9":
            p = _read_number(p, end, &value)
        else:
            p = _read_word(p, end, &value)
        if p is NULL or value is NULL:
            break
        if here is NULL:
            root = value
        elif closing == b"}":
            if PyDict_SetItem(here, key, value) < 0:
                Py_DECREF(value)
                break
            Py_DECREF(key)
            Py_DECREF(value)
            key = NULL
        else:
            if PyList_Append(here, value) < 0:
                Py_DECREF(value)
                break
            Py_DECREF(value)
        if opens:
            parents[depth] = here
            depth += 1
            here = value
            closing = b"}" if TYPE(here) == <PyObject *> dict else b"]"
            p = _skip_space(p, end)
            if p == end or p[0] != closing:
                if closing == b"}":
                    p = _read_key(p, end, &key)
                    if p is NULL:
                        break
                continue
        while depth:
            p = _skip_space(p, end)
            if p == end or p[0] != closing:
                break
            p += 1
            depth -= 1
            here = parents[depth]
            closing = b"}" if depth and TYPE(here) == <PyObject *> dict else b"]"
        if depth == 0:
            if _skip_space(p, end) != end:
                break
            return root
        if p == end or p[0] != b",":
            break
        p += 1
        if closing == b"}":
            p = _read_key(_skip_space(p, end), end, &key)
            if p is NULL:
                break
    Py_XDECREF(key)
    Py_XDECREF(root)
    return NULL


cdef inline const char *_skip_space(const char *p, const char *end) noexcept:
    while p < end and (p[0] == b" " or p[0] == b"\n" or p[0] == b"\r" or p[0] == b"\t"):
        p += 1
    return p


cdef inline const char *_find_stop(const char *p, const char *end, int *wide) noexcept:
    """Find the next stop, or the end; set `wide` where there is more than ASCII before it."""
    cdef int n
    while end - p >= STEP:
        n = run(p, wide)
        p += n
        if n < STEP:
            return p
    while p < end and not _is_stop(p[0]):
        wide[0] |= p[0] & 0x80
        p += 1
    return p


cdef inline bint _is_stop(unsigned char c) noexcept:
    return c < 0x20 or c == b'"' or c == b"\\"


cdef inline const char *_read_text(const char *p, const char *end, PyObject **value) noexcept:
    """Decode text from behind its opening quote; return the position behind the closing one."""
    cdef int wide = 0
    cdef const char *stop = _find_stop(p, end, &wide)
    if stop == end or stop[0] != b'"':
        return _read_escaped(p, stop, end, wide, value)
    if wide:
        value[0] = PyUnicode_DecodeUTF8(p, stop - p, NULL)
    else:
        value[0] = PyUnicode_New(stop - p, 127)
        if value[0] is not NULL:
            memcpy(ASCII_DATA(value[0]), p, stop - p)
    return stop + 1


cdef const char *_read_escaped(
    const char *p, const char *stop, const char *end, int wide, PyObject **value
) noexcept:
    """Decode text whose first stop is no quote: replace escapes by UTF-8, which is never longer.

    Lone surrogates are well among ASCII only: "surrogatepass" would take raw ones, too.
    """
    cdef char[512] small
    cdef char *start = small
    cdef char *to
    cdef bint lone = False
    while stop == end or stop[0] != b'"':
        if end - stop < 2 or stop[0] != b"\\":
            return NULL
        stop = _find_stop(stop + 2, end, &wide)
    if stop - p > <Py_ssize_t> sizeof(small):
        start = <char *> PyMem_Malloc(stop - p)
        if start is NULL:
            return NULL
    to = start
    while p is not NULL and p < stop:
        if p[0] == b"\\":
            p = _read_escape(p, stop, &to, &lone)
        else:
            to[0] = p[0]
            to += 1
            p += 1
    value[0] = NULL
    if p is not NULL and not (lone and wide):
        value[0] = PyUnicode_DecodeUTF8(start, to - start, b"surrogatepass" if lone else b"strict")
    if start != small:
        PyMem_Free(start)
    return stop + 1


cdef const char *_read_escape(const char *p, const char *stop, char **to, bint *lone) noexcept:
    """Replace the escape at `p`; before `stop` there is at least the letter of it."""
    cdef int code
    cdef int low
    cdef const char *known = <const char *> memchr(b'""\\\\//b\bf\fn\nr\rt\t', p[1], 16)
    if p[1] != b"u":
        if known is NULL or p[1] < 0x20:
            return NULL
        to[0][0] = known[1]
        to[0] += 1
        return p + 2
    code = _read_hex(p, stop)
    if code < 0:
        return NULL
    p += 6
    if 0xD800 <= code < 0xE000:
        low = _read_hex(p, stop) if code < 0xDC00 else -1
        if 0xDC00 <= low < 0xE000:
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            p += 6
        else:
            lone[0] = True
    if code < 0x80:
        to[0][0] = code
        to[0] += 1
        return p
    if code < 0x800:
        to[0][0] = 0xC0 | code >> 6
        to[0] += 1
    elif code < 0x10000:
        to[0][0] = 0xE0 | code >> 12
        to[0][1] = 0x80 | code >> 6 & 0x3F
        to[0] += 2
    else:
        to[0][0] = 0xF0 | code >> 18
        to[0][1] = 0x80 | code >> 12 & 0x3F
        to[0][2] = 0x80 | code >> 6 & 0x3F
        to[0] += 3
    to[0][0] = 0x80 | code & 0x3F
    to[0] += 1
    return p


cdef int _read_hex(const char *p, const char *stop) noexcept:
    r"""Return the number of the \u escape at `p`, or -1 where there is none."""
    cdef int code = 0
    cdef int i
    cdef char c
    if stop - p < 6 or p[0] != b"\\" or p[1] != b"u":
        return -1
    for i in range(2, 6):
        c = p[i] | 0x20
        if b"0" <= p[i] <= b"9":
            code = code * 16 + c - c"0"
        elif b"a" <= c <= b"f":
            code = code * 16 + c - c"a" + 10
        else:
            return -1
    return code


cdef inline const char *_read_key(const char *p, const char *end, PyObject **key) noexcept:
    """Decode a key and its colon; return the position behind it, or NULL and no key."""
    cdef int wide = 0
    cdef const char *stop
    if p == end or p[0] != b'"':
        return NULL
    p += 1
    stop = _find_stop(p, end, &wide)
    if not wide and stop - p <= _MAX_KEY and stop != end and stop[0] == b'"':
        key[0] = _short_key(p, stop - p)
        p = stop + 1
    else:
        p = _read_text(p, end, key)
    if p is NULL or key[0] is NULL:
        return NULL
    p = _skip_space(p, end)
    if p != end and p[0] == b":":
        return p + 1
    Py_DECREF(key[0])
    key[0] = NULL
    return NULL


cdef inline PyObject *_short_key(const char *p, Py_ssize_t size) noexcept:
    """Return a key of ASCII: those of jobs repeat, so they are kept, with their hashes."""
    cdef uint64_t head
    cdef uint64_t tail
    both_ends(p, size, &head, &tail)
    cdef uint64_t mixed = (head + tail * 31 + <uint64_t> size) * <uint64_t> 0x9E3779B97F4A7C15
    cdef _Key *kept = &_keys[(mixed >> 40) % _KEYS]
    cdef PyObject *text = kept.text
    if text is NULL or kept.head != head or kept.tail != tail or kept.size != size:
        text = PyUnicode_New(size, 127)
        if text is NULL:
            return NULL
        memcpy(ASCII_DATA(text), p, size)
        PyObject_Hash(text)
        Py_XDECREF(kept.text)
        kept[0] = _Key(text, head, tail, size)
    Py_INCREF(text)
    return text


cdef _Key[_KEYS] _keys


cdef inline const char *_read_number(const char *p, const char *end, PyObject **value) noexcept:
    cdef const char *start = p
    cdef bint negative = p[0] == b"-"
    cdef uint64_t number = 0
    cdef double result
    p += negative
    cdef const char *first = p
    p = _read_digits(p, end, &number)
    if p == first or (first[0] == b"0" and p - first > 1):
        return NULL
    cdef Py_ssize_t digits = p - first
    if p == end or (p[0] != b"." and p[0] | 0x20 != b"e"):
        if digits < 19:
            value[0] = PyLong_FromLongLong(-<int64_t> number if negative else <int64_t> number)
        else:
            value[0] = _long_integer(start, p - start)
        return p
    if p[0] == b".":
        first = p + 1
        p = _read_digits(first, end, &number)
        if p == first:
            return NULL
        digits += p - first
    # The quotient of two doubles that are exact is the nearest double to the exact quotient.
    if digits <= 15 and FLT_EVAL_METHOD == 0 and (p == end or p[0] | 0x20 != b"e"):
        result = <double> number / POWERS[p - first]
        value[0] = PyFloat_FromDouble(-result if negative else result)
        return p
    if p < end and p[0] | 0x20 == b"e":
        p += 1
        p += p < end and (p[0] == b"+" or p[0] == b"-")
        first = p
        p = _read_digits(first, end, &number)
        if p == first:
            return NULL
    if p == end:  # the conversion needs to see another byte
        return NULL
    result = PyOS_string_to_double(start, <char **> &start, NULL)
    if start != p or result - result != 0:
        return NULL
    value[0] = PyFloat_FromDouble(result)
    return p


cdef inline const char *_read_digits(const char *p, const char *end, uint64_t *number) noexcept:
    while p < end and b"0" <= p[0] <= b"9":
        number[0] = number[0] * 10 + <uint64_t> (p[0] - c"0")
        p += 1
    return p


cdef PyObject *_long_integer(const char *digits, Py_ssize_t size) noexcept:
    cdef PyObject *text = PyUnicode_DecodeUTF8(digits, size, NULL)
    if text is NULL:
        return NULL
    cdef PyObject *value = PyLong_FromUnicodeObject(text, 10)
    Py_DECREF(text)
    return value


cdef inline const char *_read_word(const char *p, const char *end, PyObject **value) noexcept:
    if end - p >= 4 and memcmp(p, b"true", 4) == 0:
        value[0] = <PyObject *> True
        p += 4
    elif end - p >= 4 and memcmp(p, b"null", 4) == 0:
        value[0] = <PyObject *> None
        p += 4
    elif end - p >= 5 and memcmp(p, b"false", 5) == 0:
        value[0] = <PyObject *> False
        p += 5
    else:
        return NULL
    Py_INCREF(value[0])
    return p


cdef inline char *_open(_Out *out) noexcept:
    out.whole = NULL
    out.limit = out.scratch + _SCRATCH
    return out.scratch


cdef inline char *_start(_Out *out) noexcept:
    return &out.scratch[0] if out.whole is NULL else bytes_data(out.whole)


cdef bytes _close(_Out *out, char *p):
    """Make bytes of what was written up to `p`."""
    cdef Py_ssize_t size = p - _start(out)
    if out.whole is NULL:
        return PyBytes_FromStringAndSize(out.scratch, size)
    _PyBytes_Resize(&out.whole, size)
    return <bytes> out.whole


cdef char *_grow(_Out *out, char *p, Py_ssize_t room) except NULL:
    """Find room for that many bytes; return where `p` has moved to."""
    cdef Py_ssize_t size = p - _start(out)
    cdef Py_ssize_t all_room = max(2 * (out.limit - _start(out)), size + room)
    if out.whole is NULL:
        out.whole = new_bytes(NULL, all_room)
        memcpy(bytes_data(out.whole), out.scratch, size)
    else:
        _PyBytes_Resize(&out.whole, all_room)
    out.limit = bytes_data(out.whole) + all_room
    return bytes_data(out.whole) + size


cdef inline char *_put(char *p, const char *data, Py_ssize_t size) noexcept:
    memcpy(p, data, size)
    return p + size


cdef char *_put_bytes(_Out *out, char *p, bytes data) except NULL:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    if out.limit - p < size + _ROOM:
        p = _grow(out, p, size + _ROOM)
    return _put(p, PyBytes_AS_STRING(data), size)


cdef char *_put_word(_Out *out, char *p, word, verb) except NULL:
    """Write a word of a command line, or refuse it."""
    cdef PyObject *text = <PyObject *> word
    cdef Py_ssize_t size
    cdef Py_ssize_t i = 0
    if TYPE(text) == <PyObject *> str and PyUnicode_IS_COMPACT_ASCII(text):
        size = PyUnicode_GET_LENGTH(text)
        while i < size and b" " < ASCII_DATA(text)[i] < 127:
            i += 1
        if size and i == size:
            if out.limit - p < size + _ROOM:
                p = _grow(out, p, size + _ROOM)
            return _put(p, ASCII_DATA(text), size)
    if not isinstance(word, str) or not word.isprintable() or word == "" or " " in word:
        raise FaktoryPayloadError(
            f"{word!r} cannot be a word of the command {verb!r}: "
            "use text without spaces, line ends and control characters, and not empty."
        )
    return _put_bytes(out, p, str.encode(word))


cdef char *_dump(_Out *out, char *p, value, str name, Py_ssize_t index) except NULL:
    """Write JSON; what is refused stands at `name[index]`, or alone where the name is empty."""
    cdef Py_ssize_t before = p - _start(out)
    p = _write(out, p, <PyObject *> value)
    if p is NULL:
        from . import _json
        written = _json.write(value, (name, index) if name else ())
        p = _put_bytes(out, _start(out) + before, written)
    return p


cdef char *_write(_Out *out, char *p, PyObject *value) except? NULL:
    """Encode a value of exact builtin types as JSON, or return NULL."""
    cdef _Open[_MAX_DEPTH] parents
    cdef int depth = 0
    cdef PyObject *here = NULL  # the innermost open container
    cdef Py_ssize_t pos = 0  # how far it is written
    cdef PyObject *key
    cdef PyObject *kind
    cdef int64_t number
    cdef int overflow
    while True:
        if out.limit - p < _ROOM:
            p = _grow(out, p, _ROOM)
        kind = TYPE(value)
        if kind == <PyObject *> str:
            p = _put_text(out, p, value)
        elif kind == <PyObject *> int:
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow or not -_MAX_INTEGER <= number <= _MAX_INTEGER:
                return NULL
            p = _put_integer(p, number)
        elif kind == <PyObject *> dict or kind == <PyObject *> list or kind == <PyObject *> tuple:
            if depth == _MAX_DEPTH:
                return NULL
            parents[depth] = _Open(here, pos)
            depth += 1
            here = value
            pos = 0
            p = _put(p, b"{" if kind == <PyObject *> dict else b"[", 1)
        elif value == <PyObject *> None:
            p = _put(p, b"null", 4)
        elif value == <PyObject *> True:
            p = _put(p, b"true", 4)
        elif value == <PyObject *> False:
            p = _put(p, b"false", 5)
        elif kind == <PyObject *> float:
            p = _put_float(p, PyFloat_AS_DOUBLE(value))
        else:
            return NULL
        if p is NULL:
            return NULL
        while depth:
            if TYPE(here) != <PyObject *> dict:
                if pos < PySequence_Fast_GET_SIZE(here):
                    value = PySequence_Fast_GET_ITEM(here, pos)
                    if pos:
                        p = _put(p, b",", 1)
                    pos += 1
                    break
                p = _put(p, b"]", 1)
            else:
                if PyDict_Next(here, &pos, &key, &value):
                    if TYPE(key) != <PyObject *> str:
                        return NULL
                    if p[-1] != b"{":
                        p = _put(p, b",", 1)
                    p = _put_text(out, p, key)
                    if p is NULL:
                        return NULL
                    p = _put(p, b":", 1)
                    break
                p = _put(p, b"}", 1)
            depth -= 1
            here = parents[depth].container
            pos = parents[depth].pos
            if out.limit - p < _ROOM:
                p = _grow(out, p, _ROOM)
        if depth == 0:
            return p


cdef inline char *_put_text(_Out *out, char *p, PyObject *text) except? NULL:
    """Write exact text as JSON, or return NULL at a lone surrogate."""
    cdef PyObject *utf8
    if PyUnicode_IS_COMPACT_ASCII(text):
        return _put_utf8(out, p, ASCII_DATA(text), PyUnicode_GET_LENGTH(text))
    utf8 = PyUnicode_AsUTF8String(text)
    if utf8 is NULL:
        PyErr_Clear()
        return NULL
    try:
        return _put_utf8(out, p, bytes_data(utf8), bytes_size(utf8))
    finally:
        Py_DECREF(utf8)


cdef inline char *_put_utf8(_Out *out, char *p, const char *s, Py_ssize_t size) except NULL:
    cdef int n
    cdef int wide = 0
    cdef uint64_t head
    cdef uint64_t tail
    if out.limit - p < size + _ROOM:
        p = _grow(out, p, size + _ROOM)
    p = _put(p, b'"', 1)
    while size >= STEP:
        memcpy(p, s, STEP)
        n = run(s, &wide)
        p += n
        s += n
        size -= n
        if n < STEP:
            p = _put_escape(p, s[0])
            s += 1
            size -= 1
            if out.limit - p < size + _ROOM:
                p = _grow(out, p, size + _ROOM)
    both_ends(s, size, &head, &tail)
    if not stops(head) | stops(tail):
        if size >= 8:
            memcpy(p, &head, 8)
            memcpy(p + size - 8, &tail, 8)
            p += size
        else:
            p = _put(p, s, size)
        return _put(p, b'"', 1)
    while size:
        if not _is_stop(s[0]):
            p = _put(p, s, 1)
        else:
            p = _put_escape(p, s[0])
            if out.limit - p < size + _ROOM:
                p = _grow(out, p, size + _ROOM)
        s += 1
        size -= 1
    return _put(p, b'"', 1)


cdef inline char *_put_escape(char *p, unsigned char c) noexcept:
    cdef char letter = b"uuuuuuuubtnufruuuuuuuuuuuuuuuuuu"[c] if c < 0x20 else c
    if letter != b"u":
        p[0] = b"\\"
        p[1] = letter
        return p + 2
    p = _put(p, b"\\u00", 4)
    p[0] = c"0" + (c >> 4)
    p[1] = b"0123456789abcdef"[c & 15]
    return p + 2


cdef inline char *_put_integer(char *p, int64_t number) noexcept:
    """Write an integer within +-2^53, digits from the last to the first."""
    cdef char[24] digits
    cdef char *start = digits + 24
    cdef uint64_t left = <uint64_t> (-number if number < 0 else number)
    if number < 0:
        p = _put(p, b"-", 1)
    while True:
        start -= 1
        start[0] = c"0" + <char> (left % 10)
        left //= 10
        if left == 0:
            return _put(p, start, digits + 24 - start)


cdef char *_put_float(char *p, double number) except? NULL:
    """Write a float as `float.__repr__` does, or return NULL where it is not finite."""
    if number - number != 0:
        return NULL
    cdef char *text = PyOS_double_to_string(number, b"r", 0, Py_DTSF_ADD_DOT_0, NULL)
    p = _put(p, text, strlen(text))
    PyMem_Free(text)
    return p


cdef int _refuse_job(job, str name) except -1:
    from . import _json
    raise FaktoryPayloadError(
        f"{name} is {_json.kind(job)}; a job is a dict with at least 'jobtype' and 'args'."
    )
