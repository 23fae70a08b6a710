"""Each block of code on the page about jobs, run unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest

import faktory
from faktory.client import defaults
from faktory.jobs import worker_middleware
from faktory.server import EmbeddedServer

PAGE = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(enterprise=True) as server, defaults.configured(url=server.url):
        yield server


def test_the_blocks_of_the_page_run_one_after_another(server: EmbeddedServer) -> None:
    names: dict[str, Any] = {
        "__name__": "page",
        "faktory": faktory,
        "language": ContextVar("language", default="en"),
        "notify_all": faktory.external("notify_all"),
        "import_rows": faktory.external("import_rows", lambda file, first: None),
    }
    for block in BLOCKS:
        exec(block.replace("tcp://other:7419", server.url), names)
    names["other"].close()
    with faktory.Client(server.url) as client:
        jobs = [client.fetch("low", "critical", "default") for _ in range(4)]
    assert [(job["jobtype"], job["custom"]) for job in jobs if job is not None] == [
        ("resize", {"tenant": 7, "user": 1}),
        ("resize", {"tenant": 7}),
        *[("import_rows", {"tenant": 7, "language": "en", "bid": names["batch"].bid})] * 2,
    ]
    assert len(worker_middleware) == 1


def test_a_thread_joins_the_batch_as_the_page_says(server: EmbeddedServer) -> None:
    work = faktory.external("import_rows")
    batch = faktory.Batch(success="done")
    with ThreadPoolExecutor(1) as executor, batch.jobs():
        executor.submit(work.perform_async, "cats.csv", 0).result()
        executor.submit(copy_context().run, work.perform_async, "cats.csv", 0).result()
        with faktory.Client(server.url) as client:
            client.push({"jobtype": "import_rows", "args": []})
    assert batch.status()["total"] == 1


def test_a_job_whose_push_failed_in_a_block_is_not_a_member(server: EmbeddedServer) -> None:
    work = faktory.external("import_rows").set(unique_for=60)
    batch = faktory.Batch(success="done")
    with batch.jobs():
        work.perform_async(1)
        with pytest.raises(faktory.FaktoryNotUnique):
            work.perform_async(1)
        with pytest.raises(faktory.FaktoryBulkError):
            work.perform_bulk([(1,)])
    assert batch.status()["total"] == 1
