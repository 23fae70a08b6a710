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
from faktory.jobs.batch import open_batch
from faktory.jobs.middleware import Next, client_middleware

from ..support import FakeNetwork
from .support import FakeServer


def takes(number: int) -> None: ...
def nothing(number: int = 1) -> None: ...


work = faktory.external("work", takes)
done = faktory.external("done", nothing, queue="callbacks", retry=3, custom={"a": 1})


def new(bid: str | None = None, **settings: Any) -> faktory.Batch:
    return faktory.Batch(bid, **settings)


def definitions(server: FakeServer) -> list[dict[str, Any]]:
    """Return the definitions of the new batches."""
    verb = "BATCH NEW "
    return [
        json.loads(command.removeprefix(verb))
        for command in server.other_commands
        if command.startswith(verb)
    ]


def bids(server: FakeServer) -> list[str | None]:
    """Return the bids of the pushed jobs."""
    return [(job.get("custom") or {}).get("bid") for job in server.jobs]


def verbs(server: FakeServer) -> list[str]:
    """Return the commands for batches, without definitions."""
    return [command.partition(" {")[0] for command in server.other_commands]


# The life of a batch


def test_a_batch_is_created_filled_and_committed(server: FakeServer) -> None:
    batch = faktory.Batch(description="images", success="done")
    assert batch.bid is None
    assert repr(batch) == "<faktory.Batch not created yet>"
    with batch.jobs() as same:
        assert same is batch
        assert batch.bid == "b-1"
        assert verbs(server) == ["BATCH NEW"]
        work.perform_async(1)
        work.perform_in(60, 2)
        assert verbs(server) == ["BATCH NEW"]
    work.perform_async(3)
    assert verbs(server) == ["BATCH NEW", "BATCH COMMIT b-1"]
    assert bids(server) == ["b-1", "b-1", None]
    assert repr(batch) == "<faktory.Batch b-1>"


def test_a_batch_sends_only_its_settings(server: FakeServer) -> None:
    with faktory.Batch(description="images", success="done", complete=done).jobs():
        pass
    with faktory.Batch(complete="done").jobs():
        pass
    first, second = definitions(server)
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


def test_a_batch_is_opened_again_by_its_second_block(server: FakeServer) -> None:
    batch = faktory.Batch(success="done")
    for number in range(3):
        with batch.jobs():
            work.perform_async(number)
    assert verbs(server) == [
        "BATCH NEW",
        "BATCH COMMIT b-1",
        "BATCH OPEN b-1",
        "BATCH COMMIT b-1",
        "BATCH OPEN b-1",
        "BATCH COMMIT b-1",
    ]
    assert bids(server) == ["b-1"] * 3


def test_an_existing_batch_is_opened_by_its_bid(server: FakeServer) -> None:
    batch = faktory.Batch("b-77")
    assert batch.bid == "b-77"
    with batch.jobs():
        work.perform_async(1)
    assert server.other_commands == ["BATCH OPEN b-77", "BATCH COMMIT b-77"]
    assert bids(server) == ["b-77"]


def test_the_status_of_a_batch_comes_from_the_server(server: FakeServer) -> None:
    assert faktory.Batch("b-77").status() == {"bid": "b-77", "total": 3, "pending": 1}
    with pytest.raises(RuntimeError, match="the batch does not exist yet"):
        faktory.Batch(success="done").status()
    assert server.other_commands == ["BATCH STATUS b-77"]


def test_a_batch_uses_its_own_pool(server: FakeServer) -> None:
    pool = Pool(lambda: faktory.Client("tcp://other:2"), size=1)
    batch = faktory.Batch(success="done", pool=pool)
    with batch.jobs():
        work.set(pool=pool).perform_async(1)  # the one client of the pool is free in here
    batch.status()
    assert server.opened == ["other:2"]
    pool.close()


def test_a_server_without_batches_refuses_and_no_job_is_pushed(server: FakeServer) -> None:
    server.has_batches = False
    batch = faktory.Batch(success="done")
    for each in (batch, faktory.Batch("b-77")):
        with pytest.raises(FaktoryEnterpriseRequired), each.jobs():
            pytest.fail("the block was entered")
    assert batch.bid is None
    assert open_batch.get() is None
    batch.success = "other"  # it was not created, so it can be changed


# Callbacks


class Done(faktory.Job):
    """Registered under its own name, before the registry of any test."""

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
def test_a_callback_may_be_a_job_a_name_or_a_dict(
    server: FakeServer, name: str, callback: Any, sent: dict[str, Any]
) -> None:
    batch = new(**{name: callback})
    with batch.jobs():
        pass
    (definition,) = definitions(server)
    assert list(definition) == [name]
    assert {key: definition[name][key] for key in sent} == sent
    assert definition[name]["retry"] is not None
    assert len(definition[name]["jid"]) >= 8


def test_a_function_may_be_a_callback(server: FakeServer) -> None:
    batch = faktory.Batch()
    batch.success = faktory.job(queue="low")(nothing)
    with batch.jobs():
        pass
    callback = definitions(server)[0]["success"]
    assert (callback["jobtype"], callback["queue"], callback["args"]) == ("nothing", "low", [])


def test_a_callback_is_not_a_member_of_the_batch_around_it(server: FakeServer) -> None:
    with faktory.Batch(success="outer").jobs(), faktory.Batch(success=done).jobs():
        pass
    assert definitions(server)[1]["success"]["custom"] == {"a": 1}


def needs(a: int, b: int) -> None: ...


@pytest.mark.parametrize("name", ["success", "complete"])
def test_a_callback_that_needs_arguments_is_refused_where_it_is_set(name: str) -> None:
    batch = faktory.Batch()
    jobs: list[Any] = [work, work.set(queue="low"), faktory.job(needs)]
    for job in jobs:
        with pytest.raises(TypeError, match="missing a required argument"):
            setattr(batch, name, job)
        with pytest.raises(TypeError, match="missing a required argument"):
            new(**{name: job})
    assert getattr(batch, name) is None


@pytest.mark.parametrize("callback", [5, ["done"], nothing, object(), faktory.Job, b"done"])
def test_a_callback_that_is_not_a_job_is_refused_where_it_is_set(callback: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match=r"success is .*pass a declared job"):
        faktory.Batch(success=callback)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("", "jobtype is ''"),
        ({}, "no 'jobtype'"),
        ({"args": []}, "no 'jobtype'"),
        ({"jobtype": "done", "queue": "a b"}, "queue is 'a b'"),
        ({"jobtype": "done", "nope": 1}, "'nope' is not a field"),
    ],
)
def test_a_callback_with_a_wrong_field_is_refused_where_it_is_set(
    callback: Any, message: str
) -> None:
    batch = faktory.Batch(success="done")
    for name in ("success", "complete"):
        with pytest.raises(FaktoryPayloadError, match=f"^{name}: .*{message}"):
            setattr(batch, name, callback)
    assert (batch.success, batch.complete) == ("done", None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"description": 5}, "description is 5: it must be text"),
        ({"parent": 5}, "parent is 5: it must be a batch, or the bid of one"),
        ({"bid": 5}, "bid is 5"),
        ({"bid": ""}, "bid is ''"),
        ({"pool": "tcp://other:1"}, r"pool is of type str: .*faktory\.Pool"),
    ],
)
def test_a_wrong_setting_is_refused_where_it_is_given(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        faktory.Batch(**settings)


def test_a_misspelt_setting_is_refused_and_an_attribute_of_a_subclass_is_not() -> None:
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


def test_a_batch_itself_is_not_a_context_manager(server: FakeServer) -> None:
    batch: Any = faktory.Batch(success="done")
    with pytest.raises(TypeError, match=r"with batch\.jobs\(\):"), batch:
        pytest.fail("the block was entered")
    assert server.opened == []


def test_a_batch_without_a_callback_is_refused(server: FakeServer) -> None:
    batch = faktory.Batch(description="images")
    with pytest.raises(ValueError, match="needs a callback"), batch.jobs():
        pytest.fail("the block was entered")
    assert server.other_commands == []
    batch.success = "done"
    with batch.jobs():
        pass
    assert batch.bid == "b-1"


# Settings after the batch was created


@pytest.mark.parametrize(
    ("name", "value"),
    [("description", "x"), ("success", "x"), ("complete", None), ("parent", "b-9")],
)
def test_a_batch_that_exists_cannot_be_changed(server: FakeServer, name: str, value: Any) -> None:
    batch = faktory.Batch(description="images", success="done")
    batch.description = "photos"
    with batch.jobs(), pytest.raises(RuntimeError, match="the batch b-1 exists"):
        setattr(batch, name, value)
    for each in (batch, faktory.Batch("b-1")):
        with pytest.raises(RuntimeError, match="the batch b-1 exists"):
            setattr(each, name, value)
    assert definitions(server)[0]["description"] == "photos"
    assert batch.description == "photos"


@pytest.mark.parametrize("name", ["description", "success", "complete", "parent"])
def test_an_existing_batch_takes_no_settings(name: str) -> None:
    with pytest.raises(RuntimeError, match=f"'b-77'.* existing batch .*no {name}=.* keywords only"):
        new("b-77", **{name: "x"})


# Batches in batches


def test_a_batch_may_have_a_parent(server: FakeServer) -> None:
    parent = faktory.Batch(success="outer")
    with parent.jobs():
        child = faktory.Batch(success="inner", parent=parent)
        with child.jobs():
            work.perform_async(1)
        by_bid = faktory.Batch(success="inner")
        by_bid.parent = parent.bid
        with by_bid.jobs():
            pass
    assert [batch.get("parent_bid") for batch in definitions(server)] == [None, "b-1", "b-1"]
    assert verbs(server) == [
        "BATCH NEW",
        "BATCH NEW",
        "BATCH COMMIT b-2",
        "BATCH NEW",
        "BATCH COMMIT b-3",
        "BATCH COMMIT b-1",
    ]


def test_a_parent_may_be_set_before_it_exists_and_must_exist_before_the_child(
    server: FakeServer,
) -> None:
    parent = faktory.Batch(success="outer")
    child = faktory.Batch(success="inner", parent=parent)
    with pytest.raises(RuntimeError, match="the parent does not exist yet"), child.jobs():
        pytest.fail("the block was entered")
    assert server.other_commands == []
    with parent.jobs(), child.jobs():
        pass
    assert definitions(server)[1]["parent_bid"] == "b-1"


def test_a_batch_inside_a_block_has_no_parent_unless_it_is_given(server: FakeServer) -> None:
    with faktory.Batch(success="outer").jobs(), faktory.Batch(success="inner").jobs():
        pass
    assert "parent_bid" not in definitions(server)[1]


def test_blocks_nest_and_after_the_inner_one_the_outer_one_is_open_again(
    server: FakeServer,
) -> None:
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
    assert bids(server) == ["b-1", "b-2", "b-1", "b-2", "b-1", None]


# Errors in a block


def push_and_raise(batch: faktory.Batch, error: BaseException) -> None:
    with batch.jobs():
        work.perform_async(1)
        raise error


def test_a_block_that_raises_does_not_commit_and_its_exception_comes_out(
    server: FakeServer,
) -> None:
    batch = faktory.Batch(success="done")
    for error in (KeyError("lost"), SystemExit(1)):
        with pytest.raises(type(error)) as caught:
            push_and_raise(batch, error)
        assert caught.value is error
    work.perform_async(2)
    assert verbs(server) == ["BATCH NEW", "BATCH OPEN b-1"]
    assert bids(server) == ["b-1", "b-1", None]
    with batch.jobs():
        pass
    assert verbs(server)[2:] == ["BATCH OPEN b-1", "BATCH COMMIT b-1"]


def test_an_inner_block_that_raises_leaves_the_outer_one_open(server: FakeServer) -> None:
    with faktory.Batch(success="outer").jobs():
        with pytest.raises(KeyError), faktory.Batch(success="inner").jobs():
            raise KeyError
        work.perform_async(1)
    assert bids(server) == ["b-1"]
    assert verbs(server) == ["BATCH NEW", "BATCH NEW", "BATCH COMMIT b-1"]


def test_a_push_that_fails_in_a_block_comes_out_of_it(server: FakeServer) -> None:
    server.refuse = lambda job: "no more room"
    with (
        pytest.raises(FaktoryServerError, match="no more room"),
        faktory.Batch(success="done").jobs(),
    ):
        work.perform_async(1)
    with pytest.raises(TypeError), faktory.Batch(success="done").jobs():
        work.perform_async()  # type: ignore[call-arg]
    assert verbs(server) == ["BATCH NEW", "BATCH NEW"]
    assert open_batch.get() is None


def test_a_batch_that_cannot_be_created_is_not_open(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise FaktoryConnectionError("nothing listens")

    monkeypatch.setattr("faktory.client.network.current", FakeNetwork(refuse))
    batch = faktory.Batch(success="done")
    with pytest.raises(FaktoryConnectionError), batch.jobs():
        pytest.fail("the block was entered")
    assert batch.bid is None
    assert open_batch.get() is None


# Threads and the open batch


def test_a_thread_does_not_see_the_open_batch_unless_its_context_is_a_copy(
    server: FakeServer,
) -> None:
    def in_thread(target: Callable[[], object]) -> None:
        thread = Thread(target=target)
        thread.start()
        thread.join()

    with faktory.Batch(success="done").jobs():
        in_thread(lambda: work.perform_async(1))
        copied = copy_context()
        in_thread(lambda: copied.run(work.perform_async, 2))
        work.perform_async(3)
    assert [(job["args"], bid) for job, bid in zip(server.jobs, bids(server), strict=True)] == [
        ([1], None),
        ([2], "b-1"),
        ([3], "b-1"),
    ]


def test_a_batch_opened_in_a_thread_is_not_open_here(server: FakeServer) -> None:
    def push() -> None:
        with faktory.Batch(success="done").jobs():
            work.perform_async(1)

    thread = Thread(target=push)
    thread.start()
    thread.join()
    work.perform_async(2)
    assert bids(server) == ["b-1", None]


# Jobs that join


@pytest.mark.parametrize("middleware", [False, True])
def test_jobs_of_a_bulk_join_the_batch_too(server: FakeServer, middleware: bool) -> None:
    if middleware:
        client_middleware.add(lambda payload, call_next: call_next())
    with faktory.Batch(success="done").jobs():
        work.perform_bulk([(1,), (2,)])
    work.perform_bulk([(3,)])
    assert bids(server) == ["b-1", "b-1", None]


def test_custom_values_of_a_job_stay_beside_the_bid(server: FakeServer) -> None:
    job = work.set(custom={"tenant": 7})
    with faktory.Batch(success="done").jobs():
        job.perform_async(1)
        job.perform_bulk([(2,)])
        job.set(custom={"bid": "mine"}).perform_async(3)
        done.perform_async()
    job.perform_async(4)
    assert [job["custom"] for job in server.jobs] == [
        {"tenant": 7, "bid": "b-1"},
        {"tenant": 7, "bid": "b-1"},
        {"tenant": 7, "bid": "b-1"},
        {"a": 1, "bid": "b-1"},
        {"tenant": 7},
    ]


def test_a_middleware_after_the_built_in_one_sees_the_bid(server: FakeServer) -> None:
    seen: list[Any] = []

    @client_middleware.add
    def look(payload: dict[str, Any], call_next: Next) -> Any:
        seen.append(payload.get("custom"))
        return call_next()

    with faktory.Batch(success="done").jobs():
        work.perform_async(1)
    work.perform_async(2)
    assert seen == [{"bid": "b-1"}, None]
