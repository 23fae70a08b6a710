"""Fixtures of the core's tests: both twins side by side, and the comparison of their results."""

from __future__ import annotations

import gc
import sys
import sysconfig
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faktory import _proto_py


@pytest.fixture(scope="session")
def twins() -> tuple[ModuleType, ModuleType]:
    """Return the two implementations; the fixture `proto` fails in CI if one is missing."""
    return _proto_py, pytest.importorskip("faktory._proto")


@pytest.fixture(params=[800, pytest.param(100_000, marks=pytest.mark.soak)])
def for_all(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return `for_all(strategy, ..., check)`, which calls check with many examples; soak: more."""

    def run(*strategies_and_check: Any) -> None:
        *strategies, check = strategies_and_check

        def example(drawn: tuple[Any, ...]) -> None:
            check(*drawn)

        given(st.tuples(*strategies))(
            settings(
                max_examples=request.param,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            )(example)
        )()

    return run


@pytest.fixture(scope="session")
def outcome() -> Callable[..., tuple[str, ...]]:
    """Return `outcome(function, *args)`: the result or the error of a call, to be compared exactly.

    The repr of a value distinguishes 1 from True and 1.0, 0.0 from -0.0, and orders of keys.
    """

    def call(function: Callable[..., object], *args: object, **named: object) -> tuple[str, ...]:
        try:
            value = function(*args, **named)
        except Exception as error:
            return ("error", type(error).__name__, str(error))
        return ("value", type(value).__name__, repr(value))

    return call


@pytest.fixture(scope="session")
def leaks() -> Callable[[Callable[[], object]], bool]:
    """Return `leaks(function)`, which returns whether memory grows with the number of calls."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("a free-threaded build of Python frees memory later")

    def measure(function: Callable[[], object], rounds: int) -> int:
        for _ in range(rounds):
            function()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    def grows(function: Callable[[], object]) -> bool:
        tracemalloc.start()
        try:
            before = measure(function, 10)  # caches, interned names and the like
            return measure(function, 40) - before > 40 * 16
        finally:
            tracemalloc.stop()

    def check(function: Callable[[], object]) -> bool:
        # Other threads, one of pytest-xdist's say, need memory too; a leak shows each time.
        return all(grows(function) for _ in range(5))

    return check


@pytest.fixture
def recursion_limit() -> Callable[[int], Any]:
    """Return `recursion_limit(n)`, a context that allows n more nested calls than now."""

    @contextmanager
    def limited(more: int) -> Iterator[None]:
        depth, frame = 0, sys._getframe()
        while frame := frame.f_back:  # type: ignore[assignment]
            depth += 1
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(depth + more)
        try:
            yield
        finally:
            sys.setrecursionlimit(before)

    return limited
