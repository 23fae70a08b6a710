from __future__ import annotations

import pytest

from faktory.worker.lifecycle import Lifecycle, State


@pytest.mark.parametrize(
    ("state", "fetches", "reported"),
    [
        (State.RUNNING, True, None),
        (State.QUIET, False, "quiet"),
        (State.TERMINATE, False, "terminate"),
    ],
)
def test_a_state_determines_whether_jobs_are_fetched_and_what_a_beat_reports(
    state: State, fetches: bool, reported: str | None
) -> None:
    lifecycle = Lifecycle()
    lifecycle.advance(state)
    assert (lifecycle.fetches, lifecycle.reported) == (fetches, reported)


@pytest.mark.parametrize("first", State)
@pytest.mark.parametrize("second", State)
def test_the_state_moves_forward_only(first: State, second: State) -> None:
    lifecycle = Lifecycle()
    assert lifecycle.advance(first) is (first > State.RUNNING)
    assert lifecycle.advance(second) is (second > first)
    assert lifecycle.state is max(first, second)
