"""The numbers of workers and pushes as metrics of Prometheus, by `prometheus_client`.

Rules: nothing is counted twice: the numbers are those of `worker/counts.py`, read when they are
asked for. The labels have a bounded number of values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Final

from ..worker import counts
from ..worker.counts import BUCKETS, Histogram, Numbers, Page

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import choose_encoder
except ImportError as error:
    raise ImportError(
        f"faktory.contrib.prometheus needs prometheus_client ({error}): "
        "pip install 'faktory-worker[metrics]'"
    ) from error

_BOUNDS: Final = [str(bound) for bound in BUCKETS]


class Collector:
    """The metrics of the workers and pushes of this process, for a registry of a program.

    `prometheus_client.REGISTRY.register(Collector())`. Pushes are counted from the first Collector
    of the process on, jobs of workers whose `run` begins after it.
    """

    def __init__(self) -> None:
        self._counts = counts.enable()

    def _numbers(self) -> Numbers:
        return counts.read([self._counts.page])

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without numbers, so that a registry knows their names."""
        return (*_families(), _beat_age())

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        numbers = self._numbers()
        jobs, seconds, wait, running, pushes, replaced, dropped = _families()
        for labels, number in sorted(numbers.jobs.items()):
            jobs.add_metric(labels, number)
        for family, histogram in ((seconds, numbers.seconds), (wait, numbers.wait)):
            family.add_metric([], _buckets(histogram), histogram.total)
        running.add_metric([], numbers.running)
        for outcome, number in numbers.pushes.items():
            pushes.add_metric([outcome], number)
        replaced.add_metric([], numbers.replaced)
        dropped.add_metric([], numbers.dropped)
        found: list[Metric] = [jobs, seconds, wait, running, pushes, replaced, dropped]
        if numbers.beat_at is not None:
            age = _beat_age()
            age.add_metric([], max(0.0, monotonic() - numbers.beat_at))
            found.append(age)
        return found


def _families() -> tuple[
    CounterMetricFamily,
    HistogramMetricFamily,
    HistogramMetricFamily,
    GaugeMetricFamily,
    CounterMetricFamily,
    CounterMetricFamily,
    CounterMetricFamily,
]:
    return (
        CounterMetricFamily(
            "faktory_jobs",
            "Runs of jobs whose report the server has answered, by their one outcome.",
            labels=("queue", "jobtype", "outcome"),
        ),
        HistogramMetricFamily("faktory_job_seconds", "How long runs of jobs took.", labels=()),
        HistogramMetricFamily(
            "faktory_job_wait_seconds",
            "How long jobs were in their queue until a worker fetched them.",
            labels=(),
        ),
        GaugeMetricFamily("faktory_jobs_running", "Jobs that run now.", labels=()),
        CounterMetricFamily("faktory_pushes", "Jobs that were pushed.", labels=("outcome",)),
        CounterMetricFamily(
            "faktory_threads_replaced",
            "Threads that were replaced, since their job was past its reservation.",
            labels=(),
        ),
        CounterMetricFamily(
            "faktory_log_lines_dropped",
            "Lines of the log that were dropped, since they could not be written in time.",
            labels=(),
        ),
    )


def _beat_age() -> GaugeMetricFamily:
    about = "Seconds since the server answered a heartbeat; of several workers the most."
    return GaugeMetricFamily("faktory_heartbeat_age_seconds", about, labels=())


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = list(zip(_BOUNDS, histogram.up_to, strict=True))
    return [*bounds, ("+Inf", histogram.number)]


class _OfPages(Collector):
    """The same of other processes, by their pages; `dropped` are lines of the log of this one."""

    def __init__(self, pages: Sequence[Page], dropped: int) -> None:
        self._pages = pages
        self._dropped = dropped

    def _numbers(self) -> Numbers:
        return counts.read(self._pages, self._dropped)


def render(pages: Sequence[Page], dropped: int, accept: str) -> tuple[str, bytes]:
    """Return content type and text of what is in pages, in the format that `accept` asks for.

    `accept` is the header of the request: OpenMetrics, or the text format of Prometheus. `dropped`
    are lines of the log of this process, beside those of the pages.
    """
    registry = CollectorRegistry()
    registry.register(_OfPages(pages, dropped))
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)
