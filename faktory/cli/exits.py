"""The exit codes of `faktory-worker` and of the tools, by name: one code has one meaning."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the exit code says."""

    STOPPED = 0  # after TERM, INT, the server's terminate or --max-jobs, with every job answered
    DONE = 0  # of a tool
    FAULT = 1  # an error that is ours
    FAILED = 1  # of a tool: the server refused, a job was not pushed, doctor found an error
    USAGE = 2  # a flag, a variable, a key or an address that cannot be; no jobs to run
    IMPORT = 3  # a module of -r that is there and cannot be imported
    REFUSED = 4  # the server refuses the password
    ABANDONED = 5  # stopped, with jobs that did not end in time, or reports not delivered
    CANNOT_START = 6  # the system gives too few threads for -c
    MISSING = 7  # -r names what is not there
    GAVE_UP = 8  # --processes: a worker ended five times running before it was ready
    UNREACHABLE = 9  # no connection to the server, or it broke; a worker waits for it
    DECLINED = 10  # asked whether to go on, nobody said yes
    INTERRUPTED = 130  # by INT, before there was a worker to stop


NEVER_BEGAN = frozenset((Exit.USAGE, Exit.IMPORT, Exit.REFUSED, Exit.CANNOT_START, Exit.MISSING))
"""What a worker says that has run no job, and would say again."""
