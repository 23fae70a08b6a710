"""The Collector: what a program registers, and what /metrics shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from shutil import which

import pytest

from faktory import Client, Worker
from faktory.server import EmbeddedServer
from faktory.server.state import Timing
from faktory.worker import counts

pytest.importorskip("prometheus_client", reason="needs prometheus_client (extra metrics)")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from faktory.contrib.prometheus import Collector, render

NAMES = {
    "faktory_jobs": "counter",
    "faktory_job_seconds": "histogram",
    "faktory_job_wait_seconds": "histogram",
    "faktory_jobs_running": "gauge",
    "faktory_pushes": "counter",
    "faktory_threads_replaced": "counter",
    "faktory_log_lines_dropped": "counter",
    "faktory_heartbeat_age_seconds": "gauge",
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    yield Collector()
    counts.disable()


@pytest.fixture
def registry(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def test_a_program_registers_it_and_sees_its_workers_and_pushes(
    registry: CollectorRegistry, wait_until: object
) -> None:
    with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as server:
        with Client(server.url) as client:
            client.push({"jobtype": "work", "args": []})
        worker = Worker(server.url, burst=True)
        worker.register("work", lambda: None)
        worker.run()
    labels = {"queue": "default", "jobtype": "work", "outcome": "done"}
    value = registry.get_sample_value
    assert value("faktory_jobs_total", labels) == 1
    assert value("faktory_jobs_total", {**labels, "outcome": "failed"}) == 0
    assert value("faktory_job_seconds_count") == 1
    assert value("faktory_job_seconds_bucket", {"le": "+Inf"}) == 1
    assert value("faktory_job_wait_seconds_count") == 1
    assert value("faktory_job_wait_seconds_sum") < 60
    assert value("faktory_jobs_running") == 0
    assert value("faktory_pushes_total", {"outcome": "pushed"}) == 1
    assert value("faktory_threads_replaced_total") == 0
    assert value("faktory_log_lines_dropped_total") == 0
    assert value("faktory_heartbeat_age_seconds") is None  # no worker runs


def test_buckets_are_cumulative(collector: Collector) -> None:
    counted = counts.enable()
    tally = counted.tally()
    for seconds in (0.001, 0.005, 0.2, 10_000.0):
        tally.end("done", seconds)
    (found,) = [each for each in collector.collect() if each.name == "faktory_job_seconds"]
    buckets = {each.labels["le"]: each.value for each in found.samples if "le" in each.labels}
    assert (buckets["0.005"], buckets["0.1"], buckets["0.25"], buckets["3600.0"]) == (2, 2, 3, 3)
    assert buckets["+Inf"] == 4


def test_both_formats_have_the_same_metrics(collector: Collector) -> None:
    counts.enable().first("default", "work")
    for accept, parse in (
        ("", parse_text),
        ("text/plain; version=0.0.4", parse_text),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", parse_openmetrics),
    ):
        content_type, text = render(collector, accept)
        assert content_type.startswith(accept.split(";")[0] or "text/plain")
        found = {family.name: family.type for family in parse(text.decode())}
        assert found == {name: kind for name, kind in NAMES.items() if "heartbeat" not in name}


def test_it_describes_what_it_collects(collector: Collector) -> None:
    assert {family.name: family.type for family in collector.describe()} == NAMES


def test_two_collectors_in_one_registry_are_refused(
    registry: CollectorRegistry, collector: Collector
) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(Collector())


@pytest.mark.skipif(which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_promtool_finds_nothing_wrong(registry: CollectorRegistry) -> None:
    counts.enable().first("default", "work")
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_without_the_library_the_error_has_the_remedy() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "try:\n    import faktory.contrib.prometheus\n"
        "except ImportError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "pip install 'faktory-worker[metrics]'" in said
