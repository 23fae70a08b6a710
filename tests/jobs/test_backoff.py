from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from math import inf, nan
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import faktory
from faktory import backoff
from faktory.exceptions import MAX_DELAY, FaktoryPayloadError

MAKERS: list[Callable[..., Callable[[int], float]]] = [
    backoff.constant,
    backoff.linear,
    backoff.exponential,
]


@pytest.mark.parametrize(
    ("made", "waits"),
    [
        (backoff.constant(30), [30, 30, 30, 30]),
        (backoff.constant(0), [0, 0, 0, 0]),
        (backoff.constant(timedelta(minutes=1)), [60, 60, 60, 60]),
        (backoff.linear(30), [30, 60, 90, 120]),
        (backoff.linear(30, max=75), [30, 60, 75, 75]),
        (backoff.exponential(30), [30, 60, 120, 240]),
        (backoff.exponential(30, 3), [30, 90, 270, 810]),
        (backoff.exponential(30, factor=1.5), [30, 45, 67.5, 101.25]),
        (backoff.exponential(30, factor=2, max=100), [30, 60, 100, 100]),
        (
            backoff.exponential(timedelta(seconds=30), max=timedelta(minutes=1)),
            [30, 60, 60, 60],
        ),
        (backoff.exponential(0), [0, 0, 0, 0]),
        (backoff.constant(50, max=20), [20, 20, 20, 20]),
    ],
)
def test_a_backoff_follows_its_formula(made: Callable[[int], float], waits: list[float]) -> None:
    assert [made(attempt) for attempt in (1, 2, 3, 4)] == waits


def test_the_module_is_found_under_its_public_name() -> None:
    assert faktory.backoff.exponential is backoff.exponential
    assert "backoff" in faktory.__all__


seconds = st.floats(min_value=0, max_value=MAX_DELAY)


@given(
    maker=st.sampled_from(MAKERS),
    first=seconds,
    attempt=st.integers() | st.sampled_from([2**53, 10**400]),
    most=st.none() | st.floats(min_value=0.001, max_value=MAX_DELAY),
    jitter=st.floats(min_value=0, max_value=1),
)
@example(maker=backoff.exponential, first=5e-324, attempt=10**400, most=None, jitter=1.0)
def test_a_wait_is_never_negative_and_never_above_max(
    maker: Callable[..., Any], first: float, attempt: int, most: float | None, jitter: float
) -> None:
    wait = maker(first, max=most, jitter=jitter)(attempt)
    assert isinstance(wait, float)
    assert 0 <= wait <= (MAX_DELAY if most is None else most)


@given(first=seconds, attempt=st.integers(1, 40), jitter=st.floats(min_value=0, max_value=1))
def test_jitter_keeps_to_its_fraction(first: float, attempt: int, jitter: float) -> None:
    exact = backoff.exponential(first)(attempt)
    wait = backoff.exponential(first, jitter=jitter)(attempt)
    tolerance = exact * 1e-9
    assert exact * (1 - jitter) - tolerance <= wait <= exact * (1 + jitter) + tolerance


def test_jitter_spreads_to_both_sides_and_does_not_pile_up_at_max() -> None:
    waits = [backoff.constant(100, jitter=0.1)(1) for _ in range(400)]
    assert min(waits) < 100 < max(waits)
    capped = [backoff.constant(100, max=100, jitter=0.1)(1) for _ in range(400)]
    assert len(set(capped)) > 300
    assert 90 <= min(capped) <= max(capped) <= 100


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("wrong", [-1, nan, inf, "30", None, True, [30], MAX_DELAY + 1])
def test_what_is_not_a_wait_is_refused_where_the_backoff_is_made(
    maker: Callable[..., object], wrong: object
) -> None:
    with pytest.raises(FaktoryPayloadError, match=r"(seconds|step|first) is .*(seconds|timedelta)"):
        maker(wrong)
    if wrong is not None:
        with pytest.raises(FaktoryPayloadError, match="max is "):
            maker(30, max=wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max": 0}, "max is 0: it must be more than 0"),
        ({"jitter": -0.1}, "jitter is -0.1: it is the fraction .* from 0 to 1"),
        ({"jitter": 1.1}, "jitter is 1.1"),
        ({"jitter": 10}, "jitter is 10"),
        ({"jitter": nan}, "jitter is nan"),
        ({"jitter": True}, "jitter is True"),
        ({"jitter": timedelta(seconds=1)}, "jitter is datetime.timedelta"),
        ({"jitter": None}, "jitter is None"),
        ({"factor": 0.5}, "factor is 0.5: it must be a number, 1 or more"),
        ({"factor": inf}, "factor is inf"),
        ({"factor": nan}, "factor is nan"),
        ({"factor": "2"}, "factor is '2'"),
    ],
)
def test_wrong_options_of_a_backoff_are_refused_with_the_remedy(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(FaktoryPayloadError, match=message):
        backoff.exponential(30, **options)


def test_a_backoff_can_be_compared_shown_and_pickled() -> None:
    made = backoff.exponential(30, max=60, jitter=0.1)
    assert made == backoff.exponential(30.0, 2, max=60, jitter=0.1)
    assert made != backoff.exponential(30)
    assert "first=30.0" in repr(made)
    assert pickle.loads(pickle.dumps(made)) == made
