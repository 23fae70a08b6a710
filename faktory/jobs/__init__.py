"""Declaring and pushing jobs: their options, batches, middleware, and the context of a running one.

The types of the public signatures are here, too.
"""

from . import backoff
from .batch import Batch, Callback
from .chain import Chain, Next
from .context import JobContext, LastError, current_job
from .definition import FunctionJob, Job, external, job
from .middleware import ClientMiddleware, WorkerMiddleware, client_middleware, worker_middleware
from .options import Declared, Options
from .push import Duration, Instant, Push
from .registry import ExhaustedHandler
from .spec import DeclaredJob

__all__ = [
    "Batch",
    "Callback",
    "Chain",
    "ClientMiddleware",
    "Declared",
    "DeclaredJob",
    "Duration",
    "ExhaustedHandler",
    "FunctionJob",
    "Instant",
    "Job",
    "JobContext",
    "LastError",
    "Next",
    "Options",
    "Push",
    "WorkerMiddleware",
    "backoff",
    "client_middleware",
    "current_job",
    "external",
    "job",
    "worker_middleware",
]
