"""Pages of queues and sets, jobs found by their jid, and by a text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faktory.server.disk.state import DurableState
from faktory.server.enterprise.store import EnterpriseStore
from faktory.server.go import time as go_time
from faktory.server.go.time import SECOND
from faktory.server.job import StoredJob
from faktory.server.lookup import Found, read_key, write_key
from faktory.server.slices import ITEMS, Steps, finish
from faktory.server.sorted_set import SortedSet
from faktory.server.store import Store

from .conftest import Clock

NewJob = Callable[..., StoredJob]


@pytest.fixture(params=["memory", "enterprise", "file"])
def store(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Any:
    if request.param == "memory":
        yield Store(clock, random.Random(1))
    elif request.param == "enterprise":
        yield EnterpriseStore(clock, random.Random(1))
    else:
        state = DurableState(str(tmp_path / "jobs.db"), "normal", now=clock)
        state.open()
        yield state.store
        state.close()


def shown(found: list[Found]) -> list[tuple[str, str]]:
    return [(each.place, each.job.jid) for each in found]


# Pages.


@pytest.mark.parametrize("count", [0, 1, 25, 499, 1000, 5003])
def test_a_page_of_a_set_is_a_slice_of_it(count: int) -> None:
    jobs: SortedSet[int] = SortedSet()
    chosen = random.Random(count)
    for number in range(count):
        jobs.add(chosen.randrange(100), b"%d" % number, number)
    for number in range(0, count, 3):
        jobs.remove(b"%d" % number)
    everything = list(jobs)
    assert list(reversed(jobs)) == everything[::-1]
    for start in (0, 1, 24, 25, 700, 2000, count, 10**30):
        for size in (0, 1, 25, 500, 3000):
            assert jobs.page(start, size) == everything[start : start + size]
            assert jobs.page(start, size, reverse=True) == everything[::-1][start : start + size]
    for score in (-1, 0, 50, 99, 100):
        assert list(jobs.since(score)) == [each for each in everything if each[0] >= score]


def test_a_set_is_walked_backwards_while_it_is_changed() -> None:
    jobs: SortedSet[int] = SortedSet()
    for number in range(5000):
        jobs.add(number, b"%05d" % number, number)
    chosen = random.Random(1)
    seen = []
    for _, _, value in reversed(jobs):
        seen.append(value)
        jobs.remove(b"%05d" % chosen.randrange(5000))
        jobs.add(6000, b"new %d" % len(seen), 6000)
    assert seen == sorted(seen, reverse=True)
    assert {value for _, _, value in jobs if value < 5000} <= set(seen)
    finish(jobs.clear())
    assert list(reversed(jobs)) == []


def test_a_page_of_a_queue_is_a_slice_of_it(store: Store, new_job: NewJob) -> None:
    for number in range(100):
        store.push(new_job(f"job-{number:04}"))
    jids = [job.jid for job in store.queues["default"]]
    for start in (0, 1, 49, 50, 51, 99, 100, 10**30):
        for count in (0, 1, 25, 1000):
            page = [job.jid for job in store.page("default", start, count)]
            assert page == jids[start : start + count]
    assert [job.jid for job in store.queues["default"]] == jids
    assert store.page("nope", 0, 25) == []


# One job.


@pytest.fixture
def everywhere(store: Store, clock: Clock, new_job: NewJob) -> Store:
    """A store with jobs "same-jid" in all places, among others."""
    later = go_time.write(clock.now + 3600 * SECOND)
    for jid in ("before-it", "same-jid", "after-it"):
        for place in ("dead", "retries", "busy", "queue"):
            store.push(new_job(jid, queue="q", retry=-1 if place == "dead" else 5))
            if place != "queue":
                store.fetch("w1", ["q"])
            if place in ("dead", "retries"):
                store.fail(jid, "E", f"was {place}", [])
        store.push(new_job(jid, at=later))
        store.push(new_job(jid, queue="r"))
        store.fetch("w1", ["q"])
    return store


def test_a_job_is_found_in_all_places(everywhere: Store, clock: Clock) -> None:
    found = finish(everywhere.find("same-jid"))
    assert {each.job.jid for each in found} == {"same-jid"}
    places = [each.place for each in found]
    assert sorted(places) == ["busy", "busy", "dead", "queue", "retries", "scheduled"]
    by_place = {each.place: each for each in found}
    assert by_place["scheduled"].score == clock.now + 3600 * SECOND
    assert by_place["dead"].score > by_place["retries"].score > clock.now
    busy = by_place["busy"]
    assert busy.reservation is not None
    assert busy.reservation.wid == "w1"
    assert busy.score == busy.reservation.expires_at
    assert finish(everywhere.find("same")) == finish(everywhere.find("")) == []


def interrupted(steps: Steps[Any], meanwhile: Callable[[int], object]) -> Any:
    number = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        meanwhile(number)
        number += 1


@pytest.mark.parametrize("which", [0, ITEMS - 1, ITEMS, 2499, 4250, 4999])
def test_a_job_of_a_long_queue_is_found_while_others_are_fetched(
    store: Store, new_job: NewJob, which: int
) -> None:
    for number in range(5000):
        store.push(new_job(f"job-{number:06}"))

    def meanwhile(_: int) -> None:
        for _ in range(75):
            store.fetch("w", ["default"])

    found = interrupted(store.find(f"job-{which:06}"), meanwhile)
    assert [each.job.jid for each in found] == [f"job-{which:06}"]
    assert len(store.queues["default"]) < 5000
    hits = interrupted(store.search("job-0049", 1000), meanwhile)
    assert len(hits.found) == 100


def test_what_becomes_due_while_it_is_searched_is_found_once(
    store: Store, clock: Clock, new_job: NewJob
) -> None:
    for number in range(2000):
        at = go_time.write(clock.now + SECOND)
        store.push(new_job(f"job-{number:06}", at=at))

    def meanwhile(number: int) -> None:
        if number == 1:
            clock.forward(1)
            store.sweep()

    hits = interrupted(store.search("job-", 5000), meanwhile)
    assert len(hits.found) == 2000
    assert {each.place for each in hits.found} == {"queue"}


# A text.

in_memory = pytest.mark.parametrize("store", ["memory"], indirect=True)


@in_memory
@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("job-00", {}),
        ("JOB-0001", {}),
        ("mailer.Welcome", {"jobtype": "mailer.welcome"}),
        ("a<b", {"args": ["A<B & c"]}),
        ("<b & c>", {"args": [{"html": ["<B & C>"]}]}),
        ("\u00dcBER", {"args": ["\u00fcber"]}),
        ("stra\u00dfe", {"custom": {"to": "STRASSE 1"}}),
        ("\u65e5\u672c", {"args": ["\u65e5\u672c\u8a9e"]}),
        ("\U0001f600", {"args": ["\U0001f600"]}),
        ("a\u2028b", {"args": ["a\u2028b"]}),
        ('say "x"', {"args": ['say "X"']}),
        (r"c:\new", {"args": [r"C:\new"]}),
        ("a\nb", {"args": ["a\nb"]}),
        ("42.5", {"args": [42.5]}),
        ("key", {"args": [{"KEY": None}]}),
        ("no disk", {"failure": {"message": "No disk <x>", "errtype": "OSError"}}),
        ("disk <x>", {"failure": {"message": "No disk <x>", "errtype": "OSError"}}),
        ("oserror", {"failure": {"message": "No disk", "errtype": "OSError"}}),
        ("line 12", {"failure": {"backtrace": ["File x, line 12"]}}),
    ],
)
@pytest.mark.parametrize("long", [False, True])
def test_a_text_is_found(
    store: Store, new_job: NewJob, text: str, fields: dict[str, Any], long: bool
) -> None:
    store.push(new_job("other-01", args=["nothing of it"]))
    if long:
        fields = {**fields, "args": ["\u00e9<\\\n" * 12_000, *fields.get("args", ()), "&" * 9_000]}
    store.push(new_job("job-0001", **fields))
    hits = finish(store.search(text, 10))
    assert (shown(hits.found), hits.is_all) == ([("queue", "job-0001")], True)


@in_memory
@pytest.mark.parametrize(
    "text", ["u003c", "003", r"\u00", "jobtype", "retry", "default", "args", r"\\n", "nab"]
)
@pytest.mark.parametrize("length", [1, 9_000])
def test_what_only_json_has_is_not_found(
    store: Store, new_job: NewJob, text: str, length: int
) -> None:
    store.push(new_job("job-0001", args=['<a\nb"\\' * length], custom={"x": "&" * length}))
    assert finish(store.search(text, 10)).found == []


@in_memory
@pytest.mark.parametrize("shift", range(8))
def test_a_text_is_found_wherever_the_windows_end(
    store: Store, new_job: NewJob, shift: int
) -> None:
    for unit in ("<", "\\", "\n", "\u00df", '"', "\\<"):
        store.push(new_job("job-0001", args=["x" * shift + unit * 6_000 + "Ende" + unit * 9]))
        for text in (f"{unit * 300}ende{unit * 9}", f"{unit * 9}ENDE{unit * 2}"):
            assert len(finish(store.search(text, 10)).found) == 1, unit
        assert finish(store.search(f"{unit}y", 10)).found == []
        assert finish(store.clear_queue("default")) == 1


def test_a_search_ends_at_its_limit_and_begins_with_what_failed(
    everywhere: Store, new_job: NewJob
) -> None:
    hits = finish(everywhere.search("same", 100))
    assert [place for place, _ in shown(hits.found)] == (
        ["busy", "busy", "retries", "dead", "scheduled", "queue"]
    )
    assert hits.is_all
    assert finish(everywhere.search("same", 6)).is_all
    few = finish(everywhere.search("same", 5))
    assert shown(few.found) == shown(hits.found)[:5]
    assert not few.is_all
    assert finish(everywhere.search("", 5)) == ([], True)


def test_of_the_dead_the_latest_comes_first(store: Store, clock: Clock, new_job: NewJob) -> None:
    for number in range(5):
        job = new_job(f"job-000{number}")
        store.dead.add(clock.now + number, job.render(), job)
    assert [jid for _, jid in shown(finish(store.search("job", 2)).found)] == (
        ["job-0004", "job-0003"]
    )


# Keys.


@pytest.mark.parametrize("score", [0, -5, 1767225600_123456789, 1767225600 * SECOND])
def test_a_key_is_read_as_it_was_written(score: int) -> None:
    assert read_key(write_key(score, "a|b")) == (score, "a|b")


def test_the_keys_of_the_real_server_are_read() -> None:
    assert read_key("2026-01-01T00:00:00.5Z|job-0001") == (1767225600_500000000, "job-0001")


@pytest.mark.parametrize("text", ["", "5", "x|job", "|job", "--5|j", "\u0665|j", "9" * 5000 + "|j"])
def test_what_is_not_a_key_is_none(text: str) -> None:
    assert read_key(text) is None


# Many.


def test_a_step_is_short(store: Store, new_job: NewJob) -> None:
    for number in range(3000):
        store.push(new_job(f"job-{number:06}"))
    for steps in (store.search("nope", 10), store.find("nope")):
        assert sum(1 for _ in steps) >= 3000 // ITEMS
    store.push(new_job("job-long", args=["<\u00e9" * 500_000]))
    assert sum(1 for _ in store.search("nope", 10)) > 3000 // ITEMS + 100


def test_a_step_is_short_where_jobs_are_large(store: Store, new_job: NewJob) -> None:
    for number in range(ITEMS):
        store.push(new_job(f"job-{number:06}", args=["<p>" * 1000]))
    assert sum(1 for _ in store.search("nope", 10)) > ITEMS


def test_others_are_served_during_a_search(
    server: Any, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faktory.server.work.SLICE", 0.0)

    def fill(state: Any) -> None:
        for number in range(30_000):
            state.store.push(StoredJob({"jid": f"job-{number:06}", "jobtype": "T", "args": [1]}))

    server._call(fill)
    client = dial()
    future = server.perform(lambda state: state.store.search("nope", 10))
    answered = 0
    while not future.done():
        assert client.call("NOPE").startswith(b"-ERR")
        answered += 1
    assert future.result() == ([], True)
    assert answered > 1
    assert json.loads(client.call("INFO"))["faktory"]["total_enqueued"] == 30_000
