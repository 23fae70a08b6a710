"""What users declare: jobs, their options, batches, middleware, and what a running job sees."""

from .batch import Batch
from .context import JobContext, current_job
from .definition import Job, external, job
from .middleware import client_middleware, worker_middleware

__all__ = [
    "Batch",
    "Job",
    "JobContext",
    "client_middleware",
    "current_job",
    "external",
    "job",
    "worker_middleware",
]
