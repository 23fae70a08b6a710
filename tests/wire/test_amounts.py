"""Amounts read as people would write them."""

from __future__ import annotations

import pytest

from faktory.wire.amounts import counted, in_one_unit


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs"), (12_345, "12,345 jobs")]
)
def test_a_count_has_a_noun_that_fits(count: int, shown: str) -> None:
    assert counted(count, "job") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (15, "15 s"),
        (119, "119 s"),
        (119.6, "2 min"),
        (7100, "118 min"),
        (7200, "2 h"),
        (2 * 86_400, "2 days"),
        (20 * 86_400, "20 days"),
    ],
)
def test_a_duration_has_the_unit_that_people_would_use(seconds: float, shown: str) -> None:
    assert in_one_unit(seconds) == shown
