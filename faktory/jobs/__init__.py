"""What users declare: jobs, their options, and the context that a running one sees."""

from .context import JobContext, current_job
from .definition import Job, job

__all__ = ["Job", "JobContext", "current_job", "job"]
