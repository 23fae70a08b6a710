"""Each example runs unchanged: against the embedded server, and a real one if there is one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faktory import Client
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

EXAMPLES = Path(__file__).parent.parent / "examples"

EXPECTED = [
    "cat.png is now 100 pixels wide",
    "dog.png is now 200 pixels wide",
    "hello Ada, in English and français (",
    *(f"photo-{n}.png is now 50 pixels wide" for n in range(100)),
]
"""The output of the jobs, in any order, because a worker's threads run at the same time."""

IMPORTED = [
    text
    for file in ("cats.csv", "dogs.csv")
    for text in (*(f"{file}: rows {n}00 to {n}99" for n in (1, 2)), f"{file} is imported")
]


@pytest.fixture(params=["embedded", "real"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "real":
        yield request.getfixturevalue("real_server_url")
        return
    # A worker that stops waits for its FETCH.
    with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as server:
        yield server.url


def start(url: str, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=EXAMPLES,
        env={**os.environ, "FAKTORY_URL": url, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    "worker",
    [["worker.py"], ["-m", "faktory.cli.worker", "-r", "jobs.py", "-q", "images", "-q", "mail"]],
    ids=["worker.py", "faktory-worker"],
)
def test_the_worker_runs_the_jobs_of_the_producer(url: str, worker: list[str]) -> None:
    with start(url, "producer.py") as producer:
        pushed, _ = producer.communicate(timeout=20)
    assert producer.returncode == 0, pushed
    assert "many: 100" in pushed

    with start(url, *worker) as process, Client(url) as client:
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if all(text in seen for text in EXPECTED):
                break
        queues = client.info()["faktory"]["queues"]
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0, rest
    assert [text for text in EXPECTED if text not in seen] == []
    assert not queues.get("images")
    assert not queues.get("mail")


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (
            "async_jobs.py",
            [
                *(f"/page/{number} is fetched" for number in range(20)),
                "/slow takes too long",
                "closed after 20 pages",
                "failed: TimeLimitExceeded",
            ],
        ),
        ("asyncio_push.py", ["by tasks: 3", "refused: 0", "in the queue: 2003"]),
        ("asyncio_cancel.py", ["no job within 0.1 s", "fetched: work [1]"]),
        ("batch.py", ["pushed: today's files", *IMPORTED, "all files are imported"]),
        ("middleware.py", ["hello Ada", "bonjour Blaise", "greet took 0.", "stop took 0."]),
        (
            "outbox.py",
            [
                "rolled back, and no job is sent: the order is empty",
                "order 1 is confirmed: a cup",
                "orders that wait for a confirmation: 0",
            ],
        ),
        ("polyglot.py", ["mail to ada@example.org: hi", "ResizeImage ['cat.png', 100]"]),
        ("progress.py", ["working: 50 %, half of metropolis.mkv"]),
    ],
)
def test_an_example_with_its_own_server_runs_to_its_end(example: str, expected: list[str]) -> None:
    with start("tcp://127.0.0.1:1", example) as process:
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0, output
    assert [text for text in expected if text not in output] == []


def test_periodic_jobs_run_at_their_times() -> None:
    command = [sys.executable, "periodic.py"]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("swept at ") for line in lines) >= 2
    assert any(line.startswith("the report of ") for line in lines)
