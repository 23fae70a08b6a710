"""Declaring and pushing jobs: their options, batches, middleware, and the context of a running one.

The types of the public signatures are here, too.
"""

from . import backoff
from .batch import Batch, Callback
from .context import JobContext, LastError, current_job
from .definition import FunctionJob, Job, external, job
from .message import JobChain, Message, chain
from .middleware import (
    AsyncMiddleware,
    BulkMiddleware,
    Chain,
    ClientChain,
    ClientMiddleware,
    Next,
    WorkerMiddleware,
    client_middleware,
    worker_middleware,
)
from .options import Declared, Options, PushOptions
from .push import Duration, Instant, Push
from .registry import ExhaustedHandler
from .retries import Outcome, outcome_of
from .spec import DeclaredJob
from .ticks import periodic

__all__ = [
    "AsyncMiddleware",
    "Batch",
    "BulkMiddleware",
    "Callback",
    "Chain",
    "ClientChain",
    "ClientMiddleware",
    "Declared",
    "DeclaredJob",
    "Duration",
    "ExhaustedHandler",
    "FunctionJob",
    "Instant",
    "Job",
    "JobChain",
    "JobContext",
    "LastError",
    "Message",
    "Next",
    "Options",
    "Outcome",
    "Push",
    "PushOptions",
    "WorkerMiddleware",
    "backoff",
    "chain",
    "client_middleware",
    "current_job",
    "external",
    "job",
    "outcome_of",
    "periodic",
    "worker_middleware",
]
