"""`EmbeddedServer.perform`: long work in the server's thread, asked for by other threads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from faktory.server import EmbeddedServer
from faktory.server.disk.journal import Journal
from faktory.server.errors import CommandError
from faktory.server.slices import Steps
from faktory.server.state import ServerState

from .conftest import RawClient

Dial = Callable[..., RawClient]


@pytest.fixture(params=["memory", "file", "enterprise"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    options = {
        "memory": {},
        "file": {"data": tmp_path / "jobs.db"},
        "enterprise": {"data": tmp_path / "jobs.db", "enterprise": True},
    }[request.param]
    with EmbeddedServer(**options) as server:  # type: ignore[arg-type]
        yield server


def push(client: RawClient, count: int) -> None:
    for number in range(count):
        assert client.push(f"job-{number:04}") == b"+OK"


def clear(state: ServerState) -> Steps[int]:
    return state.store.clear_queue("default")


def forever(begun: Event, ended: Event) -> Callable[[ServerState], Steps[None]]:
    def work(_: ServerState) -> Steps[None]:
        try:
            while True:
                begun.set()
                yield
        finally:
            ended.set()

    return work


def test_work_is_done_in_the_servers_thread_and_its_result_returned(
    server: EmbeddedServer, dial: Dial
) -> None:
    push(dial(), 3)

    def work(state: ServerState) -> Steps[tuple[int, str]]:
        yield
        return len(state.store.queues["default"]), threading.current_thread().name

    assert server.perform(work).result(20) == (3, "faktory-server")
    assert server.perform(clear).result(20) == 3
    assert server.queues == {"default": []}


def test_others_are_answered_while_work_goes_on(server: EmbeddedServer, dial: Dial) -> None:
    client = dial()
    begun, ended = Event(), Event()
    future = server.perform(forever(begun, ended))
    assert begun.wait(20)
    push(client, 3)
    assert client.call("FETCH default") is not None
    assert not future.done()
    assert future.cancel()
    assert ended.wait(20)
    push(client, 1)
    assert server._call(lambda state: state.long_commands) == 0


def test_a_client_that_waits_gets_a_job_that_work_has_queued(
    server: EmbeddedServer, dial: Dial, wait_until: Any
) -> None:
    client, waiting = dial(), dial(wid="w")
    client.push("job-0001", at="2099-01-01T00:00:00Z")
    waiting.send("FETCH default")
    wait_until(lambda: server._call(lambda state: state.store._waiting))
    assert server.perform(lambda state: state.store.retry("scheduled", None)).result(20) == 1
    assert b"job-0001" in waiting.reply()


@pytest.mark.parametrize("error", [CommandError("no"), ValueError("x"), SystemExit()])
def test_what_work_raises_is_raised(server: EmbeddedServer, error: BaseException) -> None:
    def work(_: ServerState) -> Steps[None]:
        yield
        raise error

    def at_once(_: ServerState) -> Steps[None]:
        raise error

    assert server.perform(work).exception(20) is error
    if isinstance(error, Exception):
        assert server.perform(at_once).exception(20) is error
    assert server._call(lambda state: state.long_commands) == 0


def test_work_can_be_awaited_and_cancelled_on_an_event_loop(server: EmbeddedServer) -> None:
    begun, ended = Event(), Event()

    async def main() -> None:
        assert await asyncio.wrap_future(server.perform(clear)) == 0
        task = asyncio.ensure_future(asyncio.wrap_future(server.perform(forever(begun, ended))))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, 20)

    asyncio.run(main())


def test_work_that_was_cancelled_before_it_began_does_nothing(
    server: EmbeddedServer, dial: Dial
) -> None:
    push(dial(), 1)
    futures: list[Future[Any]] = []

    def begin_and_cancel(_: ServerState) -> None:
        futures.append(server.perform(clear))
        futures[0].cancel()

    server._call(begin_and_cancel)
    with pytest.raises(CancelledError):
        futures[0].result(20)
    assert server.sizes["queued"] == 1


def test_the_end_of_the_server_ends_work(server: EmbeddedServer) -> None:
    begun, ended = Event(), Event()
    future = server.perform(forever(begun, ended))
    assert begun.wait(20)
    server.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        future.result(20)
    assert not server._works
    server.start()
    assert server.perform(clear).result(20) == 0


def test_without_a_loop_work_is_done_at_once() -> None:
    server = EmbeddedServer()
    assert server.perform(clear).result(0) == 0
    error = CommandError("no")

    def work(_: ServerState) -> Steps[None]:
        yield
        raise error

    assert server.perform(work).exception(0) is error


def test_without_its_file_a_server_does_no_work(tmp_path: Path) -> None:
    server = EmbeddedServer(data=tmp_path / "jobs.db")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="stopped, and its file closed"):
            server.perform(clear).result(0)
        server.start()
        server.stop()


def test_many_threads_ask_while_the_server_starts_and_stops(server: EmbeddedServer) -> None:
    ended = Event()
    outcomes: list[object] = []

    def ask() -> None:
        while not ended.is_set():
            try:
                outcomes.append(server.perform(clear).result(20))
            except RuntimeError:
                pass
            except BaseException as error:
                outcomes.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        server.stop()
        server.start()
    ended.set()
    for thread in threads:
        thread.join(20)
    assert set(outcomes) == {0}
    assert not server._works


# With a file.

with_file = pytest.mark.parametrize("server", ["file", "enterprise"], indirect=True)


@with_file
def test_the_result_comes_after_the_commit(
    server: EmbeddedServer, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(dial(), 5)
    seen = []
    real = Journal.commit
    futures: list[Future[int]] = []

    def commit(journal: Journal) -> None:
        seen.append((futures[0].done(), len(journal._removed)))
        real(journal)

    monkeypatch.setattr(Journal, "commit", commit)
    server._call(lambda _: futures.append(server.perform(clear)))
    assert futures[0].result(20) == 5
    assert seen == [(False, 5)]


@with_file
@pytest.mark.parametrize("after", [0, 5000])
def test_a_commit_that_fails_is_the_result(
    server: EmbeddedServer, dial: Dial, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    def commit(_: Journal) -> None:
        raise sqlite3.OperationalError("disk is full")

    def work(state: ServerState) -> Steps[int]:
        monkeypatch.setattr(Journal, "commit", commit)
        yield from state.store.clear_queue("default")
        for _ in range(after):
            state.journal.append(b"{}")  # type: ignore[attr-defined]
            yield
        return 1

    push(dial(), 5)
    with pytest.raises(RuntimeError, match="cannot be written: disk is full"):
        server.perform(work).result(20)
    with pytest.raises(RuntimeError, match="disk is full"):
        server.perform(clear).result(20)
