"""The numbers of /metrics over 10,000 jobs of all outcomes, with a worker killed in between."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from time import sleep

import pytest

from faktory import Client
from faktory.server import EmbeddedServer

from .support import WORKER, Run, WaitUntil, pids, ready

JOBS = 10_000
CONCURRENCY = 5

PROGRAM = """
import os

import faktory
from faktory import Discard, Retry

RECORD = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def record(outcome):
    os.write(RECORD, f"{outcome} {faktory.current_job().jid}\\n".encode())

@faktory.job
def done():
    record("done")

@faktory.job
def discarded():
    record("discarded")
    raise Discard("not needed")

@faktory.job
def retried():
    record("retried")
    raise Retry(after=3600)

@faktory.job
def failed():
    record("failed")
    raise ValueError("failed")

@faktory.job(retry=0)
def exhausted():
    record("exhausted")
    raise ValueError("exhausted")

@faktory.job
async def waits():
    record("done")
"""

SCRAPES = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs: [{{job_name: faktory, static_configs: [{{targets: ["{place}"]}}]}}]
"""

Query = Callable[[str], dict[str, float]]


@pytest.fixture(params=["embedded", "real"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "real":
        yield request.getfixturevalue("real_server_url")
        return
    with EmbeddedServer() as server:
        yield server.url


@pytest.fixture
def prometheus(tmp_path: Path, wait_until: WaitUntil) -> Iterator[Callable[[str], Query]]:
    """`prometheus("127.0.0.1:7431")`: scrape a place; return what answers queries, by outcome."""
    if which("prometheus") is None:
        pytest.skip("needs prometheus (Debian: apt-get install prometheus)")
    started: list[subprocess.Popen[bytes]] = []

    def query(base: str, text: str) -> dict[str, float]:
        wanted = urllib.parse.urlencode({"query": text})
        with urllib.request.urlopen(f"{base}/api/v1/query?{wanted}", timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return {each["metric"].get("outcome", ""): float(each["value"][1]) for each in found}

    def start(place: str) -> Query:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (tmp_path / "prometheus.yml").write_text(SCRAPES.format(place=place))
        with (tmp_path / "prometheus.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [
                        "prometheus",
                        f"--config.file={tmp_path}/prometheus.yml",
                        f"--storage.tsdb.path={tmp_path}/data",
                        f"--web.listen-address=127.0.0.1:{port}",
                    ],
                    stdout=log,
                    stderr=log,
                )
            )
        base = f"http://127.0.0.1:{port}"

        def is_up() -> bool:
            try:
                return query(base, "up") == {"": 1}
            except OSError:
                return False

        wait_until(is_up)
        return lambda text: query(base, text)

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


def totals(client: Client) -> tuple[int, int]:
    info = client.info()["faktory"]
    return info["total_processed"], info["total_failures"]


@pytest.mark.soak
def test_prometheus_counts_what_the_server_counts_and_what_the_jobs_have_recorded(
    url: str,
    folder: Path,
    run: Run,
    wait_until: WaitUntil,
    prometheus: Callable[[str], Query],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    (folder / "outcomes.py").write_text(PROGRAM)
    monkeypatch.setenv("RECORD", str(folder / "record"))
    queue = f"health-{os.getpid()}"
    flags = ["-r", "outcomes", "-q", queue, "--processes", "2", "--health", "0", "-v"]
    supervisor = run(WORKER, *flags, "-c", str(CONCURRENCY), url=url)
    wait_until(lambda: ready(supervisor) == 2)
    found = re.search(r"health: http://(\S+) has", supervisor.said)
    assert found
    query = prometheus(found[1])
    types = ("done", "done", "waits", "discarded", "retried", "failed", "exhausted")
    with Client(url) as client:
        before = totals(client)

        def processed() -> int:
            return totals(client)[0] - before[0]

        kinds = [types[number % len(types)] for number in range(JOBS)]
        jobs = [
            {"jobtype": kind, "args": [], "queue": queue, "retry": 0 if kind[0] == "e" else 9}
            for kind in kinds
        ]
        assert not client.push_bulk(jobs)
        wait_until(lambda: processed() > JOBS // 4)
        os.kill(pids(supervisor)[0], signal.SIGKILL)
        # What the server had given to the dead worker, and it had not read, nobody runs.
        wait_until(lambda: not client.queue_latency(queue)[queue], 60)
        wait_until(lambda: ready(supervisor) == 3)
        client.clear("retries")
        client.clear("scheduled")
        sleep(5)  # a FETCH that brings no job takes 2 s, and so does the answer before it
        after = totals(client)
        counted = query("sum by (outcome) (faktory_jobs_total)")
        assert query("sum(resets(faktory_jobs_total[10m]))") == {"": 0}
        assert query("faktory_jobs_running") == {"": 0}
        with urllib.request.urlopen(f"http://{found[1]}/metrics", timeout=10) as answer:
            checked = subprocess.run(["promtool", "check", "metrics"], input=answer.read())
        assert checked.returncode == 0
    assert sum(counted.values()) == after[0] - before[0]
    assert counted["failed"] + counted["exhausted"] == after[1] - before[1]

    lines = [line.split() for line in (folder / "record").read_text().splitlines()]
    recorded = Counter(outcome for outcome, _ in lines)
    killed = re.search(r"which fail by that: (.*)", supervisor.said)
    dead = set(killed[1].split(", ")) if killed else set()
    unrecorded = dead - {jid for _, jid in lines}
    # A job that the dead worker was about to push again waits out its reservation.
    assert 0 <= len(lines) + len(unrecorded) - sum(counted.values()) <= CONCURRENCY
    for outcome in ("done", "discarded", "retried", "exhausted"):
        assert abs(recorded[outcome] - counted[outcome]) <= CONCURRENCY
    request.node.user_properties.append(
        ("measured", f"/metrics over {JOBS} jobs, {len(dead)} of a killed worker: {counted}")
    )
