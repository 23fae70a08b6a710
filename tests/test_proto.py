"""Which implementation of the core is chosen, in fresh interpreters: it is chosen once in each."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import faktory
from faktory import proto

ABSENT = "sys.modules['faktory._proto'] = None"

PRESENT = """
import faktory._proto_py
sys.modules['faktory._proto'] = faktory._proto_py
"""

BROKEN = """
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == 'faktory._proto':
            raise ImportError('undefined symbol: PyWhatever', name=name)
sys.meta_path.insert(0, Broken())
"""

LACKS_A_LIBRARY = """
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name == 'faktory._proto':
            import a_library_that_is_not_there
sys.meta_path.insert(0, Lacking())
"""


def choose(core: str, wanted: str | None, then: str = "proto.implementation_info()") -> str:
    """Import `faktory.proto` where the compiled core is as `core` makes it; return what is said."""
    root = str(Path(faktory.__file__).parents[1])
    environment = {name: value for name, value in os.environ.items() if name != "FAKTORY_IMPL"}
    if wanted is not None:
        environment["FAKTORY_IMPL"] = wanted
    code = f"import sys\nsys.path.insert(0, {root!r})\n{core}\n"
    code += "try:\n    from faktory import proto\nexcept ImportError as error:\n    print(error)\n"
    code += f"else:\n    print({then})\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def info(implementation: str, reason: str) -> str:
    module = {"cython": "faktory._proto", "python": "faktory._proto_py"}[implementation]
    return str({"implementation": implementation, "reason": reason, "module": module})


@pytest.mark.parametrize("wanted", [None, "", "auto"])
def test_the_compiled_core_is_taken_where_it_is_there(wanted):
    assert choose(PRESENT, wanted) == info("cython", "the compiled core is there")


@pytest.mark.parametrize("wanted", [None, "auto"])
def test_without_the_compiled_core_the_pure_one_is_taken(wanted):
    assert choose(ABSENT, wanted) == info("python", "no compiled core: it was not built")


@pytest.mark.parametrize(
    ("wanted", "implementation", "reason"),
    [
        (None, "python", "would switch this Python's GIL on; FAKTORY_IMPL=cython does"),
        ("cython", "cython", "FAKTORY_IMPL=cython asks for it"),
    ],
)
def test_no_gil_is_switched_on_without_being_asked_for(wanted, implementation, reason):
    said = choose(PRESENT + "sys._is_gil_enabled = lambda: False", wanted)
    assert f"'implementation': '{implementation}'" in said
    assert reason in said


def test_a_compiled_core_that_does_not_load_is_named_as_the_reason():
    assert choose(BROKEN, None) == info(
        "python", "no compiled core: it does not load: undefined symbol: PyWhatever"
    )


def test_a_compiled_core_that_lacks_something_itself_is_there_and_does_not_load():
    assert "it does not load: No module named 'a_library_that_is_not_there'" in choose(
        LACKS_A_LIBRARY, "auto"
    )


def test_python_is_taken_if_asked_for_though_the_compiled_core_is_there():
    assert choose(PRESENT, "python") == info("python", "FAKTORY_IMPL=python asks for it")


def test_cython_is_taken_if_asked_for():
    assert choose(PRESENT, "cython") == info("cython", "FAKTORY_IMPL=cython asks for it")


@pytest.mark.parametrize(
    ("core", "why"),
    [(ABSENT, "but it was not built."), (BROKEN, "but it does not load: undefined symbol")],
)
def test_cython_that_is_asked_for_and_missing_is_an_import_error_that_says_why(core, why):
    said = choose(core, "cython")
    assert said.startswith("FAKTORY_IMPL=cython asks for the compiled core, " + why)
    assert "Install a wheel for this platform, or build with a C compiler" in said


@pytest.mark.parametrize("wanted", ["Cython", "PYTHON", "c", "0", " python"])
def test_any_other_value_is_refused(wanted):
    assert choose(ABSENT, wanted) == (
        f"FAKTORY_IMPL is {wanted!r}. Set it to auto, cython or python."
    )


def test_the_package_itself_can_be_imported_whatever_the_variable_says():
    assert choose(f"{ABSENT}\nimport faktory; print(faktory.__version__)", "nonsense").startswith(
        faktory.__version__
    )


def test_what_is_told_here_is_what_runs_here():
    assert proto.implementation_info()["implementation"] == proto.implementation
    assert faktory.implementation == proto.implementation
    module = importlib.import_module(proto.implementation_info()["module"])
    for name in set(proto.__all__) - {"implementation", "implementation_info"}:
        assert getattr(proto, name) is getattr(module, name)


def test_the_info_is_the_callers_to_change():
    proto.implementation_info()["reason"] = "changed"
    assert proto.implementation_info()["reason"] != "changed"
