"""The Collector: what a program registers, and what /metrics shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from faktory import Client, Worker
from faktory.client import pushes
from faktory.server import EmbeddedServer
from faktory.server.state import Timing
from faktory.worker import counts
from faktory.worker.counts import MAX_SERIES

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


@pytest.mark.usefixtures("collector")
def test_both_formats_have_the_same_metrics() -> None:
    counts.enable().first("default", "work")
    for accept, parse in (
        ("", parse_text),
        ("text/plain; version=0.0.4", parse_text),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", parse_openmetrics),
    ):
        content_type, text = render([counts.enable().page], 0, accept)
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


# The page and the dashboard

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "examples/grafana/faktory-workers.json"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
SAMPLES = {f"{name}{suffix}" for name, kind in NAMES.items() for suffix in SUFFIXES[kind]}
LABELS = {"queue", "jobtype", "outcome", "job", "instance", "le"}


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def page() -> str:
    return (ROOT / "docs/metrics.md").read_text("utf-8")


def rules() -> str:
    (found,) = re.findall(r"```text\n# faktory-alerts.yml\n(.*?)```", page(), re.S)
    return found


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\bfaktory_\w+", text))


def test_each_panel_and_alert_asks_for_metrics_and_labels_that_there_are() -> None:
    texts = [*expressions(), rules(), *(v.get("definition", "") for v in variables())]
    for text in texts:
        assert metrics_in(text) <= SAMPLES, text
        for labels in re.findall(r"\{([^{}$]*?=[^{}]*)\}|by \(([^)]*)\)", text):
            names = re.findall(r"(\w+)\s*(?:[=!]~?\"|(?=,|$))", labels[0] or labels[1])
            if "summary" not in labels[0]:
                assert set(names) <= LABELS, text


def variables() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text())["templating"]["list"]


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for text in expressions() for name in metrics_in(text)}
    for name, kind in NAMES.items():
        assert shown & {f"{name}{suffix}" for suffix in SUFFIXES[kind]}, name


def test_the_outcomes_of_panels_and_alerts_are_those_that_are_counted() -> None:
    known = {*counts.OUTCOMES, *pushes.OUTCOMES}
    for text in (*expressions(), rules()):
        for value in re.findall(r'outcome[=!]~?"([^"]*)"', text):
            assert set(value.split("|")) <= known, text


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    places: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        taken = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & places, panel["title"]
        places |= taken
    assert len({panel["id"] for panel in panels()}) == len(panels())
    named = {name for text in expressions() for name in re.findall(r"\$(\w+)", text)}
    assert named - {"__rate_interval"} <= {variable["name"] for variable in variables()}


def test_the_page_lists_every_metric_and_outcome() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", page(), re.M)) - {"outcome"}
    expected = {f"{name}_total" if kind == "counter" else name for name, kind in NAMES.items()}
    assert listed == expected | set(counts.OUTCOMES)
    assert all(f"`{outcome}`" in page() for outcome in pushes.OUTCOMES)
    assert f"More than {MAX_SERIES} pairs" in page()


@pytest.mark.skipif(which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_promtool_accepts_the_alerts_and_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    made = [
        {"record": f"panel:{number}", "expr": text.replace("$__rate_interval", "1m")}
        for number, text in enumerate(expressions())
    ]
    (tmp_path / "panels.yml").write_text(
        json.dumps({"groups": [{"name": "panels", "rules": made}]})
    )
    (tmp_path / "alerts.yml").write_text(rules())
    for name in ("panels.yml", "alerts.yml"):
        checked = subprocess.run(
            ["promtool", "check", "rules", name], cwd=tmp_path, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
