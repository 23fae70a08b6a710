import pytest

from faktory.server.enterprise.tracking import TRACKED_FOR, Tracks
from faktory.server.go.time import SECOND


@pytest.fixture
def tracks():
    return Tracks()


def test_the_status_of_an_unknown_job_is_unknown_without_a_time(tracks):
    assert tracks.status("x") == {"jid": "x", "state": "unknown", "updated_at": ""}


def test_the_status_leaves_out_what_a_job_has_not_reported(tracks):
    tracks.set_state("x", "enqueued", SECOND)
    assert tracks.status("x") == {
        "jid": "x",
        "state": "enqueued",
        "updated_at": "1970-01-01T00:00:01Z",
    }


def test_a_jobs_report_stays_when_its_state_changes(tracks):
    tracks.set_state("x", "working", 0)
    tracks.report("x", 0, "Starting", 0)
    assert tracks.status("x")["percent"] == 0
    tracks.report("x", 98, None, 0)
    tracks.set_state("x", "success", 2 * SECOND)
    assert tracks.status("x") == {
        "jid": "x",
        "state": "success",
        "percent": 98,
        "desc": "Starting",
        "updated_at": "1970-01-01T00:00:02Z",
    }


def test_a_job_is_forgotten_half_an_hour_after_its_last_change(tracks):
    tracks.set_state("x", "enqueued", 0)
    tracks.report("x", 1, None, 5)
    assert tracks.first() == 5 + TRACKED_FOR * SECOND
    tracks.sweep(4 + TRACKED_FOR * SECOND)
    assert "x" in tracks
    tracks.sweep(5 + TRACKED_FOR * SECOND)
    assert "x" not in tracks
    assert tracks.first() is None


def test_one_job_or_all_can_be_forgotten(tracks):
    for jid in ("x", "y", "z"):
        tracks.set_state(jid, "enqueued", 0)
    tracks.forget("x")
    assert [jid in tracks for jid in ("x", "y", "z")] == [False, True, True]
    tracks.clear()
    assert [jid in tracks for jid in ("x", "y", "z")] == [False, False, False]
