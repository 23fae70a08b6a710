"""Jobs that are classes; test_definition.py has the tests for functions and classes."""

from __future__ import annotations

import functools
import logging
import pydoc
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import faktory
from faktory.jobs import registry
from faktory.jobs.context import JobContext

from .support import FakeServer, run

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


def test_a_class_is_pushed_as_a_function_is(server: FakeServer) -> None:
    class Resize(faktory.Job):
        faktory_options = {"queue": "images", "retry": 3}

        def perform(self, image: int, size: str = "thumb") -> None: ...

    Resize.perform_async(1)
    Resize.perform_in(60, 1, size="full")
    Resize.perform_at(SOON, 2)
    Resize.perform_bulk([(3,), (4, "full")])
    Resize.set(queue="low").perform_async(image=5)
    assert {job["jobtype"] for job in server.jobs} == {"Resize"}
    assert [job["queue"] for job in server.jobs] == ["images"] * 5 + ["low"]
    assert [job["args"] for job in server.jobs] == [
        [1],
        [1, "full"],
        [2],
        [3],
        [4, "full"],
        [5],
    ]
    assert ["at" in job for job in server.jobs] == [False, True, True, False, False, False]
    assert {job["retry"] for job in server.jobs} == {3}
    with pytest.raises(TypeError, match="too many"):
        Resize.perform_async(1, "thumb", 3)  # type: ignore[call-arg]


def test_options_are_inherited_and_a_name_is_not(server: FakeServer) -> None:
    class Base(faktory.Job):
        faktory_options = {"queue": "a", "retry": 1, "custom": {"x": 1}, "name": "TheBase"}

        def perform(self) -> None: ...

    class Child(Base):
        faktory_options = {"queue": "b", "custom": {"y": 2}}

    class Grandchild(Child):
        pass

    for job in (Base, Child, Grandchild):
        job.perform_async()
    assert [(job["jobtype"], job["queue"], job["custom"]) for job in server.jobs] == [
        ("TheBase", "a", {"x": 1}),
        ("Child", "b", {"x": 1, "y": 2}),
        ("Grandchild", "b", {"x": 1, "y": 2}),
    ]
    assert {job["retry"] for job in server.jobs} == {1}


def test_options_of_the_first_base_win(server: FakeServer) -> None:
    class Base(faktory.Job):
        faktory_options = {"queue": "base", "retry": 1}

    class Left(Base):
        pass

    class Right(Base):
        faktory_options = {"queue": "right"}

    class Both(Left, Right):
        def perform(self) -> None: ...

    Both.perform_async()
    assert (server.jobs[0]["queue"], server.jobs[0]["retry"]) == ("right", 1)


def test_a_base_without_perform_is_not_a_job() -> None:
    class Base(faktory.Job):
        faktory_options = {"queue": "a"}

    with pytest.raises(TypeError, match="Base has no perform method"):
        Base.perform_async()
    with pytest.raises(TypeError, match="Base has no perform method"):
        Base.perform_bulk([])
    assert registry.names() == []


def test_an_abstract_base_is_not_a_job(server: FakeServer) -> None:
    class Base(faktory.Job, ABC):
        faktory_options = {"queue": "a"}

        @abstractmethod
        def perform(self, number: int) -> None: ...

    class Concrete(Base):
        def perform(self, number: int) -> None: ...

    class AbstractAgain(Concrete):
        @abstractmethod
        def perform(self, number: int) -> None: ...

    assert registry.names() == ["Concrete"]
    for abstract in (Base, AbstractAgain):
        with pytest.raises(TypeError, match="cannot be pushed"):
            abstract.perform_async(1)
    Concrete.perform_async(1)
    assert server.jobs[0]["queue"] == "a"


def test_each_run_has_its_own_instance_with_its_job() -> None:
    seen: list[Any] = []

    class Work(faktory.Job):
        def perform(self, *args: int) -> str:
            seen.append(self)
            return f"{self.jid}: {args}"

    assert run("Work", 1, 2, jid="12345678") == "12345678: (1, 2)"
    assert run("Work", jid="abcdefgh") == "abcdefgh: ()"
    first, second = seen
    assert first is not second
    assert (first.jid, second.jid) == ("12345678", "abcdefgh")


def test_an_instance_has_the_batch_custom_values_and_logger_of_its_job() -> None:
    class Work(faktory.Job):
        faktory_options = {"name": "work.of.ours"}

        def perform(self) -> Any:
            return self.bid, self.custom, self.logger

    job = registry.find("work.of.ours")
    assert job is not None
    payload = {"jid": "12345678", "jobtype": "work.of.ours", "args": []}
    logger = logging.getLogger("faktory.job.work.of.ours")
    assert job.run(JobContext(payload)) == (None, {}, logger)
    with_batch = JobContext({**payload, "custom": {"bid": "b1", "x": 1}})
    assert job.run(with_batch) == ("b1", {"bid": "b1", "x": 1}, logger)


def test_perform_can_be_called_outside_a_worker_and_has_no_jid_there() -> None:
    class Work(faktory.Job):
        def perform(self, number: int) -> int:
            self.logger.debug("works")
            return number + 1

    assert Work().perform(1) == 2
    with pytest.raises(RuntimeError, match="no job runs here"):
        _ = Work().jid


def test_help_shows_the_properties_of_a_running_job() -> None:
    class Work(faktory.Job):
        def perform(self) -> None: ...

    for cls in (Work, faktory.Job):
        text = pydoc.render_doc(cls, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
        for name in ("jid", "bid", "batch", "parent_bid", "parent_batch", "custom", "logger"):
            assert re.search(rf"^ \|  {name}\n \|      \w+", text, re.M)
    assert not hasattr(faktory.Job, "perform_async")


def test_a_frozen_dataclass_may_be_a_job() -> None:
    @dataclass(frozen=True)
    class Frozen(faktory.Job):
        unit: str = "px"

        def perform(self) -> str:
            return f"{self.jid} {self.unit}"

    assert run("Frozen") == "12345678 px"


def test_options_of_a_class_are_read_only(server: FakeServer) -> None:
    class Resize(faktory.Job):
        faktory_options = {"queue": "images", "custom": {"a": 1}}

        def perform(self) -> None: ...

    options: Any = Resize.faktory_options
    with pytest.raises(TypeError, match="does not support item assignment"):
        options["queue"] = "low"
    with pytest.raises(TypeError, match="does not support item assignment"):
        options["custom"]["a"] = 2

    class Child(Resize):
        faktory_options = {**Resize.faktory_options, "retry": 1}

    Child.perform_async()
    assert (server.jobs[0]["queue"], server.jobs[0]["custom"]) == ("images", {"a": 1})
    of_all: Any = faktory.Job.faktory_options
    with pytest.raises(TypeError, match="does not support item assignment"):
        of_all["queue"] = "low"


def test_perform_may_be_a_static_or_a_class_method(server: FakeServer) -> None:
    class Static(faktory.Job):
        @staticmethod
        def perform(number: int) -> object:
            return number

    class OfTheClass(faktory.Job):
        @classmethod
        def perform(cls, number: int) -> object:
            return cls.__name__, number

    for job in (Static, OfTheClass):
        job.perform_async(1)
        with pytest.raises(TypeError):
            job.perform_async()
        with pytest.raises(TypeError):
            job.perform_async(1, 2)
    assert [job["args"] for job in server.jobs] == [[1], [1]]
    assert run("Static", 1) == 1
    assert run("OfTheClass", 1) == ("OfTheClass", 1)


def test_a_decorated_perform_keeps_its_signature(server: FakeServer) -> None:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class Work(faktory.Job):
        @decorate
        def perform(self, a: int, b: int = 2) -> tuple[int, int]:
            return a, b

    Work.perform_async(b=3, a=1)
    assert server.jobs[0]["args"] == [1, 3]
    assert run("Work", 1) == (1, 2)
    with pytest.raises(TypeError):
        Work.perform_async()
