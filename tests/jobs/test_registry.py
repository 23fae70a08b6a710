from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import faktory
from faktory.jobs import registry
from faktory.jobs.context import JobContext

from .support import run

SOURCE = """
import faktory

@faktory.job(name="work")
def work():
    return {result!r}

class Report(faktory.Job):
    def perform(self):
        return {result!r}
"""


class Fake:
    def __init__(self, origin: str) -> None:
        self.origin = origin

    def run(self, context: JobContext) -> object:
        return self.origin


@pytest.fixture
def write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, object], ModuleType]]:
    """`write(name, result)`: write a module whose jobs return `result`, import or reload it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, result: object) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(SOURCE.format(result=result))
        importlib.invalidate_caches()
        # The cache would take two versions within a second for one.
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        if name in sys.modules:
            return importlib.reload(sys.modules[name])
        return importlib.import_module(name)

    yield write
    for name in ("ours", "theirs", "others"):
        sys.modules.pop(name, None)


def test_a_registered_job_is_found() -> None:
    job = Fake("here")
    registry.register("resize", job)
    assert registry.find("resize") is job
    assert registry.find("Resize") is None
    assert registry.names() == ["resize"]


def test_names_are_sorted() -> None:
    for name in ("b", "c", "a"):
        registry.register(name, Fake("here"))
    assert registry.names() == ["a", "b", "c"]


def test_two_functions_under_one_name_are_refused_with_both_places(
    write: Callable[[str, object], ModuleType], tmp_path: Path
) -> None:
    write("ours", 1)
    with pytest.raises(ValueError, match="the job type 'work' is taken") as caught:
        write("theirs", 2)
    assert f"by {tmp_path / 'ours.py'}:work, " in str(caught.value)
    assert f"by {tmp_path / 'theirs.py'}:work. " in str(caught.value)
    assert run("work") == 1


def test_two_functions_of_one_module_under_one_name_are_refused() -> None:
    def first() -> None: ...
    def second() -> None: ...

    faktory.job(name="work")(first)
    with pytest.raises(ValueError, match=r"<locals>\.first, and now by .*<locals>\.second\."):
        faktory.job(name="work")(second)


def test_a_decorator_in_a_third_place_does_not_hide_a_clash(
    write: Callable[[str, object], ModuleType], tmp_path: Path
) -> None:
    (tmp_path / "theirs.py").write_text(
        """
import functools

def decorator(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper
"""
    )
    for name in ("ours", "others"):
        (tmp_path / f"{name}.py").write_text(
            "import faktory, theirs\n@faktory.job\n@theirs.decorator\ndef work(): ...\n"
        )
    importlib.import_module("ours")
    with pytest.raises(ValueError, match=r"ours\.py:work, and now by .*others\.py:work"):
        importlib.import_module("others")


def test_a_module_loaded_again_replaces_its_jobs(
    write: Callable[[str, object], ModuleType],
) -> None:
    write("ours", 1)
    assert (run("work"), run("Report")) == (1, 1)
    write("ours", 2)
    assert (run("work"), run("Report")) == (2, 2)


def test_a_program_that_is_imported_too_replaces_its_jobs(
    write: Callable[[str, object], ModuleType], tmp_path: Path
) -> None:
    write("ours", 1)
    runpy.run_path(str(tmp_path / "ours.py"), run_name="__main__")
    assert registry.names() == ["Report", "work"]


def test_a_notebooks_cell_that_runs_again_replaces_its_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = ModuleType("__main__")  # of a notebook or a prompt: it has no file
    monkeypatch.setitem(sys.modules, "__main__", main)
    for run_number in (1, 2):
        cell = compile(SOURCE.format(result=run_number), f"<cell {run_number}>", "exec")
        exec(cell, vars(main))
        assert (run("work"), run("Report")) == (run_number, run_number)


@pytest.mark.parametrize("file", ["<string>", "<stdin>"])
def test_jobs_declared_at_a_prompt_replace_those_of_the_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str
) -> None:
    main = ModuleType("__main__")
    main.__file__ = str(tmp_path / "program.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    for source, result in ((main.__file__, 1), (file, 2)):
        exec(compile(SOURCE.format(result=result), source, "exec"), vars(main))
        assert (run("work"), run("Report")) == (result, result)


def test_a_module_loaded_through_a_link_is_the_same_module(
    write: Callable[[str, object], ModuleType], tmp_path: Path
) -> None:
    write("ours", 1)
    (tmp_path / "linked").symlink_to(tmp_path)
    runpy.run_path(str(tmp_path / "linked" / "ours.py"), run_name="theirs")
    assert registry.names() == ["Report", "work"]


def test_the_error_for_an_external_type_names_faktory_external() -> None:
    faktory.external("ResizeImage")
    message = str(registry.unknown("ResizeImage", ["resize"]))
    assert "another runs (faktory.external)" in message
    assert "-r" not in message


def test_the_error_for_an_unknown_type_has_the_closest_and_all_names() -> None:
    error = registry.unknown("resise", ["greet", "resize"])
    assert isinstance(error, LookupError)
    assert str(error) == (
        "no job of type 'resise' is registered here. Did you mean 'resize'? "
        "Registered: greet, resize. Does the worker import the module that defines it (-r)?"
    )


@pytest.mark.parametrize(
    ("known", "part"),
    [([], "Registered: none."), ([f"t{n:02}" for n in range(21)], "t18, t19, .... Does")],
)
def test_the_list_of_types_is_neither_empty_nor_endless(known: list[str], part: str) -> None:
    text = str(registry.unknown("xyz", known))
    assert part in text
    assert "Did you mean" not in text
    assert "t20" not in text


def test_each_job_type_has_the_queue_that_its_pushes_go_to() -> None:
    faktory.external("Convert", queue="ruby")

    @faktory.job(queue="mail")
    def send() -> None: ...

    @faktory.job
    def order() -> None: ...

    @faktory.job(queue=None)
    def plain() -> None: ...

    class Image(faktory.Job):
        faktory_options = {"queue": "images", "retry": 3}

    class Resize(Image):
        faktory_options = {"retry": 0}

        def perform(self) -> None: ...

    own = {"Resize": "images", "plain": "default", "send": "mail"}
    assert registry.queues() == {**own, "order": "default"}
    faktory.default_job_options["queue"] = "shop"
    assert registry.queues() == {**own, "order": "shop"}
