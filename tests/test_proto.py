"""The choice of the core's implementation, in fresh interpreters, because each chooses once."""

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
    """Import `faktory.proto` after running the code `core`; return the output."""
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
def test_the_compiled_core_is_used_if_it_is_available(wanted):
    assert choose(PRESENT, wanted) == info("cython", "the compiled core is available")


@pytest.mark.parametrize("wanted", [None, "auto"])
def test_without_the_compiled_core_the_pure_one_is_used(wanted):
    assert choose(ABSENT, wanted) == info("python", "no compiled core: it was not built")


@pytest.mark.parametrize("wanted", [None, "auto"])
def test_without_a_gil_the_compiled_core_is_the_default_too(wanted):
    output = choose(PRESENT + "sys._is_gil_enabled = lambda: False", wanted)
    assert output == info("cython", "the compiled core is available")


def test_a_compiled_core_that_does_not_load_is_the_reason():
    assert choose(BROKEN, None) == info(
        "python", "no compiled core: it does not load: undefined symbol: PyWhatever"
    )


def test_a_compiled_core_with_a_missing_import_counts_as_not_loading():
    assert "it does not load: No module named 'a_library_that_is_not_there'" in choose(
        LACKS_A_LIBRARY, "auto"
    )


def test_faktory_impl_python_uses_the_pure_core():
    assert choose(PRESENT, "python") == info("python", "FAKTORY_IMPL=python asks for it")


def test_faktory_impl_cython_uses_the_compiled_core():
    assert choose(PRESENT, "cython") == info("cython", "FAKTORY_IMPL=cython asks for it")


@pytest.mark.parametrize(
    ("core", "why"),
    [(ABSENT, "but it was not built."), (BROKEN, "but it does not load: undefined symbol")],
)
def test_faktory_impl_cython_without_the_compiled_core_raises_an_import_error(core, why):
    output = choose(core, "cython")
    assert output.startswith("FAKTORY_IMPL=cython asks for the compiled core, " + why)
    assert "Install a wheel for this platform, or build with a C compiler" in output


@pytest.mark.parametrize("wanted", ["Cython", "PYTHON", "c", "0", " python"])
def test_any_other_value_is_rejected(wanted):
    assert choose(ABSENT, wanted) == (
        f"FAKTORY_IMPL is {wanted!r}. Set it to auto, cython or python."
    )


def test_the_package_itself_can_be_imported_with_any_value():
    assert choose(f"{ABSENT}\nimport faktory; print(faktory.__version__)", "nonsense").startswith(
        faktory.__version__
    )


def test_the_info_describes_the_running_implementation():
    assert proto.implementation_info()["implementation"] == proto.implementation
    assert faktory.implementation == proto.implementation
    module = importlib.import_module(proto.implementation_info()["module"])
    for name in set(proto.__all__) - {"implementation", "implementation_info"}:
        assert getattr(proto, name) is getattr(module, name)


def test_the_info_is_a_copy():
    proto.implementation_info()["reason"] = "changed"
    assert proto.implementation_info()["reason"] != "changed"
