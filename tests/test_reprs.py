"""What is shown of objects says what they are, is short, and has no password."""

from __future__ import annotations

import asyncio
import pydoc
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import get_type_hints

import pytest

import faktory
from faktory.client import defaults
from faktory.jobs import Declared, registry
from faktory.server import EmbeddedServer

URL = "tcp+tls://me:secret@example.com:7419"
SHOWN = "tcp+tls://me:***@example.com:7419"


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("FAKTORY_URL", "FAKTORY_PROVIDER"):
        monkeypatch.delenv(name, raising=False)
    with registry.isolated(), defaults.configured():
        yield


def make_client() -> faktory.Client:
    return faktory.Client(URL)


def test_a_pool_shows_its_address_and_its_use() -> None:
    assert repr(faktory.Pool(URL)) == f"<faktory.Pool {SHOWN}, 0 of 20 clients in use>"
    of_function = faktory.Pool(make_client, size=3)
    assert repr(of_function) == "<faktory.Pool of make_client, 0 of 3 clients in use>"
    with EmbeddedServer(password="secret") as server:
        pool = faktory.Pool(server.url)
        with pool.client():
            assert repr(pool).endswith(f":***@127.0.0.1:{server.port}, 1 of 20 clients in use>")
        assert repr(pool).endswith(" 0 of 20 clients in use>")
        pool.close()
    assert repr(pool).endswith(", closed>")


def test_a_pool_without_an_address_shows_that_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = faktory.Pool()
    assert repr(pool) == "<faktory.Pool tcp://localhost:7419, 0 of 20 clients in use>"
    with defaults.configured(url=URL):
        assert SHOWN in repr(pool)
    for wrong in ("secret", "tcp://me:secret@:x"):
        monkeypatch.setenv("FAKTORY_URL", wrong)
        assert repr(pool) == "<faktory.Pool without a valid address, 0 of 20 clients in use>"


def test_a_producer_shows_its_address_and_what_waits() -> None:
    producer = faktory.Producer(URL)
    assert repr(producer) == f"<faktory.Producer {SHOWN}, 0 jobs pending>"
    producer.close()
    assert repr(producer) == f"<faktory.Producer {SHOWN}, closed>"


def test_a_worker_shows_its_address_and_queues() -> None:
    worker = faktory.Worker(URL, queues=["a", {"b": 2, "c": 1}], concurrency=4)
    assert repr(worker) == (
        f"<faktory.Worker {SHOWN}, queues: {worker._queues}, concurrency: 4, not started>"
    )
    many = faktory.Worker(URL, queues=[f"queue-{number}" for number in range(1000)])
    assert len(repr(many)) < 400
    with EmbeddedServer() as server:
        worker = faktory.Worker(server.url, burst=True)
        seen: list[str] = []
        worker.on("startup", lambda: seen.append(repr(worker)))
        worker.run()
        assert seen[0].endswith(", running>")
        assert repr(worker).endswith(", ended>")


def test_an_embedded_server_shows_its_address_and_whether_it_runs() -> None:
    server = EmbeddedServer(password="secret")
    assert repr(server) == ("<faktory.server.EmbeddedServer tcp://:***@127.0.0.1:0, not running>")
    assert server.start() is server
    try:
        assert repr(server) == (
            f"<faktory.server.EmbeddedServer tcp://:***@127.0.0.1:{server.port}, running>"
        )
    finally:
        server.stop()


def test_a_job_shows_the_options_that_set_has_given_it() -> None:
    @faktory.job(retry=3)
    def resize(image: str) -> None: ...

    assert repr(resize.set(queue="x")) == "<faktory job resize retry=3 queue='x'>"
    other = faktory.Pool(URL)
    assert repr(resize.set(pool=other)) == f"<faktory job resize retry=3 pool={other!r}>"
    long = resize.set(custom={"text": "x" * 10_000})
    assert len(repr(long)) < 200
    assert len(repr(resize.message("x" * 10_000))) < 400
    assert "jid='12345678'" in repr(resize.set(jid="12345678"))


def test_nothing_shows_a_password() -> None:
    async def make() -> faktory.AsyncClient:
        return faktory.AsyncClient(URL)

    @faktory.job
    def resize() -> None: ...

    pool = faktory.Pool(URL)
    shown = [
        faktory.Client(URL),
        faktory.Client(URL).faktory,
        asyncio.run(make()),
        pool,
        faktory.Producer(URL),
        faktory.Worker(URL),
        faktory.Batch(pool=pool, success="x" * 10_000),
        resize.set(pool=pool),
        resize.set(pool=pool).message(),
        faktory.chain(*[resize.message()] * 1000),
        resize.every(60),
    ]
    for each in shown:
        text = f"{each!r} {each}"
        assert "secret" not in text
        assert len(text) < 600, text
        assert " object at 0x" not in text


def test_help_lists_the_options_with_their_meaning() -> None:
    text = pydoc.render_doc(faktory.job, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    named = {
        name for each in re.findall(r"^ +([a-z_, ]+): ", text, re.M) for name in each.split(", ")
    }
    assert {*get_type_hints(Declared)} <= named


def test_the_testing_kit_needs_no_import_of_its_own_and_costs_none() -> None:
    program = """
import sys, faktory
assert not any(name.startswith("faktory.testing") for name in sys.modules)
with faktory.testing.fake():
    faktory.external("x").perform_async()
    assert len(faktory.testing.jobs) == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True)
