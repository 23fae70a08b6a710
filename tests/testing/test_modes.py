from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import pytest

import faktory
from faktory import Client, Pool, testing
from faktory.client import defaults, network
from faktory.exceptions import FaktoryConnectionError
from faktory.server import EmbeddedServer


def test_the_end_of_a_block_restores_the_mode_before() -> None:
    assert testing.mode is None
    with testing.fake() as outer:
        assert testing.mode == "fake"
        faktory.external("work").perform_async(1)
        with testing.inline():
            assert testing.mode == "inline"
            assert testing.jobs == []
            with testing.disable():
                assert testing.mode is None
                with testing.fake() as inner:
                    assert inner is not outer
                    assert testing.jobs == []
                assert testing.mode is None
            assert testing.mode == "inline"
        assert testing.mode == "fake"
        assert [job["args"] for job in testing.jobs] == [[1]]
    assert testing.mode is None


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("switch", [testing.fake, testing.inline, testing.disable])
def test_a_mode_ends_with_an_exception_too(
    switch: Callable[[], Any], error: type[BaseException]
) -> None:
    with testing.fake() as before:
        with pytest.raises(error), switch():
            raise error
        assert network.current is before


def test_switched_without_a_block_a_mode_stays() -> None:
    testing.fake()
    assert testing.mode == "fake"
    faktory.external("work").perform_async()
    assert len(testing.jobs) == 1
    testing.inline()
    assert testing.mode == "inline"
    testing.disable()
    assert testing.mode is None


def test_a_mode_that_is_switched_in_a_block_ends_with_it() -> None:
    with testing.fake():
        testing.disable()
        assert testing.mode is None
        testing.inline()
    assert testing.mode is None


def test_a_mode_that_is_entered_again_still_has_its_jobs() -> None:
    mode = testing.fake()
    with mode as first:
        faktory.external("work").perform_async()
    assert testing.mode is None
    with mode as second:
        assert first is second
        assert len(testing.jobs) == 1
    assert testing.mode is None


@pytest.mark.parametrize("name", ["jobs", "clear", "drain", "perform_one"])
@pytest.mark.parametrize("declared", ["function", "class", "external"])
def test_outside_a_mode_asking_for_jobs_is_a_runtime_error(name: str, declared: str) -> None:
    class Work(faktory.Job):
        def perform(self) -> None: ...

    function = faktory.job(name="function")(lambda: None)
    job = {"function": function, "class": Work, "external": faktory.external("x")}[declared]
    with pytest.raises(RuntimeError, match=r"faktory\.testing\.fake\(\)"):
        getattr(job, name) if name == "jobs" else getattr(job, name)()


@pytest.mark.parametrize("name", ["jobs", "queues"])
def test_outside_a_mode_the_names_of_the_module_are_a_runtime_error_too(name: str) -> None:
    with pytest.raises(RuntimeError, match="only a test mode keeps them"):
        getattr(testing, name)


@pytest.mark.parametrize("function", [testing.clear_all, testing.drain_all])
def test_outside_a_mode_clearing_and_draining_are_runtime_errors(
    function: Callable[[], Any],
) -> None:
    with pytest.raises(RuntimeError, match="only a test mode"):
        function()


def test_the_names_of_the_module_can_be_listed_outside_a_mode() -> None:
    names = {name for name, _ in inspect.getmembers(testing)}
    assert {"fake", "assert_enqueued", "MemoryServer"} <= names
    namespace: dict[str, Any] = {}
    exec("from faktory.testing import *", namespace)
    assert namespace["fake"] is testing.fake
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        testing.nothing  # noqa: B018


def test_nothing_is_imported_or_switched_before_it_is_used() -> None:
    code = """
import sys, faktory, faktory.testing
before = [name for name in sys.modules if name.startswith(("faktory.testing.", "faktory.server"))]
assert before == [], before
from faktory.client import network
assert network.current is network.SOCKETS
faktory.testing.fake
assert network.current is network.SOCKETS
faktory.testing.fake()
assert network.current.in_process
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Clients that are older than the mode, and modes that end early.


def test_a_connected_client_pushes_to_the_mode_and_then_to_its_server_again() -> None:
    with EmbeddedServer() as server, Client(server.url) as client:
        client.push({"jobtype": "work", "args": [1]})
        with testing.fake() as memory:
            client.push({"jobtype": "work", "args": [2]})
            assert [job["args"] for job in memory.jobs] == [[2]]
        client.push({"jobtype": "work", "args": [3]})
        assert [job["args"] for job in server.queues["default"]] == [[1], [3]]
        assert [verb for verb, _ in server.commands].count("HELLO") == 1


def test_a_client_closed_in_a_mode_sends_end_to_its_server(
    wait_until: Callable[..., object],
) -> None:
    with EmbeddedServer() as server:
        client = Client(server.url)
        client.connect()
        with testing.fake():
            client.close()
        wait_until(lambda: ("END", "") in server.commands)


def test_a_pool_gives_out_its_clients_again_after_a_mode() -> None:
    with EmbeddedServer() as server:
        pool = Pool(lambda: Client(server.url), size=1)
        with pool.client() as client:
            client.push({"jobtype": "work", "args": [1]})
            with testing.fake() as memory, pool.client() as other:
                other.push({"jobtype": "work", "args": [2]})
                client.push({"jobtype": "work", "args": [3]})
                assert [job["args"] for job in memory.jobs] == [[2], [3]]
        with pool.client() as again:
            assert again is client
            again.push({"jobtype": "work", "args": [4]})
        assert [job["args"] for job in server.queues["default"]] == [[1], [4]]
        pool.close()


def test_the_default_pool_pushes_to_its_server_again_after_a_mode() -> None:
    work = faktory.external("work")
    with EmbeddedServer() as server:
        faktory.configure(url=server.url)
        work.perform_async(1)
        with testing.fake():
            work.perform_async(2)
        work.perform_async(3)
        assert [job["args"] for job in server.queues["default"]] == [[1], [3]]
        faktory.configure()


def test_a_push_in_a_mode_leaves_nothing_behind_for_the_pushes_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = faktory.external("work")
    monkeypatch.setenv("FAKTORY_URL", "tcp://127.0.0.1:1")
    monkeypatch.setenv("FAKTORY_POOL_SIZE", "3")
    with testing.fake():
        work.perform_async(1)
    with EmbeddedServer() as server:
        monkeypatch.setenv("FAKTORY_URL", server.url)
        monkeypatch.delenv("FAKTORY_POOL_SIZE")
        work.perform_async(2)
        assert [job["args"] for job in server.queues["default"]] == [[2]]
        assert defaults.default_pool().size == 20
        defaults.configure()


def test_a_job_that_ends_the_mode_pushes_to_the_server() -> None:
    with EmbeddedServer() as server:
        faktory.configure(url=server.url)

        @faktory.job
        def work() -> None:
            with testing.disable():
                faktory.external("other").perform_async()

        with testing.inline() as memory:
            work.perform_async()
            assert memory.jobs == []
        assert [job["jobtype"] for job in server.queues["default"]] == ["other"]
        faktory.configure()


def test_with_the_mode_disabled_a_push_goes_to_the_server() -> None:
    faktory.configure(url="tcp://127.0.0.1:1")
    with testing.fake(), testing.disable(), pytest.raises(FaktoryConnectionError):
        faktory.external("work").perform_async()


def test_threads_that_run_already_see_a_switched_mode() -> None:
    go, seen = Event(), []

    def look() -> None:
        go.wait(10)
        seen.append(testing.mode)

    thread = Thread(target=look)
    thread.start()
    with testing.fake():
        go.set()
        thread.join()
    assert seen == ["fake"]


def in_fake() -> None:
    faktory.external("work").perform_async()


def in_disabled() -> None:
    with testing.disable():
        in_fake()


def in_a_mode_that_was_switched() -> None:
    testing.disable()
    in_fake()


def in_a_thread() -> None:
    thread = Thread(target=in_disabled)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "push",
    [in_fake, in_disabled, in_a_mode_that_was_switched, in_a_thread],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("switch", [testing.fake, testing.inline])
def test_a_block_leaves_no_default_pool_for_the_address_of_that_moment(
    push: Callable[[], None], switch: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAKTORY_PROVIDER", raising=False)
    with EmbeddedServer() as early, EmbeddedServer() as late, defaults.configured():
        monkeypatch.setenv("FAKTORY_URL", early.url)
        with switch():
            push()
        monkeypatch.setenv("FAKTORY_URL", late.url)
        in_fake()
        assert "PUSH" in [verb for verb, _ in late.commands]


def test_a_block_keeps_the_default_pool_that_was_there() -> None:
    with EmbeddedServer() as server, defaults.configured(url=server.url):
        before = defaults.default_pool()
        with testing.fake(), testing.disable():
            faktory.external("work").perform_async()
        assert defaults.default_pool() is before
        assert "PUSH" in [verb for verb, _ in server.commands]


def test_a_pool_that_is_made_while_a_mode_ends_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    make = defaults._make_pool
    with defaults.configured(url="tcp://127.0.0.1:1"):
        mode = testing.fake()

        def make_late() -> Pool:
            testing.disable()  # as another thread might
            return make()

        monkeypatch.setattr(defaults, "_make_pool", make_late)
        with mode:
            defaults.default_pool()
        assert defaults._pool is None
