"""The rules that the tests as a whole keep."""

from __future__ import annotations

from .conftest import ONCE, TESTS


def test_what_runs_once_only_is_there():
    assert [name for name in ONCE if not (TESTS / name).exists()] == []
