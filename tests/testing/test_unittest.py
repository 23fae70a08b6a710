from __future__ import annotations

import os
import unittest
from collections.abc import Callable
from typing import Any

import pytest

import faktory
from faktory import testing
from faktory.client import network
from faktory.testing import FakeMixin, InlineMixin, ServerMixin


def run(*tests: unittest.TestCase) -> unittest.TestResult:
    result = unittest.TestResult()
    unittest.TestSuite(tests).run(result)
    return result


def passes(*tests: unittest.TestCase) -> bool:
    result = run(*tests)
    assert [*result.errors, *result.failures] == []
    return result.testsRun == len(tests)


def declared(ran: list[Any]) -> Any:
    return faktory.job(name="work")(lambda *args: ran.append(args))


def test_each_test_of_a_fake_case_begins_without_jobs() -> None:
    work = declared([])

    class Case(FakeMixin, unittest.TestCase):
        def test_a(self) -> None:
            work.perform_async(1)
            assert [job["args"] for job in self.faktory.jobs] == [[1]]
            assert testing.mode == "fake"

        test_b = test_a

    assert passes(Case("test_a"), Case("test_b"))
    assert network.current is network.SOCKETS


def test_an_inline_case_runs_jobs_at_once() -> None:
    ran: list[Any] = []
    work = declared(ran)

    class Case(InlineMixin, unittest.TestCase):
        def test(self) -> None:
            work.perform_async(1)
            assert ran == [(1,)]
            assert self.faktory.inline

    assert passes(Case("test"))
    assert network.current is network.SOCKETS


def test_a_server_case_has_a_server_that_runs_jobs_and_can_travel() -> None:
    ran: list[Any] = []
    work = declared(ran)
    urls = []

    class Case(ServerMixin, unittest.TestCase):
        def test_a(self) -> None:
            urls.append(self.faktory.url)
            assert os.environ["FAKTORY_URL"] == self.faktory.url
            work.perform_async(1)
            work.perform_in(60, 2)
            assert self.faktory.drain() == 1
            self.faktory.travel(61)
            assert self.faktory.drain() == 1
            assert self.faktory.server.queues["default"] == []

        test_b = test_a

    assert passes(Case("test_a"), Case("test_b"))
    assert ran == [(1,), (2,)] * 2
    assert "FAKTORY_URL" not in os.environ


@pytest.mark.parametrize("mixin", [FakeMixin, InlineMixin, ServerMixin])
@pytest.mark.parametrize("fails", ["test", "setUp", "tearDown"])
def test_a_failing_test_leaves_no_mode_on(mixin: Any, fails: str) -> None:
    def fail(name: str) -> Callable[..., None]:
        def step(self: Any) -> None:
            getattr(super(Case, self), name, lambda: None)()
            if name == fails:
                raise ValueError("no")

        return step

    steps = {name: fail(name) for name in ("setUp", "test", "tearDown")}
    Case = type("Case", (mixin, unittest.TestCase), steps)
    result = run(Case("test"))
    assert "ValueError: no" in result.errors[0][1]
    assert network.current is network.SOCKETS
    assert "FAKTORY_URL" not in os.environ


def test_setup_of_the_case_runs_in_the_mode() -> None:
    work = declared([])

    class Base(unittest.TestCase):
        def setUp(self) -> None:
            super().setUp()
            self.order = ["base"]

    class Case(FakeMixin, Base):
        def setUp(self) -> None:
            super().setUp()
            work.perform_async(*self.order)

        def test(self) -> None:
            assert [job["args"] for job in self.faktory.jobs] == [["base"]]

    assert passes(Case("test"))


def test_the_mixins_work_with_asynchronous_cases() -> None:
    work = declared([])

    class Case(FakeMixin, unittest.IsolatedAsyncioTestCase):
        async def test(self) -> None:
            work.perform_async(1)
            assert len(self.faktory.jobs) == 1

    assert passes(Case("test"))
    assert network.current is network.SOCKETS
