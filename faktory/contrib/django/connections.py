"""Django's connections to databases, around each job of a worker.

Rules: a job never begins with a connection that is too old or dead, and leaves none behind that
Django would close after a request. A job that a test runs in its own thread is left alone, since
its connection, and the transaction on it, are the test's. An async job makes its queries in a
thread of its own, as an async view does, and that thread's connections end with the job.
"""

from __future__ import annotations

from concurrent.futures import Executor, wait
from typing import Any, Final

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import close_old_connections, connections

from ...jobs import JobContext, Next

LONGEST_CLOSE: Final = 5.0
"""Seconds to wait for the connections of an async job: its thread may still be in a query."""


def fresh_connections(job: JobContext, payload: dict[str, Any], call_next: Next) -> object:  # noqa: ARG001
    """Run a job with connections that work, and close what it leaves: a worker middleware."""
    if job.in_test_thread:
        return call_next()
    _renew()
    context = ThreadSensitiveContext()
    # What its `async with` does, which would block the loop while the thread ends. The coroutine
    # of an async job runs in a copy of this context.
    token = SyncToAsync.thread_sensitive_context.set(context)
    try:
        return call_next()
    finally:
        SyncToAsync.thread_sensitive_context.reset(token)
        if (executor := SyncToAsync.context_to_thread_executor.pop(context, None)) is not None:
            _end(executor)
        close_old_connections()


def _renew() -> None:
    """Close this thread's old connections, and have the others tried before their next query.

    Django does that with CONN_HEALTH_CHECKS only: a request may be repeated by its user, and comes
    soon after another one. A worker may have waited for hours.
    """
    close_old_connections()
    for connection in connections.all(initialized_only=True):
        connection.health_check_enabled = True


def _end(executor: Executor) -> None:
    """Close the connections of an async job's thread, and let it end."""
    closed = executor.submit(connections.close_all)
    executor.shutdown(wait=False)
    wait([closed], LONGEST_CLOSE)
