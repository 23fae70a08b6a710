"""The exit codes of `faktory-worker` and of the tools: each code has one meaning."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Why a command ended."""

    STOPPED = 0  # after a signal, the server's terminate, --burst, --max-jobs or --max-memory, with
    # every job answered
    DONE = 0  # of a tool
    FAULT = 1  # a bug in faktory-worker
    FAILED = 1  # of a tool: the server refused, a job was not pushed, doctor found an error
    USAGE = 2  # an invalid flag, variable, key or address; no jobs to run
    IMPORT = 3  # a module of -r exists and cannot be imported
    REFUSED = 4  # the server refuses the password
    ABANDONED = 5  # stopped, with jobs that did not end in time, or reports not delivered
    CANNOT_START = 6  # the system gives too few threads or open files for -c, or not the port of
    # --health
    MISSING = 7  # -r names a module, a file or a folder that does not exist
    GAVE_UP = 8  # --processes: a worker ended five times running before it was ready
    UNREACHABLE = 9  # no connection to the server, or it broke; a worker waits for it
    DECLINED = 10  # the question whether to go on was not answered with yes
    INTERRUPTED = 130  # by INT, before there was a worker to stop


NEVER_BEGAN = frozenset((Exit.USAGE, Exit.IMPORT, Exit.REFUSED, Exit.CANNOT_START, Exit.MISSING))
"""The codes of a worker that could not begin, and that would end the same way again."""


class ExitError(Exception):
    """End the command with an exit code; the message says why, in one line."""

    def __init__(self, code: Exit, message: object) -> None:
        super().__init__(str(message))
        self.code = code


class UsageError(ExitError):
    """A flag, a variable, a key of the file or an argument is wrong."""

    def __init__(self, message: object) -> None:
        super().__init__(Exit.USAGE, message)
