import pytest

from faktory.server.enterprise.locks import Locks, NotUnique


@pytest.fixture
def locks():
    return Locks()


def test_a_second_job_with_the_same_type_arguments_and_queue_is_rejected(locks, new_job):
    locks.acquire(new_job("job-0001", args=[1, {"a": 2, "b": 3}]), 10)
    with pytest.raises(NotUnique, match=r"^Job not unique$"):
        locks.check(new_job("job-0002", args=[1, {"b": 3, "a": 2}], queue="default"))


@pytest.mark.parametrize("other", [{"jobtype": "U"}, {"args": [2]}, {"queue": "q"}])
def test_a_job_that_differs_is_not_rejected(locks, new_job, other):
    locks.acquire(new_job("job-0001", args=[1]), 10)
    locks.check(new_job("job-0002", **{"args": [1], **other}))


def test_a_lock_is_released_by_its_job(locks, new_job):
    locks.acquire(new_job("job-0001"), 10)
    locks.release(new_job("job-0002"))
    with pytest.raises(NotUnique):
        locks.check(new_job("job-0002"))
    locks.release(new_job("job-0001"))
    locks.check(new_job("job-0002"))
    assert locks.first() is None


def test_a_lock_ends_at_its_time_and_another_job_can_acquire_it(locks, new_job):
    locks.acquire(new_job("job-0001"), 10)
    assert locks.first() == 10
    locks.sweep(9)
    with pytest.raises(NotUnique):
        locks.check(new_job("job-0002"))
    locks.sweep(10)
    locks.acquire(new_job("job-0002"), 20)
    locks.release(new_job("job-0001"))
    with pytest.raises(NotUnique):
        locks.check(new_job("job-0003"))


def test_all_locks_can_be_released(locks, new_job):
    locks.acquire(new_job("job-0001"), 10)
    locks.clear()
    locks.check(new_job("job-0002"))
