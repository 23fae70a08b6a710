"""Faktory for Python: push jobs from any process, run them on a worker.

The public names, nothing else; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import Client, Pool, Producer, connection, get_client
    from .client.outlet import configure
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
        Shutdown,
        TimeLimitExceeded,
    )
    from .jobs import Job, JobContext, current_job, job
    from .proto import implementation, implementation_info
    from .worker import Worker

__version__ = "0.1.0"

__all__ = [
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
    "Pool",
    "Producer",
    "Shutdown",
    "TimeLimitExceeded",
    "Worker",
    "configure",
    "connection",
    "current_job",
    "get_client",
    "implementation",
    "implementation_info",
    "job",
]

_ROOMS = {"client", "exceptions", "jobs", "proto", "server", "worker"}
_HOMES = {
    "configure": "client.outlet",
    "implementation": "proto",
    "implementation_info": "proto",
    "Worker": "worker",
    **dict.fromkeys(("Client", "Pool", "Producer", "connection", "get_client"), "client"),
    **dict.fromkeys(("Job", "JobContext", "current_job", "job"), "jobs"),
}

if not TYPE_CHECKING:

    def __getattr__(name):
        if name in _ROOMS:
            return import_module(f"faktory.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'faktory' has no attribute {name!r}")
        value = getattr(import_module(f"faktory.{_HOMES.get(name, 'exceptions')}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
