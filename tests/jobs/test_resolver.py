"""Job types that nobody registered, and that an integration knows all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import faktory
import faktory.testing
from faktory.jobs import JobContext, registry
from faktory.jobs.registry import UnknownJob
from faktory.jobs.retries import Policy
from faktory.jobs.runner import JobRunner
from faktory.testing.embedded import served


class Greeting:
    """Runs all types that begin with "greet."."""

    is_async = False
    time_limit = policy = queue = None
    exhausted_handlers = ()
    origin = "here"

    def __init__(self) -> None:
        self.greeted: list[Any] = []

    def run(self, context: JobContext) -> None:
        self.greeted += context.args


class Buried(Greeting):
    policy: Any = Policy(retry_on=(), discard_on=(), backoff=None)

    def run(self, context: JobContext) -> None:
        raise PermissionError(f"{context.jobtype} is not run")


@pytest.fixture
def greeting() -> Iterator[Greeting]:
    with registry.isolated():
        found = Greeting()
        asked = {"greet.": found, "never.": Buried()}
        registry.resolver = lambda jobtype: asked.get(jobtype.partition(".")[0] + ".")
        yield found


def test_without_a_resolver_a_type_that_nobody_registered_is_unknown() -> None:
    with registry.isolated():
        assert registry.resolver is None
        assert registry.find("greet.hello") is None


def test_a_resolver_is_asked_only_for_what_nobody_registered(greeting: Greeting) -> None:
    @faktory.job(name="greet.mine")
    def mine() -> None: ...

    assert registry.find("greet.mine") is mine
    assert registry.find("greet.hello") is greeting
    assert JobRunner().find("greet.hello") is greeting
    with pytest.raises(UnknownJob):
        JobRunner().find("other.hello")


def test_a_task_of_the_worker_wins_over_the_resolver(greeting: Greeting) -> None:
    task = Greeting()
    assert JobRunner({"greet.hello": task}).find("greet.hello") is task


def test_test_modes_ask_it_too(greeting: Greeting) -> None:
    job = {"jobtype": "greet.hello", "args": ["Ada"]}
    with faktory.testing.fake(), faktory.Client() as client:
        client.push(job)
        faktory.testing.drain_all()
    with faktory.testing.inline(), faktory.Client() as client:
        client.push(job)
    assert greeting.greeted == ["Ada", "Ada"]


def test_a_type_that_it_refuses_is_buried(greeting: Greeting) -> None:
    with served() as server, faktory.Client(server.url) as client:
        client.push({"jobtype": "never.this", "args": []})
        client.push({"jobtype": "unknown", "args": []})
        server.drain()
        tasks = client.info()["faktory"]["tasks"]
    assert (tasks["Dead"]["size"], tasks["Retries"]["size"]) == (1, 1)
    kinds = [type(error) for error in server.worker.errors]
    assert kinds == [PermissionError, UnknownJob]


def test_queues_of_an_integration_are_fetched_too() -> None:
    with registry.isolated():

        @faktory.job(queue="mail")
        def mail() -> None: ...

        registry.other_queues.add("images")
        assert registry.fetched_queues() == {"mail", "images"}
    assert "images" not in registry.fetched_queues()
