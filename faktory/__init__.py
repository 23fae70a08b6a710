"""Faktory for Python: push jobs from any process, run them on a worker.

Only the public names; each is imported when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

    from . import aio as aio
    from . import testing as testing
    from .aio import AsyncClient
    from .client import Client, Pool, Producer
    from .client.defaults import configure, pool
    from .client.factory import connection, get_client
    from .exceptions import (
        Discard,
        FaktoryAuthenticationError,
        FaktoryBulkError,
        FaktoryConnectionError,
        FaktoryConnectionResetError,
        FaktoryEnterpriseRequired,
        FaktoryError,
        FaktoryHandshakeError,
        FaktoryJSONError,
        FaktoryNotUnique,
        FaktoryOutcomeUnknown,
        FaktoryPayloadError,
        FaktoryProtocolError,
        FaktoryServerError,
        FaktoryTimeout,
        Retry,
        Shutdown,
        TimeLimitExceeded,
    )
    from .jobs import (
        Batch,
        Job,
        JobContext,
        Message,
        backoff,
        chain,
        client_middleware,
        current_job,
        external,
        job,
        periodic,
        worker_middleware,
    )
    from .proto import implementation, implementation_info
    from .worker import Queue, Worker, error_handlers, on

    default_job_options: MutableMapping[str, Any]  # another mapping can be assigned

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Batch",
    "Client",
    "Discard",
    "FaktoryAuthenticationError",
    "FaktoryBulkError",
    "FaktoryConnectionError",
    "FaktoryConnectionResetError",
    "FaktoryEnterpriseRequired",
    "FaktoryError",
    "FaktoryHandshakeError",
    "FaktoryJSONError",
    "FaktoryNotUnique",
    "FaktoryOutcomeUnknown",
    "FaktoryPayloadError",
    "FaktoryProtocolError",
    "FaktoryServerError",
    "FaktoryTimeout",
    "Job",
    "JobContext",
    "Message",
    "Pool",
    "Producer",
    "Queue",
    "Retry",
    "Shutdown",
    "TimeLimitExceeded",
    "Worker",
    "backoff",
    "chain",
    "client_middleware",
    "configure",
    "connection",
    "current_job",
    "default_job_options",
    "error_handlers",
    "external",
    "get_client",
    "implementation",
    "implementation_info",
    "job",
    "on",
    "periodic",
    "pool",
    "worker_middleware",
]

_ROOMS = {"aio", "client", "exceptions", "jobs", "outbox", "proto", "server", "testing", "worker"}
_MODULES = {
    "AsyncClient": "aio",
    "configure": "client.defaults",
    "default_job_options": "jobs.options",
    "pool": "client.defaults",
    "implementation": "proto",
    "implementation_info": "proto",
    **dict.fromkeys(("Client", "Pool", "Producer"), "client"),
    **dict.fromkeys(("connection", "get_client"), "client.factory"),
    **dict.fromkeys(("Queue", "Worker", "error_handlers", "on"), "worker"),
    **dict.fromkeys(
        (
            "Batch",
            "Job",
            "JobContext",
            "Message",
            "backoff",
            "chain",
            "client_middleware",
            "current_job",
            "external",
            "job",
            "periodic",
            "worker_middleware",
        ),
        "jobs",
    ),
}

if not TYPE_CHECKING:

    class _Package(ModuleType):
        """Make `faktory.default_job_options = {...}` set the default options of all jobs."""

        def __setattr__(self, name, value):
            if name == "default_job_options":
                value = import_module("faktory.jobs.options").set_defaults(value)
            super().__setattr__(name, value)

    sys.modules[__name__].__class__ = _Package

    def __getattr__(name):
        if name in _ROOMS:
            return import_module(f"faktory.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'faktory' has no attribute {name!r}")
        value = getattr(import_module(f"faktory.{_MODULES.get(name, 'exceptions')}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
