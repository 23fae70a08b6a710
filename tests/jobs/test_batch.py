from __future__ import annotations

import json
from collections.abc import Callable
from contextvars import copy_context
from threading import Thread
from typing import Any

import pytest

import faktory
from faktory.client.pool import Pool
from faktory.exceptions import (
    FaktoryConnectionError,
    FaktoryEnterpriseRequired,
    FaktoryPayloadError,
    FaktoryServerError,
)
from faktory.jobs.middleware import Next, client_middleware, open_batch

from ..support import FakeNetwork
from .conftest import Line


def takes(number: int) -> None: ...
def nothing(number: int = 1) -> None: ...


work = faktory.external("work", takes)
done = faktory.external("done", nothing, queue="callbacks", retry=3, custom={"a": 1})


def new(bid: str | None = None, **settings: Any) -> faktory.Batch:
    return faktory.Batch(bid, **settings)


def made(line: Line) -> list[dict[str, Any]]:
    """What the batches were made of."""
    verb = "BATCH NEW "
    return [json.loads(said.removeprefix(verb)) for said in line.said if said.startswith(verb)]


def bids(line: Line) -> list[str | None]:
    """The batches that the jobs which were pushed belong to."""
    return [(job.get("custom") or {}).get("bid") for job in line.jobs]


def verbs(line: Line) -> list[str]:
    """What was said of batches, without what they were made of."""
    return [said.partition(" {")[0] for said in line.said]


# The life of a batch


def test_a_batch_is_made_takes_jobs_and_is_committed(line: Line) -> None:
    batch = faktory.Batch(description="images", success="done")
    assert batch.bid is None
    assert repr(batch) == "<faktory.Batch not made yet>"
    with batch.jobs() as same:
        assert same is batch
        assert batch.bid == "b-1"
        assert verbs(line) == ["BATCH NEW"]
        work.perform_async(1)
        work.perform_in(60, 2)
        assert verbs(line) == ["BATCH NEW"]
    work.perform_async(3)
    assert verbs(line) == ["BATCH NEW", "BATCH COMMIT b-1"]
    assert bids(line) == ["b-1", "b-1", None]
    assert repr(batch) == "<faktory.Batch b-1>"


def test_a_batch_says_what_it_is_and_no_more(line: Line) -> None:
    with faktory.Batch(description="images", success="done", complete=done).jobs():
        pass
    with faktory.Batch(complete="done").jobs():
        pass
    first, second = made(line)
    assert len({first["success"].pop("jid"), first["complete"].pop("jid")}) == 2
    assert first == {
        "description": "images",
        "success": {"jobtype": "done", "queue": "default", "args": [], "retry": 25},
        "complete": {
            "jobtype": "done",
            "queue": "callbacks",
            "args": [],
            "retry": 3,
            "custom": {"a": 1},
        },
    }
    del second["complete"]["jid"]
    assert second == {"complete": {"jobtype": "done", "queue": "default", "args": [], "retry": 25}}


def test_a_batch_is_opened_again_by_its_second_block(line: Line) -> None:
    batch = faktory.Batch(success="done")
    for number in range(3):
        with batch.jobs():
            work.perform_async(number)
    assert verbs(line) == [
        "BATCH NEW",
        "BATCH COMMIT b-1",
        "BATCH OPEN b-1",
        "BATCH COMMIT b-1",
        "BATCH OPEN b-1",
        "BATCH COMMIT b-1",
    ]
    assert bids(line) == ["b-1"] * 3


def test_a_batch_that_there_is_is_opened_by_its_bid(line: Line) -> None:
    batch = faktory.Batch("b-77")
    assert batch.bid == "b-77"
    with batch.jobs():
        work.perform_async(1)
    assert line.said == ["BATCH OPEN b-77", "BATCH COMMIT b-77"]
    assert bids(line) == ["b-77"]


def test_a_batch_tells_how_far_it_is(line: Line) -> None:
    assert faktory.Batch("b-77").status() == {"bid": "b-77", "total": 3, "pending": 1}
    with pytest.raises(RuntimeError, match="the batch is not made yet"):
        faktory.Batch(success="done").status()
    assert line.said == ["BATCH STATUS b-77"]


def test_a_batch_goes_to_its_own_pool(line: Line) -> None:
    pool = Pool(lambda: faktory.Client("tcp://other:2"), size=1)
    batch = faktory.Batch(success="done", pool=pool)
    with batch.jobs():
        work.set(pool=pool).perform_async(1)  # the one client of the pool is free in here
    batch.status()
    assert line.opened == ["other:2"]
    pool.close()


def test_a_server_without_batches_refuses_and_no_job_is_pushed(line: Line) -> None:
    line.knows_batches = False
    batch = faktory.Batch(success="done")
    for each in (batch, faktory.Batch("b-77")):
        with pytest.raises(FaktoryEnterpriseRequired), each.jobs():
            pytest.fail("the block was entered")
    assert batch.bid is None
    assert open_batch.get() is None
    batch.success = "other"  # it is not made, so this can be changed


# Callbacks


class Done(faktory.Job):
    """Registered under a name of its own before any test's registry."""

    faktory_options = {"name": "tests.batch.done", "queue": "callbacks"}

    def perform(self, number: int = 1) -> None: ...


@pytest.mark.parametrize(
    ("callback", "sent"),
    [
        (done, {"jobtype": "done", "queue": "callbacks", "retry": 3, "custom": {"a": 1}}),
        (Done, {"jobtype": "tests.batch.done", "queue": "callbacks"}),
        (Done.set(retry=0), {"jobtype": "tests.batch.done", "queue": "callbacks", "retry": 0}),
        (done.set(queue="low", custom={"b": 2}), {"queue": "low", "custom": {"a": 1, "b": 2}}),
        ("Anything", {"jobtype": "Anything"}),
        ({"jobtype": "Anything"}, {"jobtype": "Anything", "args": []}),
        (
            {"jobtype": "Anything", "args": [1], "queue": "low", "jid": "my-own-jid"},
            {"jobtype": "Anything", "args": [1], "queue": "low", "jid": "my-own-jid"},
        ),
    ],
)
@pytest.mark.parametrize("name", ["success", "complete"])
def test_a_callback_may_be_said_in_many_ways(
    line: Line, name: str, callback: Any, sent: dict[str, Any]
) -> None:
    batch = new(**{name: callback})
    with batch.jobs():
        pass
    (told,) = made(line)
    assert list(told) == [name]
    assert {key: told[name][key] for key in sent} == sent
    assert told[name]["retry"] is not None
    assert len(told[name]["jid"]) >= 8


def test_a_function_may_be_a_callback(line: Line) -> None:
    batch = faktory.Batch()
    batch.success = faktory.job(queue="low")(nothing)
    with batch.jobs():
        pass
    told = made(line)[0]["success"]
    assert (told["jobtype"], told["queue"], told["args"]) == ("nothing", "low", [])


def test_a_callback_is_no_member_of_the_batch_around_it(line: Line) -> None:
    with faktory.Batch(success="outer").jobs(), faktory.Batch(success=done).jobs():
        pass
    assert made(line)[1]["success"]["custom"] == {"a": 1}


def needs(a: int, b: int) -> None: ...


@pytest.mark.parametrize("name", ["success", "complete"])
def test_a_job_that_needs_arguments_is_refused_where_it_is_set(name: str) -> None:
    batch = faktory.Batch()
    jobs: list[Any] = [work, work.set(queue="low"), faktory.job(needs)]
    for job in jobs:
        with pytest.raises(TypeError, match="missing a required argument"):
            setattr(batch, name, job)
        with pytest.raises(TypeError, match="missing a required argument"):
            new(**{name: job})
    assert getattr(batch, name) is None


@pytest.mark.parametrize("callback", [5, ["done"], nothing, object(), faktory.Job, b"done"])
def test_what_is_no_job_is_refused_where_it_is_set(callback: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match=r"success is .*pass a declared job"):
        faktory.Batch(success=callback)


@pytest.mark.parametrize(
    ("callback", "told"),
    [
        ("", "jobtype is ''"),
        ({}, "no 'jobtype'"),
        ({"args": []}, "no 'jobtype'"),
        ({"jobtype": "done", "queue": "a b"}, "queue is 'a b'"),
        ({"jobtype": "done", "nope": 1}, "'nope' is not a field"),
    ],
)
def test_a_callback_that_the_server_would_not_have_is_refused_where_it_is_set(
    callback: Any, told: str
) -> None:
    batch = faktory.Batch(success="done")
    for name in ("success", "complete"):
        with pytest.raises(FaktoryPayloadError, match=f"^{name}: .*{told}"):
            setattr(batch, name, callback)
    assert (batch.success, batch.complete) == ("done", None)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"description": 5}, "description is 5: it must be text"),
        ({"parent": 5}, "parent is 5: it must be a batch, or the bid of one"),
        ({"bid": 5}, "bid is 5"),
        ({"bid": ""}, "bid is ''"),
        ({"pool": "tcp://other:1"}, r"pool is of type str: .*faktory\.Pool"),
    ],
)
def test_what_a_batch_cannot_have_is_refused_where_it_is_said(
    settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        faktory.Batch(**settings)


def test_a_setting_that_is_spelt_wrong_is_refused_and_an_attribute_of_a_subclass_is_not() -> None:
    class Import(faktory.Batch):
        def __init__(self, file: str) -> None:
            super().__init__(success="done")
            self.file = file
            self.component = "images"
            self._path = file

    batch: Any = Import("cats.csv")
    for wrong, right in (("sucess", "success"), ("completed", "complete"), ("parents", "parent")):
        with pytest.raises(AttributeError, match=f"no {wrong}. Did you mean {right}"):
            setattr(batch, wrong, "done")


def test_a_batch_itself_is_no_block(line: Line) -> None:
    batch: Any = faktory.Batch(success="done")
    with pytest.raises(TypeError, match=r"with batch\.jobs\(\):"), batch:
        pytest.fail("the block was entered")
    assert line.opened == []


def test_a_batch_without_a_callback_is_refused(line: Line) -> None:
    batch = faktory.Batch(description="images")
    with pytest.raises(ValueError, match="needs a callback"), batch.jobs():
        pytest.fail("the block was entered")
    assert line.said == []
    batch.success = "done"
    with batch.jobs():
        pass
    assert batch.bid == "b-1"


# What cannot be changed


@pytest.mark.parametrize(
    ("name", "value"),
    [("description", "x"), ("success", "x"), ("complete", None), ("parent", "b-9")],
)
def test_a_batch_that_is_made_cannot_be_changed(line: Line, name: str, value: Any) -> None:
    batch = faktory.Batch(description="images", success="done")
    batch.description = "photos"
    with batch.jobs(), pytest.raises(RuntimeError, match="the batch b-1 is made"):
        setattr(batch, name, value)
    for each in (batch, faktory.Batch("b-1")):
        with pytest.raises(RuntimeError, match="the batch b-1 is made"):
            setattr(each, name, value)
    assert made(line)[0]["description"] == "photos"
    assert batch.description == "photos"


@pytest.mark.parametrize("name", ["description", "success", "complete", "parent"])
def test_a_batch_that_there_is_takes_no_settings(name: str) -> None:
    with pytest.raises(RuntimeError, match=f"'b-77'.* made already .*no {name}=.* keywords only"):
        new("b-77", **{name: "x"})


# Batches in batches


def test_a_batch_may_have_a_parent(line: Line) -> None:
    parent = faktory.Batch(success="outer")
    with parent.jobs():
        child = faktory.Batch(success="inner", parent=parent)
        with child.jobs():
            work.perform_async(1)
        by_bid = faktory.Batch(success="inner")
        by_bid.parent = parent.bid
        with by_bid.jobs():
            pass
    assert [batch.get("parent_bid") for batch in made(line)] == [None, "b-1", "b-1"]
    assert verbs(line) == [
        "BATCH NEW",
        "BATCH NEW",
        "BATCH COMMIT b-2",
        "BATCH NEW",
        "BATCH COMMIT b-3",
        "BATCH COMMIT b-1",
    ]


def test_a_parent_may_be_set_before_it_is_made_and_must_be_made_before_the_child(
    line: Line,
) -> None:
    parent = faktory.Batch(success="outer")
    child = faktory.Batch(success="inner", parent=parent)
    with pytest.raises(RuntimeError, match="the parent is not made yet"), child.jobs():
        pytest.fail("the block was entered")
    assert line.said == []
    with parent.jobs(), child.jobs():
        pass
    assert made(line)[1]["parent_bid"] == "b-1"


def test_a_block_in_a_block_has_no_parent_by_itself(line: Line) -> None:
    with faktory.Batch(success="outer").jobs(), faktory.Batch(success="inner").jobs():
        pass
    assert "parent_bid" not in made(line)[1]


def test_blocks_nest_and_the_outer_one_is_open_again_behind_the_inner(line: Line) -> None:
    outer, inner = faktory.Batch(success="outer"), faktory.Batch(success="inner")
    with outer.jobs():
        work.perform_async(1)
        with inner.jobs():
            work.perform_async(2)
            with outer.jobs():
                work.perform_async(3)
            work.perform_async(4)
        work.perform_async(5)
    work.perform_async(6)
    assert bids(line) == ["b-1", "b-2", "b-1", "b-2", "b-1", None]


# What goes wrong in a block


def push_and_raise(batch: faktory.Batch, error: BaseException) -> None:
    with batch.jobs():
        work.perform_async(1)
        raise error


def test_a_block_that_raises_does_not_commit_and_its_exception_comes_out(line: Line) -> None:
    batch = faktory.Batch(success="done")
    for error in (KeyError("lost"), SystemExit(1)):
        with pytest.raises(type(error)) as caught:
            push_and_raise(batch, error)
        assert caught.value is error
    work.perform_async(2)
    assert verbs(line) == ["BATCH NEW", "BATCH OPEN b-1"]
    assert bids(line) == ["b-1", "b-1", None]
    with batch.jobs():
        pass
    assert verbs(line)[2:] == ["BATCH OPEN b-1", "BATCH COMMIT b-1"]


def test_an_inner_block_that_raises_leaves_the_outer_one_open(line: Line) -> None:
    with faktory.Batch(success="outer").jobs():
        with pytest.raises(KeyError), faktory.Batch(success="inner").jobs():
            raise KeyError
        work.perform_async(1)
    assert bids(line) == ["b-1"]
    assert verbs(line) == ["BATCH NEW", "BATCH NEW", "BATCH COMMIT b-1"]


def test_a_push_that_fails_in_a_block_comes_out_of_it(line: Line) -> None:
    line.refuse = lambda job: "no more room"
    with (
        pytest.raises(FaktoryServerError, match="no more room"),
        faktory.Batch(success="done").jobs(),
    ):
        work.perform_async(1)
    with pytest.raises(TypeError), faktory.Batch(success="done").jobs():
        work.perform_async()  # type: ignore[call-arg]
    assert verbs(line) == ["BATCH NEW", "BATCH NEW"]
    assert open_batch.get() is None


def test_a_batch_that_cannot_be_made_leaves_nothing_open(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise FaktoryConnectionError("nothing listens")

    monkeypatch.setattr("faktory.client.network.current", FakeNetwork(refuse))
    batch = faktory.Batch(success="done")
    with pytest.raises(FaktoryConnectionError), batch.jobs():
        pytest.fail("the block was entered")
    assert batch.bid is None
    assert open_batch.get() is None


# Who sees the open batch


def test_a_thread_does_not_see_the_open_batch_unless_its_context_is_a_copy(line: Line) -> None:
    def in_thread(target: Callable[[], object]) -> None:
        thread = Thread(target=target)
        thread.start()
        thread.join()

    with faktory.Batch(success="done").jobs():
        in_thread(lambda: work.perform_async(1))
        copied = copy_context()
        in_thread(lambda: copied.run(work.perform_async, 2))
        work.perform_async(3)
    assert [(job["args"], bid) for job, bid in zip(line.jobs, bids(line), strict=True)] == [
        ([1], None),
        ([2], "b-1"),
        ([3], "b-1"),
    ]


def test_a_batch_opened_in_a_thread_is_not_open_here(line: Line) -> None:
    def push() -> None:
        with faktory.Batch(success="done").jobs():
            work.perform_async(1)

    thread = Thread(target=push)
    thread.start()
    thread.join()
    work.perform_async(2)
    assert bids(line) == ["b-1", None]


# What joins


@pytest.mark.parametrize("middleware", [False, True])
def test_many_jobs_join_the_batch_too(line: Line, middleware: bool) -> None:
    if middleware:
        client_middleware.add(lambda payload, call_next: call_next())
    with faktory.Batch(success="done").jobs():
        work.perform_bulk([(1,), (2,)])
    work.perform_bulk([(3,)])
    assert bids(line) == ["b-1", "b-1", None]


def test_custom_values_of_a_job_stay_beside_the_bid(line: Line) -> None:
    job = work.set(custom={"tenant": 7})
    with faktory.Batch(success="done").jobs():
        job.perform_async(1)
        job.perform_bulk([(2,)])
        job.set(custom={"bid": "mine"}).perform_async(3)
        done.perform_async()
    job.perform_async(4)
    assert [job["custom"] for job in line.jobs] == [
        {"tenant": 7, "bid": "b-1"},
        {"tenant": 7, "bid": "b-1"},
        {"tenant": 7, "bid": "b-1"},
        {"a": 1, "bid": "b-1"},
        {"tenant": 7},
    ]


def test_a_middleware_behind_the_built_in_one_sees_the_bid(line: Line) -> None:
    seen: list[Any] = []

    @client_middleware.add
    def look(payload: dict[str, Any], call_next: Next) -> Any:
        seen.append(payload.get("custom"))
        return call_next()

    with faktory.Batch(success="done").jobs():
        work.perform_async(1)
    work.perform_async(2)
    assert seen == [{"bid": "b-1"}, None]
