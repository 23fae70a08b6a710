# cython: language_level=3, freethreading_compatible=True
"""The first try of an exchange, compiled: look, send and receive with the GIL released once.

The twin of `_exchange_py.py`, which is easier to read: same name, same results, same errors. Both
change in the same commit. It has no state but its socket and its parser, and waits only as long as
that socket blocks.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.string cimport memcmp

import os

from .wire.commands import expect_ok
from .wire.session import Answer

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    const short POLLIN
    int poll(pollfd *, unsigned long, int)

cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t send(int, const void *, size_t, int)
    Py_ssize_t recv(int, void *, size_t, int)

cdef extern from *:
    """
    #define NEW_TUPLE(type, items) PyTuple_Type.tp_new((PyTypeObject *)(type), items, NULL)
    """
    object NEW_TUPLE(object, tuple)

cdef enum:
    _ROOM = 4096  # bytes of an answer that are received at once; the rest is left in the socket

cdef object _answer = Answer
cdef object _expect_ok = expect_ok


@cython.final
@cython.auto_pickle(False)
cdef class Exchange:
    """Exchanges over one socket that blocks, for a moment at most.

    `can_read` is for the twin. What is received goes to `parser`.
    """

    cdef object _socket, _parser

    def __init__(self, sock, can_read, parser):
        self._socket = sock
        self._parser = parser

    def run(self, sent not None):
        """Send a command if the socket is open and silent, and receive some of the answer.

        Returns the answer in a list, if that is +OK; else how many bytes were sent, while the
        parser has what was received; an OSError if receiving failed after all was sent; None if
        nothing was sent: there are several commands, or there may be something to read first.
        Raises OSError if sending failed.
        """
        cdef pollfd look
        cdef char[_ROOM] room
        cdef Py_ssize_t done = 0, received = -1
        cdef int code = 0
        cdef bint silent
        if len(sent) != 1 or len(self._parser):
            return None
        command = sent[0]
        cdef bytes data = command.data
        cdef const char *start = PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        look.fd = self._socket.fileno()
        look.events = POLLIN
        look.revents = 0
        with nogil:
            silent = look.fd >= 0 and poll(&look, 1, 0) == 0
            if silent:
                done = send(look.fd, start, size, 0)
                if done == size:
                    received = recv(look.fd, room, _ROOM, 0)
                if done < 0 or received < 0:
                    code = errno
        if not silent:
            return None
        if received > 0:
            if received == 5 and memcmp(room, b"+OK\r\n", 5) == 0 and command.read is _expect_ok:
                return [NEW_TUPLE(_answer, ((command, None, None),))]
            self._parser.feed(room[:received])
            return done
        if received == 0 or 0 <= done < size:
            return done
        if code == EINTR:
            PyErr_CheckSignals()
        elif code != EAGAIN:
            error = OSError(code, os.strerror(code))
            if done < 0:
                raise error
            return error
        return max(done, 0)
