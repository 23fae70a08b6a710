import json

import pytest

from faktory.server.errors import CommandError
from faktory.server.filters import compile_filter
from faktory.server.slices import finish

ANYONE = "w"


def jids(jobs):
    return [job.jid for _, _, job in jobs]


def take(store, *queues):
    payload = store.fetch(ANYONE, queues or ["default"])
    return payload and json.loads(payload)["jid"]


# Reservations.


@pytest.mark.parametrize(
    ("reserve_for", "seconds"), [(0, 1800), (1, 60), (-5, 60), (61, 61), (86400, 86400)]
)
def test_a_reservation_lasts_as_long_as_requested_within_limits(
    store, clock, new_job, reserve_for, seconds
):
    store.push(new_job("job-0001", reserve_for=reserve_for))
    take(store)
    clock.forward(seconds - 0.001)
    store.sweep()
    assert len(store.working) == 1
    clock.forward(0.001)
    store.sweep()
    assert (len(store.working), store.reservations) == (0, {})
    [(_, _, job)] = store.retries
    assert job.failure.errtype == "ReservationExpired"
    assert job.failure.message == "Faktory job reservation expired"


def test_a_job_without_retries_is_dropped_when_its_reservation_expires(store, clock, new_job):
    store.push(new_job("job-0001", retry=0))
    take(store)
    clock.forward(1800)
    store.sweep()
    assert (len(store.retries), len(store.dead), store.failures) == (0, 0, 1)
    with pytest.raises(CommandError, match="Job not found job-0001"):
        store.fail("job-0001", "", "", [])


def test_two_reserved_copies_of_a_job_fail_once_when_they_expire(store, clock, new_job):
    for _ in range(2):
        store.push(new_job("job-0001"))
        take(store)
    clock.forward(1800)
    store.sweep()
    assert (len(store.working), len(store.retries), store.failures) == (0, 1, 1)


def test_the_store_returns_when_something_is_due_next(store, clock, new_job):
    assert store.next_due() is None
    start = clock.now
    store.push(new_job("job-0001", at="2026-01-01T01:00:00Z"))
    assert store.next_due() == start + 3600 * 10**9
    store.push(new_job("job-0002"))
    take(store)
    assert store.next_due() == start + 1800 * 10**9
    store.acknowledge("job-0002")
    assert store.next_due() == start + 3600 * 10**9


# Failures.


def test_the_delay_of_retries_grows_with_the_fourth_power_and_a_random_part(store, clock, new_job):
    store.push(new_job("job-0001", retry=10))
    delays = []
    for _ in range(10):
        assert take(store) == "job-0001"
        store.fail("job-0001", "E", "m", [])
        due = store.next_due()
        delays.append((due - clock.now) / 1e9)
        clock.now = due
        store.sweep()
    for count, delay in enumerate(delays):
        assert count**4 + 15 <= delay < count**4 + 15 + 30 * (count + 1)
    assert take(store) == "job-0001"
    store.fail("job-0001", "E", "m", [])
    assert jids(store.dead) == ["job-0001"]


def test_a_job_pushed_with_a_failure_continues_its_count(store, new_job):
    store.push(new_job("job-0001", retry=3, failure={"retry_count": 2, "remaining": 0}))
    take(store)
    store.fail("job-0001", "", "", [])
    [(_, _, job)] = store.dead
    assert (job.failure.retry_count, job.failure.remaining) == (3, 0)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("", "unknown"),
        (" \u2003\n", "unknown"),
        (" a b\u00a0", "a b"),
        ("\x1fa", "\x1fa"),
        ("é" * 60, "é" * 50),
        ("x" + "é" * 60, "x" + "é" * 49 + "\ufffd"),
    ],
)
def test_error_texts_are_stripped_and_cut_by_bytes(store, new_job, said, kept):
    store.push(new_job("job-0001"))
    take(store)
    store.fail("job-0001", said, "m", [])
    [(_, _, job)] = store.retries
    assert job.failure.errtype == kept


def test_dead_jobs_are_forgotten_after_180_days(store, clock, new_job):
    store.push(new_job("job-0001", retry=-1))
    take(store)
    store.fail("job-0001", "", "", [])
    clock.forward(180 * 86400 - 1)
    store.sweep()
    assert len(store.dead) == 1
    clock.forward(1)
    store.sweep()
    assert len(store.dead) == 0


# Schedule.


def test_due_jobs_are_queued_in_the_order_of_their_times(store, clock, new_job):
    for minute, jid in ((3, "job-0003"), (1, "job-0001"), (2, "job-0002"), (9, "job-0009")):
        store.push(new_job(jid, at=f"2026-01-01T00:0{minute}:00Z"))
    clock.forward(200)
    store.sweep()
    assert [take(store) for _ in range(4)] == ["job-0001", "job-0002", "job-0003", None]
    assert store.enqueued["Scheduled"] == 3


def test_a_scheduled_job_has_the_time_at_which_it_was_queued(store, clock, new_job):
    store.push(new_job("job-0001", at="2026-01-01T00:01:00Z", enqueued_at="client's"))
    clock.forward(61.5)
    store.sweep()
    job = json.loads(store.fetch(ANYONE, ["default"]))
    assert job["created_at"] == "2026-01-01T00:00:00Z"
    assert job["enqueued_at"] == "2026-01-01T00:01:01.5Z"


def test_a_due_job_whose_queue_has_an_invalid_name_is_lost_and_logged(
    store, clock, new_job, caplog
):
    store.push(new_job("job-0001", queue="a b", at="2026-01-01T00:01:00Z"))
    clock.forward(60)
    store.sweep()
    assert (len(store.scheduled), store.queues) == (0, {})
    assert "job-0001 is due, but lost" in caplog.text


def test_the_same_job_scheduled_twice_is_kept_once(store, new_job):
    for _ in range(2):
        store.push(new_job("job-0001", at="2026-01-01T00:01:00Z"))
    assert len(store.scheduled) == 1


# Waiting.


def test_waiting_clients_are_served_in_the_order_in_which_they_came(store, new_job):
    served = []
    for name in ("first", "second", "third"):
        store.wait(name, ["other", "default"], lambda data, name=name: served.append((name, data)))
    for number in (1, 2):
        store.push(new_job(f"job-000{number}"))
    assert served == []
    store.serve()
    assert [(name, json.loads(data)["jid"]) for name, data in served] == [
        ("first", "job-0001"),
        ("second", "job-0002"),
    ]
    assert store.reservations["job-0002"].wid == "second"


def test_a_client_that_stopped_waiting_is_not_served(store, new_job):
    waiter = store.wait(ANYONE, ["default", "default"], pytest.fail)
    store.push(new_job("job-0001"))
    store.stop_waiting(waiter)
    store.stop_waiting(waiter)
    store.serve()
    assert take(store) == "job-0001"


def test_a_fetch_does_not_overtake_clients_that_wait(store, new_job):
    served = []
    store.wait("first", ["default"], served.append)
    store.push(new_job("job-0001"))
    assert take(store) is None
    assert len(served) == 1


def test_waiting_ends_with_one_job(store, new_job):
    served = []
    store.wait(ANYONE, ["a", "b"], served.append)
    for jid, queue in (("job-0001", "b"), ("job-0002", "a")):
        store.push(new_job(jid, queue=queue))
    store.serve()
    assert [json.loads(data)["jid"] for data in served] == ["job-0001"]
    assert take(store, "a", "b") == "job-0002"


@pytest.mark.parametrize("way", ["due", "retried", "requeued"])
def test_a_waiting_client_is_served_from_whatever_set_the_job_comes(store, clock, new_job, way):
    served = []
    if way == "due":
        store.push(new_job("job-0001", at="2026-01-01T00:01:00Z"))
    else:
        store.push(new_job("job-0001"))
        take(store)
        store.fail("job-0001", "", "", [])
    store.wait(ANYONE, ["default"], served.append)
    if way == "requeued":
        finish(store.requeue("retries", None))
    else:
        clock.forward(60)
        store.sweep()
    store.serve()
    assert len(served) == 1


# Administration.


def test_flush_keeps_reservations_without_their_jobs(store, new_job):
    store.push(new_job("job-0001"))
    store.push(new_job("job-0002"))
    take(store)
    take(store)
    finish(store.flush())
    store.fail("job-0001", "", "", [])
    assert (len(store.retries), store.processed, store.failures) == (0, 0, 0)
    store.acknowledge("job-0002")
    assert store.processed == 1


def test_mutations_change_only_jobs_that_match(store, new_job):
    for jid in ("job-0001", "job-0002", "job-0003"):
        store.push(new_job(jid, at="2099-01-01T00:00:00Z"))
    finish(store.kill("scheduled", finish(compile_filter({"jids": ["job-0002"]}))))
    assert (jids(store.scheduled), jids(store.dead)) == (["job-0001", "job-0003"], ["job-0002"])
    finish(store.requeue("dead", finish(compile_filter({}))))
    finish(store.discard("scheduled", finish(compile_filter({"regexp": "*0003*"}))))
    assert (jids(store.scheduled), jids(store.dead)) == (["job-0001"], [])
    finish(store.discard("scheduled", None))
    assert len(store.scheduled) == 0
    assert take(store) == "job-0002"


def test_killing_dead_jobs_keeps_them_another_180_days(store, clock, new_job):
    store.push(new_job("job-0001", at="2099-01-01T00:00:00Z"))
    finish(store.kill("scheduled", None))
    clock.forward(1000)
    finish(store.kill("dead", None))
    assert store.next_due() == clock.now + 180 * 86400 * 10**9


def test_latency_is_the_age_of_the_oldest_job(store, clock, new_job):
    for jid in ("job-0001", "job-0002"):
        store.push(new_job(jid))
        clock.forward(1.5)
    assert store.latency("default") == 3.0
    assert store.latency("unknown") == 0.0
