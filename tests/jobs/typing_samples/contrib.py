"""Traces, reports of errors, and what a middleware asks about an error."""

# The libraries may not be where pyright looks for them.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from typing import Any, Literal, assert_type

from faktory.contrib import opentelemetry
from faktory.contrib.sentry import FaktoryIntegration
from faktory.jobs import JobContext, Next, outcome_of


def starting() -> None:
    opentelemetry.instrument()
    opentelemetry.instrument(None, links=False)
    opentelemetry.instrument(links="yes")  # type: ignore[arg-type]
    opentelemetry.uninstrument()
    FaktoryIntegration()
    FaktoryIntegration(report="all")
    FaktoryIntegration(report="some")  # type: ignore[arg-type]


def middleware(job: JobContext, payload: dict[str, Any], call_next: Next) -> object:
    try:
        return call_next()
    except Exception as error:
        assert_type(outcome_of(job, error), Literal["failed", "retried", "discarded", "exhausted"])
        raise
