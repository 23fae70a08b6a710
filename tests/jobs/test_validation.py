from __future__ import annotations

import asyncio
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import faktory
from faktory.exceptions import FaktoryPayloadError
from faktory.jobs import registry
from faktory.jobs.validation import deferred

from .support import FakeServer, run


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> None: ...


async def async_generator() -> Any:
    yield 1


def plain() -> None: ...


class Callable:
    def __call__(self) -> None: ...


class Waits:
    async def __call__(self) -> None: ...


# Functions that would be acknowledged without having run


@pytest.mark.parametrize("function", [async_generator, generator])
def test_a_generator_function_is_not_a_job(function: Any) -> None:
    with pytest.raises(TypeError, match=f"{function.__name__} is an? .*a worker runs plain ones"):
        faktory.job(function)
    with pytest.raises(TypeError, match="a worker runs plain ones"):
        faktory.job(queue="images")(staticmethod(function))
    with pytest.raises(TypeError, match="a worker runs plain ones"):
        type("Refused", (faktory.Job,), {"perform": function})
    assert registry.names() == []


@pytest.mark.parametrize("function", [coroutine, functools.partial(coroutine), Waits()])
def test_an_async_function_is_a_job_and_known_as_async(function: Any) -> None:
    if hasattr(function, "__qualname__"):
        assert faktory.job(function).is_async
        assert faktory.job(name="static")(staticmethod(function)).is_async

    class Works(faktory.Job):
        perform = staticmethod(function)

    found = registry.find("Works")
    assert found is not None
    assert found.is_async


def test_an_async_function_called_in_the_program_returns_its_coroutine() -> None:
    @faktory.job
    async def double(number: int) -> int:
        return 2 * number

    assert asyncio.run(double(4)) == 8


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (coroutine, "an async function"),
        (async_generator, "an async function"),
        (functools.partial(coroutine), "an async function"),
        (Waits(), "an async function"),
        (generator, "a generator function"),
        (plain, None),
        (Callable(), None),
        (Callable, None),
        (len, None),
        (5, None),
    ],
)
def test_deferred_returns_the_kind_of_a_callable(function: object, what: str | None) -> None:
    assert deferred(function) == what


@pytest.mark.parametrize("options", [{}, {"queue": "images"}])
def test_a_class_takes_no_decorator(options: dict[str, Any]) -> None:
    class Resize(faktory.Job):
        def perform(self) -> None: ...

    for cls in (Resize, Callable, int):
        declare: Any = faktory.job(**options) if options else faktory.job
        with pytest.raises(TypeError, match=f"{cls.__name__} is a class: .* subclass of faktory"):
            declare(cls)
    assert registry.names() == ["Resize"]


# Methods


def test_a_method_is_not_a_job() -> None:
    for decorate in (faktory.job, lambda method: faktory.job(classmethod(method))):
        with pytest.raises(TypeError, match=r"Images\.resize is a method.*@staticmethod"):

            class Images:
                @decorate  # type: ignore[arg-type]
                def resize(self, image: int) -> None: ...

    with pytest.raises(TypeError, match=r"Photos\.resize is a method"):

        class Photos:
            @classmethod
            @faktory.job
            def resize(cls, image: int) -> None: ...

    assert registry.names() == []


def test_a_static_method_may_be_a_job(server: FakeServer) -> None:
    class Images:
        @staticmethod
        @faktory.job
        def inner(image: int) -> int:
            return image

        @faktory.job
        @staticmethod
        def outer(image: int) -> int:
            return image

    for job in (Images.inner, Images().inner, Images.outer, Images().outer):
        assert job(1) == 1
        job.perform_async(2)
    assert [job["args"] for job in server.jobs] == [[2]] * 4
    assert (run("inner", 3), run("outer", 3)) == (3, 3)


def test_a_function_outside_a_class_may_call_a_parameter_self(server: FakeServer) -> None:
    @faktory.job
    def draw(self: int, x: int) -> int:
        return self + x

    assert draw(self=1, x=2) == 3
    draw.perform_async(self=1, x=2)
    draw.perform_in(60, self=1, x=2)
    assert [job["args"] for job in server.jobs] == [[1, 2]] * 2


# Callables without a name


@pytest.mark.parametrize("name", [None, "named"])
def test_a_callable_object_is_not_a_function(name: str | None) -> None:
    for each in (functools.partial(plain), Callable()):
        with pytest.raises(TypeError, match="is not a function: declare one, by def"):
            faktory.job(name=name)(each)
    assert registry.names() == []


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(TypeError, match="a lambda has no name"):
        faktory.job(lambda: None)
    faktory.job(name="named")(lambda: 5)
    assert run("named") == 5


@pytest.mark.parametrize("nothing", [None, 5, "mail"])
def test_a_job_must_be_callable(nothing: Any) -> None:
    for declare in (faktory.job, faktory.job()):
        with pytest.raises(TypeError, match=f"{nothing!r} cannot be a job: options go by keyword"):
            declare(nothing)


@pytest.mark.parametrize("name", ["", 5])
def test_a_name_is_text_and_not_empty(name: Any) -> None:
    options = {"name": name}
    for declare in (
        lambda: faktory.job(name=name)(plain),
        lambda: faktory.external(name),
        lambda: type("A", (faktory.Job,), {"faktory_options": options, "perform": plain_method}),
    ):
        with pytest.raises(FaktoryPayloadError, match=r"jobtype is .*must be text, and not empty"):
            declare()
    assert registry.names() == []


def plain_method(self: object) -> None: ...


def test_the_signature_of_an_external_job_is_a_function() -> None:
    queue: Any = "images"
    with pytest.raises(
        TypeError, match=r"is 'images': it must be a function\. Options go by keyword"
    ):
        faktory.external("ResizeImage", queue)


# Classes


def test_an_instance_is_made_without_arguments() -> None:
    with pytest.raises(TypeError, match=r"Report\.__init__ needs 'database'"):

        class Report(faktory.Job):
            def __init__(self, database: str, *more: str, **others: str) -> None: ...
            def perform(self) -> None: ...

    with pytest.raises(TypeError, match=r"Base\.__init__ needs 'database'|__init__ needs"):

        class Below(Base):
            def perform(self) -> None: ...

    assert registry.names() == []


class Base(faktory.Job):
    def __init__(self, *, database: str) -> None: ...


def test_an_instance_may_have_defaults() -> None:
    class Report(faktory.Job):
        def __init__(self, database: str = "main", *more: str, **others: str) -> None:
            self.database = database

        def perform(self) -> str:
            return self.database

    @dataclass
    class Summary(faktory.Job):
        database: str = "main"

        def perform(self) -> str:
            return self.database

    assert (run("Report"), run("Summary")) == ("main", "main")


def test_perform_takes_self(server: FakeServer) -> None:
    with pytest.raises(TypeError, match="plain takes no self, so no instance can run it"):
        type("Refused", (faktory.Job,), {"perform": plain})

    class Any(faktory.Job):
        def perform(*args: object) -> object:
            return args[1:]

    Any.perform_async(1, 2)
    assert server.jobs[0]["args"] == [1, 2]
    assert run("Any", 1, 2) == (1, 2)


@pytest.mark.parametrize("perform", [5, "perform", []])
def test_perform_is_a_method(perform: object) -> None:
    with pytest.raises(TypeError, match=r"Refused\.perform is .*it must be a method"):
        type("Refused", (faktory.Job,), {"perform": perform})


@pytest.mark.parametrize("options", [None, [("queue", "images")], 5])
def test_the_options_of_a_class_are_a_dict(options: object) -> None:
    with pytest.raises(TypeError, match=r"Refused\.faktory_options is .*it must be a dict"):
        type("Refused", (faktory.Job,), {"faktory_options": options, "perform": plain_method})


ANNOTATED = """
import faktory

def wait(attempt: Missing) -> Missing: ...

@faktory.job(backoff=wait, name="annotated")
def resize(image: Missing) -> Missing: ...

class Outer:
    @staticmethod
    @faktory.job(name="annotated-too")
    def resize(image: Missing) -> Missing: ...

class Crop(faktory.Job):
    faktory_options = {"name": "annotated-class"}

    def __init__(self, width: Missing = None) -> Missing: ...

    def perform(self, image: Missing) -> Missing: ...

async def connect() -> Missing: ...

faktory.aio.hooks._checked("on_startup", "startup", connect)
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 has annotations that wait")
def test_an_annotation_may_name_what_only_type_checkers_know() -> None:
    exec(compile(ANNOTATED, "annotated.py", "exec", dont_inherit=True), {"__name__": "annotated"})
    assert {"annotated", "annotated-too", "annotated-class"} <= set(registry.names())


def test_parameters_are_read_in_one_place_that_evaluates_no_annotation() -> None:
    package = Path(faktory.__file__).parent
    calls = re.compile(
        r"inspect\.signature\(|Signature\.from_callable|from inspect import .*signature"
    )
    found = [path.name for path in package.rglob("*.py") if calls.search(path.read_text("utf-8"))]
    assert found == ["validate.py"]
