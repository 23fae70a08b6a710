from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import faktory
from faktory import current_job, testing
from faktory.client import defaults
from faktory.server import EmbeddedServer
from faktory.testing.embedded import EmbeddedTestServer, pushed_to, served


@pytest.fixture
def server() -> Iterator[EmbeddedTestServer]:
    with served(enterprise=True) as server:
        yield server


def test_drain_runs_jobs_of_all_queues_and_those_that_they_push(server: EmbeddedTestServer) -> None:
    ran = []

    @faktory.job
    def work(left: int) -> None:
        ran.append(left)
        if left:
            work.set(queue=f"queue-{left}").perform_async(left - 1)

    work.perform_async(3)
    work.perform_in(60, 0)
    assert server.drain() == 4
    assert ran == [3, 2, 1, 0]
    assert server.drain() == 0
    assert server.server.working == []
    server.travel(61)
    assert server.drain() == 1


def test_the_error_of_a_job_is_reported_and_kept(server: EmbeddedTestServer) -> None:
    error = ValueError("no")

    @faktory.job(retry=2)
    def bad() -> None:
        raise error

    @faktory.job
    def leaves() -> None:
        raise SystemExit(3)

    handled = []
    server.worker.error_handlers.append(lambda *args: handled.append(args))
    bad.perform_async()
    leaves.perform_async()
    assert server.drain() == 2
    assert server.worker.errors[0] is error
    assert isinstance(server.worker.errors[1], SystemExit)
    assert sorted(job["jobtype"] for job in server.server.retries) == ["bad", "leaves"]
    assert len(handled) == 2


def test_a_job_that_is_to_be_tried_again_waits_for_travel_each_time(
    server: EmbeddedTestServer,
) -> None:
    attempts = []

    @faktory.job(retry=3, backoff=faktory.backoff.constant(60))
    def work() -> None:
        attempts.append(current_job().attempt)
        if len(attempts) < 3:
            raise faktory.Retry("not yet")
        raise ConnectionError("away")

    work.perform_async()
    for number in range(1, 4):
        assert server.drain() == 1
        assert attempts == [*range(1, number + 1)]
        assert len(server.server.scheduled) == 1
        assert server.drain() == 0
        server.travel(61)
    assert server.drain() == 1
    assert [type(error) for error in server.worker.errors] == [ConnectionError] * 2
    assert len(server.server.dead) == 1
    assert server.server.working == []


def test_the_jobs_of_a_chain_are_drained_in_their_order(server: EmbeddedTestServer) -> None:
    ran = []

    @faktory.job
    def work(number: int) -> None:
        ran.append(number)

    following = [
        {"jid": f"step-{number:04}", "jobtype": "work", "args": [number]} for number in (2, 3)
    ]
    with faktory.Client() as client:
        custom = {"faktory_chain": following}
        client.push({"jobtype": "work", "args": [1], "custom": custom})
    assert server.drain() == 3
    assert ran == [1, 2, 3]


def test_an_undeclared_job_is_reported(server: EmbeddedTestServer) -> None:
    faktory.external("abroad").perform_async()
    assert server.drain() == 1
    assert server.server.retries[0]["failure"]["errtype"] == "UnknownJob"


def test_worker_middleware_and_tasks_of_the_worker_are_used(
    server: EmbeddedTestServer,
) -> None:
    seen = []

    @faktory.worker_middleware.add
    def around(job: Any, payload: dict[str, Any], call_next: Callable[[], Any]) -> Any:
        seen.append("around")
        return call_next()

    server.worker.register("mine", lambda number: seen.append(number))
    faktory.external("mine").perform_async(1)
    assert server.drain() == 1
    assert seen == ["around", 1]


def test_a_job_may_report_progress(server: EmbeddedTestServer) -> None:
    @faktory.job(track=True)
    def work() -> None:
        current_job().track_progress(40)

    jid = work.perform_async()
    server.drain()
    with faktory.Client() as client:
        assert client.track_get(jid)["percent"] == 40


def test_drain_raises_for_jobs_that_push_each_other_without_end(
    server: EmbeddedTestServer,
) -> None:
    server.worker.drain_limit = 5

    @faktory.job
    def work() -> None:
        work.perform_async()

    work.perform_async()
    with pytest.raises(RuntimeError, match="6 jobs were run"):
        server.drain()


def test_the_jobs_that_wait_when_drain_begins_do_not_count_for_its_limit(
    server: EmbeddedTestServer,
) -> None:
    server.worker.drain_limit = 5
    faktory.job(name="work")(lambda: None).perform_bulk([()] * 20)
    assert server.drain() == 20


# Where pushes go, and what is restored.


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment and settings, which must be restored."""
    variables = {"FAKTORY_PROVIDER": "SOMEWHERE", "FAKTORY_URL": "tcp://env:1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    faktory.configure(url="tcp://configured:2", timeout=3)
    return environment()


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("FAKTORY_")}


def configured() -> tuple[str, float]:
    with defaults.default_pool().client() as client:
        return client.faktory.url, client.timeout


def test_everything_pushes_to_the_server_whatever_the_configuration(before: dict[str, str]) -> None:
    with EmbeddedServer() as server, testing.fake(), pushed_to(server):
        assert testing.mode is None
        assert configured()[0] == faktory.Client().faktory.url == server.url
        assert "FAKTORY_PROVIDER" not in os.environ
        faktory.external("work").perform_async()
        assert len(server.queues["default"]) == 1


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_environment_settings_and_mode_are_restored(
    before: dict[str, str], error: type[BaseException] | None
) -> None:
    with EmbeddedServer() as server, testing.fake() as memory:
        try:
            with pushed_to(server):
                faktory.configure(url="tcp://test:9", timeout=9, pool_size=1)
                os.environ["FAKTORY_URL"] = "tcp://test:9"
                os.environ["FAKTORY_PROVIDER"] = "TEST"
                testing.inline()
                if error is not None:
                    raise error
        except (ValueError, KeyboardInterrupt):
            assert error is not None
        assert testing.modes.network.current is memory
    assert environment() == before
    assert configured() == ("tcp://configured:2", 3.0)
    assert defaults.default_pool().size == 20


def test_an_unset_variable_is_unset_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedServer() as server:
        with pushed_to(server):
            del os.environ["FAKTORY_URL"]
        assert "FAKTORY_URL" not in os.environ
