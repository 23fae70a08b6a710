"""The two chains of this process: around each push, and around each run of a job.

A middleware is a plain callable that continues with `call_next()` and returns its result without
looking at it. A client middleware is called with the payload, a worker middleware with the job and
its payload. It may change the payload in place. If it does not call `call_next`, nothing is pushed
or run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .batch import join_batch
from .chain import Chain, Next
from .context import JobContext

ClientMiddleware = Callable[[dict[str, Any], Next], object]
"""Called with the payload and `call_next`."""

WorkerMiddleware = Callable[[JobContext, dict[str, Any], Next], object]
"""Called with the job, its payload and `call_next`."""

client_middleware: Final[Chain[ClientMiddleware]] = Chain([join_batch])
"""Around each push by `perform_async` and its like: `middleware(payload, call_next)`."""

worker_middleware: Final[Chain[WorkerMiddleware]] = Chain()
"""Around each run of a job on a worker of this process: `middleware(job, payload, call_next)`."""
