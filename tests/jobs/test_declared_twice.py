"""A name that is declared twice in one execution of a module is an error; all others replace."""

from __future__ import annotations

import doctest
import importlib
import re
import runpy
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import faktory
from faktory.jobs import registry

from .support import run

Execute = Callable[[str], ModuleType]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Execute]:
    """`execute(source)`: import this as the module `ours`, or reload it with the new source."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a cache knows no parts of a second

    def execute(source: str) -> ModuleType:
        (tmp_path / "ours.py").write_text("import faktory\n" + textwrap.dedent(source))
        importlib.invalidate_caches()
        if "ours" in sys.modules:
            return importlib.reload(sys.modules["ours"])
        return importlib.import_module("ours")

    yield execute
    sys.modules.pop("ours", None)


FUNCTIONS = """
@faktory.job
def work():
    return 1

@faktory.job(queue="b")
def work():
    return 2
"""

CLASSES = """
class Work(faktory.Job):
    def perform(self):
        return 1

class Work(faktory.Job):
    def perform(self):
        return 2
"""

NAMED = """
@faktory.job(name="work")
def first():
    return 1

@faktory.job(name="work")
def second():
    return 2
"""

HELPER = """
def critical(function):
    return faktory.job(queue="critical")(function)

@critical
def work(): ...

@critical
def work(): ...
"""

BRANCHES = """
for kind in (1, 2):
    if kind == 1:
        @faktory.job
        def work(): ...
    else:
        @faktory.job
        def work(): ...
"""


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (FUNCTIONS, (3, 7)),
        (CLASSES, (3, 7)),
        (NAMED, (3, 7)),
        (HELPER, (6, 9)),
        (BRANCHES, (5, 8)),
    ],
)
def test_a_name_that_a_module_declares_twice_is_an_error_with_both_lines(
    execute: Execute, tmp_path: Path, source: str, lines: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="is declared twice") as caught:
        execute(source)
    jobtype = "Work" if source is CLASSES else "work"
    file = tmp_path / "ours.py"
    assert str(caught.value) == (
        f"the job type {jobtype!r} is declared twice: at {file}:{lines[0]}, and at "
        f"{file}:{lines[1]}. Give one of them another name."
    )


@pytest.mark.parametrize("how", ["script", "module", "command"])
def test_a_program_that_declares_a_name_twice_ends_with_the_error(tmp_path: Path, how: str) -> None:
    source = "import faktory\n" + FUNCTIONS
    (tmp_path / "ours.py").write_text(source)
    args = {"script": ["ours.py"], "module": ["-m", "ours"], "command": ["-c", source]}[how]
    done = subprocess.run([sys.executable, *args], cwd=tmp_path, capture_output=True, text=True)
    place = "__main__" if how == "command" else re.escape(f"{tmp_path.resolve()}/ours.py")
    assert re.search(rf"declared twice: at {place}:3, and at {place}:7\.", done.stderr)
    assert done.returncode == 1


ONE = """
@faktory.job
def work():
    return {result}

class Work(faktory.Job):
    def perform(self):
        return {result}
"""


def test_a_module_that_is_reloaded_replaces_its_jobs_whatever_has_moved(execute: Execute) -> None:
    execute(ONE.format(result=1))
    execute("\n\n\n" + ONE.format(result=2))
    assert (run("work"), run("Work")) == (2, 2)
    execute(NAMED[: NAMED.index("@faktory.job(name", 5)])  # the function has another name now
    assert run("work") == 1


def test_a_module_that_is_imported_again_after_it_failed_replaces_its_jobs(
    execute: Execute,
) -> None:
    with pytest.raises(ZeroDivisionError):
        execute(ONE.format(result=1) + "1 / 0")
    execute("\n" + ONE.format(result=2))
    assert (run("work"), run("Work")) == (2, 2)


def test_a_program_that_is_imported_under_its_name_replaces_its_jobs(
    execute: Execute, tmp_path: Path
) -> None:
    execute(ONE.format(result=1))
    for _ in range(2):
        runpy.run_path(str(tmp_path / "ours.py"), run_name="__main__")
    assert registry.names() == ["Work", "work"]


@pytest.mark.parametrize("where", ["one file", "a file for each cell"])
def test_cells_of_a_notebook_replace_the_jobs_of_other_cells(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    cells = ["import faktory", ONE.format(result=1), "\n" + ONE.format(result=2), FUNCTIONS, NAMED]
    for number, cell in enumerate(cells):
        name = f"ipykernel_1/{number}.py" if where == "a file for each cell" else "<cell>"
        exec(compile(cell, str(tmp_path / name) if "/" in name else name, "exec"), vars(main))
    assert (run("work"), run("Work")) == (2, 2)


def test_code_that_is_executed_again_replaces_its_jobs_whichever_branch_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = ModuleType("ours")
    monkeypatch.setitem(sys.modules, "ours", ours)
    source = """
import faktory
if kind == 1:
    @faktory.job
    def work(): return 1
else:
    @faktory.job
    def work(): return 2
"""
    code = compile(source, "ours.py", "exec")
    for kind in (1, 2, 1):
        vars(ours)["kind"] = kind
        exec(code, vars(ours))
        assert run("work") == kind


DOUBTFUL = {
    "one of two branches": """
        if faktory:
            @faktory.job
            def work(): return 2
        else:
            @faktory.job
            def work(): return 1
        """,
    "the second way": """
        try:
            import nowhere
            @faktory.job
            def work(): return 1
        except ImportError:
            @faktory.job
            def work(): return 2
        """,
    "the second way, after the first": """
        try:
            @faktory.job
            def work(): return 1
            import nowhere
        except ImportError:
            @faktory.job
            def work(): return 2
        """,
    "a loop": """
        for number in (1, 2):
            @faktory.job
            def work(number=number): return number
        """,
    "a factory": """
        def make(number):
            @faktory.job
            def work(): return number
            return work
        first = make(1)
        second = make(2)
        """,
    "a factory with branches": """
        def make(number):
            if number == 1:
                @faktory.job
                def work(): return 1
            else:
                @faktory.job
                def work(): return 2
        make(1)
        make(2)
        """,
    "one function with other options": """
        def work(): return 2
        first = faktory.job(work)
        second = faktory.job(queue="b")(work)
        """,
    "stacked decorators": """
        @faktory.job(queue="a")
        @faktory.job(queue="b")
        def work(): return 2
        """,
    "a class that a decorator makes again": """
        from dataclasses import dataclass
        @dataclass(slots=True)
        class work(faktory.Job):
            number: int = 2
            def perform(self): return self.number
        """,
    "a class that a factory makes": """
        def make(number):
            return type("work", (faktory.Job,), {"perform": lambda self: number})
        first = make(1)
        second = make(2)
        """,
    "a class with the perform of its base": """
        class Base(faktory.Job):
            number = 1
            def perform(self): return self.number
        class work(Base): ...
        class work(Base):
            number = 2
        """,
}


@pytest.mark.parametrize("source", DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_is_in_doubt_replaces(execute: Execute, source: str) -> None:
    execute(source)
    assert run("work") == 2


def test_functions_that_loops_and_factories_make_have_names_of_their_own(
    execute: Execute,
) -> None:
    execute("""
    def make(number):
        @faktory.job(name=f"work-{number}")
        def work(): return number
    for number in (1, 2):
        make(number)
    """)
    assert (run("work-1"), run("work-2")) == (1, 2)


def test_jobs_of_a_doctest_replace_those_of_other_examples() -> None:
    text = """
    >>> import faktory
    >>> @faktory.job
    ... def work(): return 1
    >>> @faktory.job
    ... def work(): return 2
    """
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "ours"}, "example", None, 0)
    assert doctest.DocTestRunner().run(test).failed == 0
    assert run("work") == 2


def test_a_registry_of_its_own_knows_no_earlier_declarations(execute: Execute) -> None:
    execute(ONE.format(result=1))
    with registry.isolated():
        execute("\n" + ONE.format(result=2))
        assert run("work") == 2
    assert run("work") == 1


def test_functions_of_tests_replace_each_other() -> None:
    for number in (1, 2):
        if number == 1:

            @faktory.job
            def work() -> int:
                return 1
        else:

            @faktory.job
            def work() -> int:
                return 2

    assert run("work") == 2
