from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import faktory
from faktory.jobs.signature import Signature

from .support import FakeServer


def no_defaults(a: int, b: int) -> None: ...
def defaults(a: int, b: int = 2, c: int = 3) -> None: ...
def rest(a: int, *more: int) -> None: ...
def default_and_rest(a: int, b: int = 2, *more: int) -> None: ...
def positional(a: int, b: int = 2, /, c: int = 3) -> None: ...
def nothing() -> None: ...


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "positions"),
    [
        (no_defaults, (1, 2), {}, (1, 2)),
        (no_defaults, (1,), {"b": 2}, (1, 2)),
        (no_defaults, (), {"b": 2, "a": 1}, (1, 2)),
        # Defaults fill gaps only, so that they do not replace those of the worker.
        (defaults, (1,), {}, (1,)),
        (defaults, (1,), {"c": 9}, (1, 2, 9)),
        (defaults, (1,), {"b": 9}, (1, 9)),
        (defaults, (), {"a": 1}, (1,)),
        (defaults, (1,), {"b": 2}, (1, 2)),
        (rest, (1,), {}, (1,)),
        (rest, (1, 2, 3), {}, (1, 2, 3)),
        (rest, (), {"a": 1}, (1,)),
        (default_and_rest, (1, 5, 6), {}, (1, 5, 6)),
        (default_and_rest, (), {"a": 1}, (1,)),
        (default_and_rest, (1,), {"b": 3}, (1, 3)),
        (positional, (1,), {"c": 4}, (1, 2, 4)),
        (nothing, (), {}, ()),
    ],
)
def test_arguments_become_positions(
    function: Callable[..., None], args: Any, kwargs: Any, positions: Any
) -> None:
    bound = Signature(function).bind(args, kwargs)
    assert tuple(bound) == positions
    function(*bound)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (no_defaults, (1,), {}),
        (no_defaults, (1, 2, 3), {}),
        (no_defaults, (1,), {"c": 2}),
        (no_defaults, (1, 2), {"a": 1}),
        (defaults, (), {"b": 2}),
        (rest, (), {}),
        (positional, (), {"a": 1}),
        (nothing, (1,), {}),
    ],
)
def test_wrong_arguments_are_a_type_error(
    function: Callable[..., None], args: Any, kwargs: Any
) -> None:
    with pytest.raises(TypeError):
        Signature(function).bind(args, kwargs)
    with pytest.raises(TypeError):
        function(*args, **kwargs)  # so does Python itself


def gap(a: int, zone: object = UTC, n: int = 1) -> None: ...


def test_a_default_that_no_job_can_carry_is_named_where_it_fills_a_gap(
    server: FakeServer,
) -> None:
    job = faktory.job(gap)
    with pytest.raises(TypeError, match=r"gap: the default of zone, .*utc, .* pass a value for it"):
        job.perform_async(1, n=2)
    assert server.opened == []
    job.perform_async(1, "UTC", n=2)
    job.perform_async(1)
    assert [job["args"] for job in server.jobs] == [[1, "UTC", 2], [1]]


@given(
    st.sampled_from([no_defaults, defaults, rest, default_and_rest, positional, nothing]),
    st.lists(st.integers(10, 19), max_size=5),
    st.dictionaries(st.sampled_from("abcd"), st.integers(20, 29), max_size=3),
)
def test_positions_mean_the_same_as_the_call(
    function: Callable[..., None], args: list[int], kwargs: dict[str, int]
) -> None:
    taken = inspect.signature(function)
    try:
        called = taken.bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            Signature(function).bind(args, kwargs)
        return
    positions = Signature(function).bind(args, kwargs)
    sent = taken.bind(*positions)
    assert positions[: len(args)] == args
    assert not positions or len(positions) == len(args) or positions[-1] in kwargs.values()
    called.apply_defaults()
    sent.apply_defaults()
    assert sent == called
