import time

import pytest

from faktory.server.sorted_set import SortedSet, glob


@pytest.fixture
def jobs():
    return SortedSet()


def test_members_are_ordered_by_score_then_by_bytes(jobs):
    for score, member in ((2, b"b"), (1, b"z"), (2, b"a")):
        jobs.add(score, member, member.decode())
    assert list(jobs) == [(1, b"z", "z"), (2, b"a", "a"), (2, b"b", "b")]


def test_a_member_is_kept_once_with_its_last_score_and_value(jobs):
    jobs.add(1, b"a", "old")
    jobs.add(5, b"a", "new")
    assert (len(jobs), jobs.first()) == (1, 5)
    assert list(jobs.pop_until(4)) == []
    assert list(jobs.pop_until(5)) == ["new"]
    assert (len(jobs), jobs.first()) == (0, None)


def test_a_member_is_found_until_it_is_removed(jobs):
    jobs.add(1, b"a", "old")
    jobs.add(2, b"a", "new")
    assert jobs.get(b"a") == "new"
    jobs.remove(b"a")
    assert jobs.get(b"a") is None


def test_a_removed_member_is_not_popped(jobs):
    jobs.add(1, b"a", "a")
    jobs.add(2, b"b", "b")
    assert jobs.remove(b"a") is True
    assert jobs.remove(b"a") is False
    assert list(jobs.pop_until(9)) == ["b"]


def test_members_that_are_added_while_popping_are_popped_in_order(jobs):
    jobs.add(1, b"a", "a")
    popped = []
    for value in jobs.pop_until(3):
        popped.append(value)
        if value == "a":
            jobs.add(2, b"b", "b")
            jobs.add(4, b"c", "c")
    assert popped == ["a", "b"]


def test_the_set_may_be_changed_during_iteration(jobs):
    for number in range(3):
        jobs.add(number, b"%d" % number, number)
    seen = []
    for _, member, value in jobs:
        seen.append(value)
        jobs.remove(member)
        jobs.remove(b"1")
    assert seen == [0, 2]


def test_adding_and_removing_does_not_grow_the_heap(jobs):
    for number in range(10_000):
        jobs.add(number, b"%d" % number, number)
        jobs.remove(b"%d" % number)
    assert len(jobs._heap) < 100


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        (b"", b"", True),
        (b"", b"a", False),
        (b"*", b"", True),
        (b"a*b*c", b"a-b-b-c", True),
        (b"a*b*c", b"a-c-b", False),
        (b"*ab", b"aab", True),
        (b"*a?", b"aab", True),
        (b"?", b"\xc3\xa9", False),
        (b"??", b"\xc3\xa9", True),
        (b"?", b"\n", True),
        (b"[a-c]", b"b", True),
        (b"[c-a]", b"b", True),
        (b"[^a-c]", b"b", False),
        (b"[^a-c]", b"-", True),
        (b"[]", b"]", False),
        (b"[^]", b"x", True),
        (b"[a", b"a", True),
        (b"[", b"a", False),
        (b"[a-", b"-", True),
        (rb"[\]]", b"]", True),
        (rb"[\]]", b"\\", False),
        (rb"\*", b"*", True),
        (rb"\*", b"a", False),
        (b"\\", b"\\", True),
        (b"a.c", b"abc", False),
    ],
)
def test_patterns_are_those_of_redis(pattern, text, matches):
    assert bool(glob(pattern)(text)) is matches


def test_no_pattern_takes_exponential_time():
    matches = glob(b"*a" * 500 + b"b")
    started = time.monotonic()
    assert not matches(b"a" * 5000)
    assert time.monotonic() - started < 2
