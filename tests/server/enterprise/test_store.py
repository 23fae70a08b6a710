import json

import pytest

from faktory.server.enterprise.locks import NotUnique
from faktory.server.go import time as go_time
from faktory.server.slices import finish
from faktory.server.store import CommandError

MINUTE = 60
DAY = 86400


def take(store, *queues):
    payload = store.fetch("w", queues or ["default"])
    return None if payload is None else json.loads(payload)


@pytest.fixture
def store(enterprise):
    return enterprise


@pytest.fixture
def begin(store):
    """`begin(success="Done", **fields)`: a new batch's bid, its callbacks given as job types."""

    def new(success=None, complete=None, **fields):
        for name, jobtype in (("success", success), ("complete", complete)):
            if jobtype is not None:
                fields[name] = {"jobtype": jobtype, "args": [], "queue": "callbacks"}
        return store.new_batch(fields)

    return new


@pytest.fixture
def push(store, new_job):
    """`push(jid, bid=..., track=1, ...)`: push a job with this in `custom`."""

    def push(jid, *, at="", queue="default", retry=25, args=(), **custom):
        fields = {"queue": queue, "retry": retry, "args": list(args), "custom": custom}
        store.push(new_job(jid, **fields, **({"at": at} if at else {})))

    return push


def pass_time(store, clock, seconds):
    clock.forward(seconds)
    store.sweep()


# Batches.


def test_the_members_of_a_batch_are_the_jobs_with_its_bid(store, begin, push):
    bid = begin(success="Done")
    push("job-0001", bid=bid)
    push("job-0002", bid=bid, at="2026-01-02T00:00:00Z")
    push("job-0003")
    assert store.batches.status(bid)["total"] == 2


def test_the_callback_can_be_fetched_right_after_the_last_acknowledgement(store, begin, push):
    bid = begin(success="Done")
    push("job-0001", bid=bid)
    store.batches.commit(bid, store.clock())
    assert take(store)["custom"] == {"bid": bid}
    assert take(store, "callbacks") is None
    store.acknowledge("job-0001")
    callback = take(store, "callbacks")
    assert (callback["jobtype"], callback["custom"]) == ("Done", {"_bid": bid, "_cb": "success"})
    assert callback["enqueued_at"]
    store.acknowledge(callback["jid"])
    assert store.batches.status(bid)["success_st"] == "2"


def test_a_callback_that_fails_is_retried_and_then_acknowledged(store, clock, begin):
    bid = begin(success="Done")
    store.batches.commit(bid, clock())
    jid = take(store, "callbacks")["jid"]
    store.fail(jid, "E", "m", [])
    assert store.batches.status(bid)["success_st"] == "1"
    pass_time(store, clock, MINUTE)
    assert take(store, "callbacks")["jid"] == jid
    store.acknowledge(jid)
    assert store.batches.status(bid)["success_st"] == "2"


@pytest.mark.parametrize("retry", [25, 1, 0, -1])
def test_a_member_that_fails_completes_its_batch_whatever_its_retries(store, begin, push, retry):
    bid = begin(complete="Over", success="Done")
    push("job-0001", bid=bid, retry=retry)
    store.batches.commit(bid, store.clock())
    take(store)
    store.fail("job-0001", "E", "m", [])
    assert take(store, "callbacks")["jobtype"] == "Over"
    assert store.batches.status(bid)["failed"] == 1
    assert store.batches.status(bid)["pending"] == 1


def test_a_retry_that_succeeds_makes_the_batch_succeed(store, clock, begin, push):
    bid = begin(success="Done")
    push("job-0001", bid=bid)
    store.batches.commit(bid, clock())
    take(store)
    store.fail("job-0001", "E", "m", [])
    pass_time(store, clock, MINUTE)
    take(store)
    store.acknowledge("job-0001")
    assert take(store, "callbacks")["jobtype"] == "Done"
    assert store.batches.status(bid)["failed"] == 0


def test_a_reservation_that_expires_counts_as_a_failure(store, clock, begin, push):
    bid = begin(complete="Over")
    push("job-0001", bid=bid)
    store.batches.commit(bid, clock())
    take(store)
    pass_time(store, clock, 1800)
    assert take(store, "callbacks")["jobtype"] == "Over"


def test_a_job_of_an_unknown_batch_is_rejected(store, push):
    with pytest.raises(CommandError, match=r"^No such batch b-0$"):
        push("job-0001", bid="b-0")
    assert take(store) is None


def test_a_job_that_is_rejected_for_another_reason_is_not_a_member(store, begin, push):
    bid = begin(success="Done")
    with pytest.raises(CommandError, match="queue"):
        push("job-0001", bid=bid, queue="no queue")
    assert store.batches.status(bid)["total"] == 0


def test_a_running_job_can_add_jobs_and_batches_to_its_batch(store, clock, begin, push):
    bid = begin(success="Done")
    push("job-0001", bid=bid)
    store.batches.commit(bid, clock())
    take(store)
    push("job-0002", bid=bid)
    child = begin(success="ChildDone", parent_bid=bid)
    push("job-0003", bid=child)
    store.batches.commit(child, clock())
    store.batches.commit(bid, clock())
    for jid in ("job-0001", "job-0002", "job-0003"):
        take(store)
        store.acknowledge(jid)
    callback = take(store, "callbacks")
    assert callback["jobtype"] == "ChildDone"
    assert callback["custom"]["_pbid"] == bid
    assert take(store, "callbacks") is None
    store.acknowledge(callback["jid"])
    assert take(store, "callbacks")["jobtype"] == "Done"


def test_the_jobs_of_a_child_batch_name_the_parent_batch(store, begin, push):
    parent = begin(success="Done")
    child = begin(success="Done", parent_bid=parent)
    push("job-0001", bid=child, at="2026-01-02T00:00:00Z")
    push("job-0002", bid=child)
    [(_, payload, _)] = store.scheduled
    assert json.loads(payload)["custom"] == {"bid": child, "_pbid": parent}
    assert take(store)["custom"] == {"bid": child, "_pbid": parent}


def test_jobs_stay_when_their_batch_is_forgotten(store, clock, begin, push):
    bid = begin(success="Done")
    push("job-0001", bid=bid)
    pass_time(store, clock, 30 * MINUTE)
    with pytest.raises(CommandError, match="No such batch"):
        store.batches.commit(bid, clock())
    assert take(store)["jid"] == "job-0001"
    store.acknowledge("job-0001")
    assert take(store, "callbacks") is None


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "^a batch must have a success or a complete callback$"),
        ({"success": {"args": []}}, "^success callback: jobs must have a jobtype parameter$"),
        ({"complete": {"jobtype": "T"}}, "^complete callback: jobs must have an args parameter$"),
        (
            {"success": {"jobtype": "T", "args": [], "queue": "a b"}},
            "^success callback: cannot get .* queue",
        ),
        (
            {"success": {"jobtype": "T", "args": [], "at": "soon"}},
            "^success callback: invalid timestamp for 'at'",
        ),
        (
            {"success": {"jobtype": "T", "args": [], "custom": {"expires_in": "x"}}},
            "^success callback: custom.expires_in must be",
        ),
        ({"success": {"jobtype": "T", "args": []}, "parent_bid": "b-0"}, "^No such batch b-0$"),
    ],
)
def test_a_batch_with_an_invalid_callback_is_rejected(store, fields, complaint):
    with pytest.raises(CommandError, match=complaint):
        store.new_batch(fields)
    assert (len(store.batches.table), store.queues) == (0, {})


def test_a_scheduled_callback_is_lost_if_the_name_of_its_queue_is_invalid(store, clock, caplog):
    for queue in ("later", "no queue"):
        callback = {"jobtype": "T", "args": [], "queue": queue, "at": "2026-01-01T00:10:00Z"}
        bid = store.new_batch({"success": callback})
        if queue == "no queue":
            pass_time(store, clock, 600)
        store.batches.commit(bid, clock())
    assert take(store, "later")["jobtype"] == "T"
    assert "is lost" in caplog.text


# Unique jobs.


def test_a_job_is_unique_until_it_is_acknowledged(store, push):
    push("job-0001", unique_for=600)
    with pytest.raises(NotUnique):
        push("job-0002", unique_for=600)
    take(store)
    with pytest.raises(NotUnique):
        push("job-0002", unique_for=600)
    store.acknowledge("job-0001")
    push("job-0002", unique_for=600)


def test_a_job_with_unique_until_start_is_unique_until_a_worker_fetches_it(store, push):
    push("job-0001", unique_for=600, unique_until="start")
    with pytest.raises(NotUnique):
        push("job-0002", unique_for=600)
    take(store)
    push("job-0002", unique_for=600)
    store.acknowledge("job-0001")
    with pytest.raises(NotUnique):
        push("job-0003", unique_for=600)


def test_a_job_stays_unique_during_its_retries_until_its_time_is_over(store, clock, push):
    push("job-0001", unique_for=600)
    take(store)
    store.fail("job-0001", "E", "m", [])
    pass_time(store, clock, 599)
    with pytest.raises(NotUnique):
        push("job-0002", unique_for=600)
    pass_time(store, clock, 1)
    push("job-0002", unique_for=600)


@pytest.mark.parametrize("retry", [1, 0])
def test_a_job_that_dies_or_is_dropped_stays_unique_for_its_time(store, clock, push, retry):
    push("job-0001", unique_for=600, retry=retry)
    take(store)
    store.fail("job-0001", "E", "m", [])
    finish(store.discard("retries", None))
    with pytest.raises(NotUnique):
        push("job-0002", unique_for=600)
    pass_time(store, clock, 600)
    push("job-0002", unique_for=600)


def test_the_lock_of_a_scheduled_job_counts_from_when_it_is_due(store, clock, push):
    push("job-0001", unique_for=600, at="2026-01-01T01:00:00Z")
    pass_time(store, clock, 3600 + 599)
    with pytest.raises(NotUnique):
        push("job-0002", unique_for=600)
    pass_time(store, clock, 1)
    push("job-0002", unique_for=600)


def test_a_job_without_unique_for_ignores_locks(store, push):
    push("job-0001")
    push("job-0002", unique_for=600)
    push("job-0003")


def test_a_job_that_is_rejected_for_another_reason_acquires_no_lock(store, begin, push):
    bid = begin(success="Done")
    store.batches.commit(bid, store.clock())
    for fields in ({"queue": "a b"}, {"at": "soon"}, {"bid": bid}):
        with pytest.raises(CommandError, match=r"queue|timestamp|last callback"):
            push("job-0001", unique_for=600, **fields)
    push("job-0002", unique_for=600)


def test_a_callback_is_enqueued_even_if_its_lock_is_held(store, clock, new_job):
    lonely = {"jobtype": "T", "args": [], "custom": {"unique_for": 600}}
    store.push(new_job("job-0001", custom={"unique_for": 600}))
    store.batches.commit(store.new_batch({"success": lonely}), clock())
    assert take(store)["jid"] == "job-0001"
    callback = take(store)
    store.acknowledge(callback["jid"])
    with pytest.raises(NotUnique):
        store.push(new_job("job-0002", custom={"unique_for": 600}))


# Expiring jobs.


def test_a_fetch_that_already_waits_is_served_first(store, push):
    served = []
    store.wait("other", ["default"], served.append)
    push("job-0001", expires_in=60)
    assert take(store) is None
    assert json.loads(served[0])["jid"] == "job-0001"


def test_an_expired_job_is_dropped_and_the_next_one_is_fetched(store, clock, push, caplog):
    push("job-0001", expires_at="2026-01-01T00:01:00Z")
    push("job-0002", expires_at="2026-01-01T00:01:00.001Z")
    clock.forward(60)
    with caplog.at_level("INFO", "faktory.server"):
        assert take(store)["jid"] == "job-0002"
    assert "the job job-0001 has expired" in caplog.text
    assert (len(store.working), store.processed) == (1, 0)


def test_if_all_jobs_of_a_queue_have_expired_the_next_queue_is_used(store, clock, push):
    push("job-0001", expires_in=1)
    push("job-0002", expires_in=1)
    push("job-0003", queue="other")
    clock.forward(1)
    assert take(store, "default", "other")["jid"] == "job-0003"
    assert take(store, "default", "other") is None


def test_expires_in_counts_from_the_push_or_from_the_scheduled_time(store, clock, push):
    push("job-0001", expires_in=60)
    push("job-0002", expires_in=60, at="2026-01-01T01:00:00Z")
    assert take(store)["custom"] == {"expires_at": "2026-01-01T00:01:00Z", "expires_in": 60}
    pass_time(store, clock, 3600 + 59)
    assert take(store)["custom"]["expires_at"] == "2026-01-01T01:01:00Z"


def test_a_retry_expires_too(store, clock, push):
    push("job-0001", expires_in=10)
    take(store)
    store.fail("job-0001", "E", "m", [])
    pass_time(store, clock, MINUTE)
    assert take(store) is None


def test_expires_at_wins_over_expires_in(store, clock, push):
    push("job-0001", expires_in=1, expires_at="2026-01-01T01:00:00Z")
    clock.forward(2)
    assert take(store)["jid"] == "job-0001"


def test_a_waiting_fetch_does_not_get_an_expired_job(store, push):
    served = []
    store.wait("w", ["default"], served.append)
    push("job-0001", expires_at="2025-01-01T00:00:00Z")
    push("job-0002")
    store.serve()
    assert [json.loads(payload)["jid"] for payload in served] == ["job-0002"]


def test_a_member_that_expires_counts_as_failed(store, clock, begin, push):
    bid = begin(complete="Over", success="Done")
    push("job-0001", bid=bid, expires_in=1)
    store.batches.commit(bid, clock())
    clock.forward(1)
    served = []
    store.wait("w", ["callbacks"], served.append)
    assert take(store) is None
    [payload] = served
    assert json.loads(payload)["jobtype"] == "Over"
    assert store.batches.status(bid)["failed"] == 1
    assert store.batches.status(bid)["pending"] == 1


def test_an_expiry_beyond_the_year_9999_is_the_last_second_of_it(store, push):
    push("job-0001", expires_in=10**9, at="9999-12-31T23:00:00Z")
    [(_, payload, _)] = store.scheduled
    assert json.loads(payload)["custom"]["expires_at"] == "9999-12-31T23:59:59Z"


# Tracking.


def test_the_states_of_a_tracked_job(store, clock, push):
    states = []

    def look():
        states.append(store.tracks.status("job-0001")["state"])

    push("job-0001", track=1, retry=2)
    look()
    for _ in range(3):
        take(store)
        look()
        store.fail("job-0001", "E", "m", [])
        look()
        pass_time(store, clock, 2 * MINUTE)
    finish(store.requeue("dead", None))
    take(store)
    store.acknowledge("job-0001")
    look()
    assert states == [
        "enqueued",
        *("working", "failed"),
        *("working", "failed"),
        *("working", "dead"),
        "success",
    ]


@pytest.mark.parametrize(("retry", "state"), [(0, "failed"), (-1, "dead"), (1, "failed")])
def test_a_failed_job_is_tracked_as_dead_or_failed(store, push, retry, state):
    push("job-0001", track=1, retry=retry)
    take(store)
    store.fail("job-0001", "E", "m", [])
    assert store.tracks.status("job-0001")["state"] == state
    assert len(store.dead) == (state == "dead")


def test_jobs_that_are_not_tracked_or_have_expired_are_unknown(store, clock, push):
    push("job-0001")
    push("job-0002", track=1, expires_in=1)
    take(store)
    store.acknowledge("job-0001")
    clock.forward(1)
    assert take(store) is None
    for jid in ("job-0001", "job-0002"):
        assert store.tracks.status(jid)["state"] == "unknown"


def test_a_job_that_waits_may_report_and_reserve(store, push):
    push("job-0001", track=1)
    store.report({"jid": "job-0001", "percent": 5, "reserve_until": "2026-01-01T02:00:00Z"})
    status = store.tracks.status("job-0001")
    assert (status["percent"], status["state"]) == (5, "enqueued")


def test_a_report_on_an_unknown_job_is_rejected(store, push):
    push("job-0001")
    with pytest.raises(CommandError, match=r"^No such job job-0001$"):
        store.report({"jid": "job-0001", "percent": 5})
    with pytest.raises(CommandError, match=r"^No such job $"):
        store.report({"percent": 5})


def test_a_report_of_a_running_job_that_is_not_tracked_has_no_effect(store, push):
    push("job-0001")
    take(store)
    store.report({"jid": "job-0001", "percent": 5})
    assert store.tracks.status("job-0001")["state"] == "unknown"


def test_a_running_job_that_was_forgotten_is_tracked_again_when_it_reports(store, clock, push):
    push("job-0001", track=1)
    take(store)
    store.report({"jid": "job-0001", "reserve_until": "2026-01-01T01:00:00Z"})
    pass_time(store, clock, 31 * MINUTE)
    assert store.tracks.status("job-0001")["state"] == "unknown"
    store.report({"jid": "job-0001", "percent": 5})
    assert store.tracks.status("job-0001")["state"] == "working"
    assert store.tracks.status("job-0001")["percent"] == 5


@pytest.mark.parametrize(
    ("until", "expires_at"),
    [
        ("2026-01-01T02:00:00Z", "2026-01-01T02:00:00Z"),
        ("2026-01-01T00:29:59Z", "2026-01-01T00:30:00Z"),
        ("2020-01-01T00:00:00Z", "2026-01-01T00:30:00Z"),
        ("2026-01-09T00:00:00Z", "2026-01-02T00:00:00Z"),
    ],
)
def test_a_reservation_can_be_extended_up_to_a_day_but_not_shortened(
    store, clock, push, until, expires_at
):
    push("job-0001")
    take(store)
    store.report({"jid": "job-0001", "reserve_until": until})
    [(due, _, reservation)] = store.working
    assert due == reservation.expires_at == go_time.read(expires_at) == store.next_due()
    assert store.reservations["job-0001"] is reservation
    clock.now = due - 1
    store.sweep()
    assert len(store.working) == 1
    store.acknowledge("job-0001")
    assert len(store.working) == 0


def test_an_invalid_reserve_until_is_rejected(store, push):
    push("job-0001", track=1)
    with pytest.raises(CommandError, match=r"^invalid timestamp for 'reserve_until'.*soon"):
        store.report({"jid": "job-0001", "percent": 5, "reserve_until": "soon"})
    assert "percent" not in store.tracks.status("job-0001")


def test_a_callback_may_be_tracked_and_expire(store, clock, begin):
    custom = {"track": 1, "expires_in": 60}
    callback = {"jid": "job-0001", "jobtype": "T", "args": [], "custom": custom}
    bid = store.new_batch({"success": callback})
    pass_time(store, clock, 10 * MINUTE)
    store.batches.commit(bid, clock())
    assert store.tracks.status("job-0001")["state"] == "enqueued"
    [job] = store.queues["default"]
    assert json.loads(job.custom)["expires_at"] == "2026-01-01T00:11:00Z"
    pass_time(store, clock, MINUTE)
    assert take(store) is None
    assert store.batches.status(bid)["success_st"] == "1"


# All together.


def test_the_store_returns_when_something_is_due_next(store, clock, begin, push):
    assert store.next_due() is None
    begin(success="Done")
    assert store.next_due() == clock() + 30 * MINUTE * 10**9
    push("job-0001", unique_for=600)
    assert store.next_due() == clock() + 600 * 10**9
    pass_time(store, clock, 600)
    push("job-0002", track=1)
    pass_time(store, clock, 20 * MINUTE)
    assert store.next_due() == clock() + 10 * MINUTE * 10**9


def test_a_flush_clears_batches_locks_and_tracking(store, begin, push):
    bid = begin(success="Done")
    push("job-0001", bid=bid, unique_for=600, track=1)
    take(store)
    finish(store.flush())
    assert store.tracks.status("job-0001")["state"] == "unknown"
    with pytest.raises(CommandError, match="No such batch"):
        store.batches.find(bid)
    push("job-0002", unique_for=600)
    store.report({"jid": "job-0001", "reserve_until": "2026-01-01T05:00:00Z"})
    assert len(store.working) == 0
    for _ in range(2):
        store.acknowledge("job-0001")


def test_no_memory_is_held_when_everything_is_done_and_time_has_passed(store, clock, begin, push):
    for number in range(200):
        bid = begin(success="Done", complete="Over")
        push(f"job-{number:04}", bid=bid, unique_for=600, track=1, args=[number])
        store.batches.commit(bid, clock())
    pass_time(store, clock, 30 * DAY)
    assert store.next_due() is None
    assert [len(store.batches.table), len(store.tracks._known), len(store.locks._held)] == [0] * 3
