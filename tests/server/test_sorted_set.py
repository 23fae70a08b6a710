import time
from random import Random

import pytest

from faktory.server import sorted_set
from faktory.server.slices import finish
from faktory.server.sorted_set import MAX_PATTERN, PatternTooLong, SortedSet, glob


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


def test_adding_and_removing_leaves_nothing_behind(jobs):
    for number in range(10_000):
        jobs.add(number, b"%d" % number, number)
        jobs.remove(b"%d" % number)
    assert (len(jobs), jobs.first(), jobs._blocks, jobs._lasts) == (0, None, [], [])


def test_a_large_set_stays_in_order_whatever_happens_to_it(jobs):
    random = Random(1)
    model = {}
    for _ in range(20_000):
        member = b"%d" % random.randrange(3000)
        if random.random() < 0.6:
            score = random.randrange(1000)
            jobs.add(score, member, member)
            model[member] = score
        elif random.random() < 0.9:
            assert jobs.remove(member) is (model.pop(member, None) is not None)
        else:
            due = [key for key in model if model[key] <= 3]
            assert sorted(jobs.pop_until(3)) == sorted(due)
            for key in due:
                del model[key]
    expected = sorted((score, member) for member, score in model.items())
    assert [(score, member) for score, member, _ in jobs] == expected
    assert jobs.last() == expected[-1]
    assert jobs.first() == expected[0][0]


def test_a_set_is_empty_before_its_memory_is_freed(jobs):
    for number in range(5000):
        jobs.add(number, b"%d" % number, number)
    steps = jobs.clear()
    assert (len(jobs), jobs.first(), list(jobs)) == (0, None, [])
    jobs.add(1, b"new", "new")
    finish(steps)
    assert list(jobs) == [(1, b"new", "new")]


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


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (b"*a" * 500 + b"b", b"a" * 100_000),
        (b"*?" * 500 + b"b", b"a" * 100_000),
        (b"*" + b"[ab]" * 200 + b"c*", b"a" * 100_000),
        (b"*" + b"[a-z]" * 6 + b"[b]*", b"a" * 1_000_000),
        (b"*" + b"a" * 500 + b"b*", b"a" * 1_000_000),
        (b"[^b]" * 250 + b"*b", b"a" * 100_000),
    ],
)
def test_no_pattern_takes_long(pattern, text):
    matches = glob(pattern)
    started = time.process_time()
    assert not matches(text)
    assert not finish(matches.steps(text))
    assert time.process_time() - started < 2  # it takes at most 0.1 s; those of `re` take minutes


def test_a_pattern_that_is_too_long_is_refused():
    glob(b"?" * MAX_PATTERN)
    with pytest.raises(PatternTooLong, match=f"longer than {MAX_PATTERN} bytes"):
        glob(b"?" * (MAX_PATTERN + 1))


@pytest.mark.parametrize(("window", "most"), [(2, 32), (3, 0), (1000, 32)])
def test_random_patterns_match_as_in_redis(monkeypatch, window, most):
    monkeypatch.setattr(sorted_set, "_WINDOW", window)
    monkeypatch.setattr(sorted_set, "_MAX_REGEX", most)
    random = Random(window)
    for _ in range(3000):
        pattern = bytes(random.choices(b"ab-]^[*?\\", k=random.randrange(9)))
        text = bytes(random.choices(b"ab-]^", k=random.randrange(7)))
        matcher = glob(pattern)
        expected = matches_in_redis(pattern, text)
        assert (matcher(text), finish(matcher.steps(text))) == (expected, expected), pattern


def matches_in_redis(pattern, text):
    """As `stringmatchlen` of Redis does it: character by character, trying each end of a star."""
    while pattern and text:
        first = pattern[:1]
        if first == b"*":
            pattern = pattern.lstrip(b"*")
            ends = range(len(text) + 1)
            return not pattern or any(matches_in_redis(pattern, text[end:]) for end in ends)
        if first == b"[":
            matched, pattern = class_in_redis(pattern[1:], text[0])
            if not matched:
                return False
        elif first != b"?":
            if first == b"\\" and len(pattern) > 1:
                pattern = pattern[1:]
            if pattern[0] != text[0]:
                return False
        pattern, text = pattern[1:], text[1:]
    return not text and not pattern.strip(b"*")


def class_in_redis(pattern, code):
    """Return whether a byte is in a class, and the pattern from the last byte of the class on."""
    negated = pattern[:1] == b"^"
    pattern = pattern[negated:]
    matched = False
    while pattern and pattern[:1] != b"]":
        if pattern[:1] == b"\\" and len(pattern) > 1:
            pattern = pattern[1:]
            matched |= pattern[0] == code
        elif pattern[1:2] == b"-" and len(pattern) > 2:
            low, high = sorted((pattern[0], pattern[2]))
            matched |= low <= code <= high
            pattern = pattern[2:]
        else:
            matched |= pattern[0] == code
        pattern = pattern[1:]
    return matched is not negated, pattern
