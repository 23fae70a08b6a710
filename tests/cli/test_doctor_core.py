"""Doctor's words about the core where the package that is imported has none."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import faktory
from faktory import proto
from faktory.cli.tools import checks


@pytest.fixture
def pure(tmp_path, monkeypatch):
    """The folder of a package that has no core, imported without a site-packages."""
    folder = tmp_path / "source" / "faktory"
    folder.mkdir(parents=True)
    monkeypatch.delenv("FAKTORY_IMPL", raising=False)
    monkeypatch.setattr(proto, "implementation", "python")
    monkeypatch.setattr(proto, "__file__", str(folder / "proto.py"))
    info = {"implementation": "python", "reason": "no compiled core"}
    monkeypatch.setattr(proto, "implementation_info", lambda: info)
    monkeypatch.setattr(sys, "path", [str(folder.parent)])
    return folder


def test_an_installed_package_needs_a_wheel(pure):
    found = checks.core()
    assert (found.level, found.text) == (
        "warning",
        "python: no compiled core. Everything works, slower",
    )
    assert found.remedy.startswith("Install a wheel for this platform, or build with a C compiler")


def test_a_checkout_says_its_folder_and_the_remedy_is_make(pure):
    (pure.parent / "setup.py").touch()
    found = checks.core()
    assert found.text == f"python: no compiled core, in {pure}. Everything works, slower"
    assert found.remedy == (
        f"This is a checkout: run make in {pure.parent}, which needs a C compiler."
    )


@pytest.mark.skipif(faktory.implementation != "cython", reason="needs the compiled core")
def test_in_a_checkout_beside_an_installed_core_the_remedy_is_another_folder(
    pure, tmp_path, monkeypatch
):
    (pure.parent / "setup.py").touch()
    installed = tmp_path / "site-packages" / "faktory"
    package = Path(faktory.__file__).parent
    shutil.copytree(package, installed, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sys, "path", [str(pure.parent), str(installed.parent)])
    found = checks.core()
    assert found.text == f"python: no compiled core, in {pure}. Everything works, slower"
    assert found.remedy == (
        f"Start it in another folder: then {installed} is imported, which has the core."
    )
