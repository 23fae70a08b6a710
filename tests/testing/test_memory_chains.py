"""Chains in fake and inline mode: each job is pushed when the one before it has succeeded."""

from __future__ import annotations

from typing import Any

import pytest

import faktory
from faktory import Discard, testing
from faktory.jobs.chains import ChainBroken


@pytest.fixture
def ran() -> list[Any]:
    return []


@pytest.fixture
def step(ran: list[Any]) -> Any:
    @faktory.job
    def step(number: int) -> None:
        ran.append(number)

    return step


@pytest.fixture
def broken(ran: list[Any]) -> Any:
    @faktory.job
    def broken(error: str) -> None:
        ran.append(error)
        raise {"discard": Discard, "lookup": LookupError}[error](error)

    return broken


def test_the_next_job_waits_when_the_one_before_has_run(step: Any, ran: list[Any]) -> None:
    with testing.fake() as memory:
        jid = faktory.chain(
            step.message(1), step.set(queue="low").message(2), step.message(3)
        ).push()
        (first,) = memory.jobs
        later = first["custom"]["faktory_chain"]
        assert first["jid"] == jid
        memory.perform_one()
        (second,) = memory.jobs
        assert (second["jid"], second["queue"]) == (later[0]["jid"], "low")
        assert second["custom"] == {"faktory_chain": later[1:]}
        memory.perform_one()
        (third,) = memory.jobs
        assert third["jid"] == later[1]["jid"]
        assert "custom" not in third
        assert memory.drain() == 1
        assert memory.jobs == []
    assert ran == [1, 2, 3]


def test_drain_runs_a_whole_chain(step: Any, ran: list[Any]) -> None:
    with testing.fake() as memory:
        faktory.chain(*(step.message(number) for number in range(5))).push()
        assert memory.drain() == 5
    assert ran == [0, 1, 2, 3, 4]


def test_inline_mode_runs_one_after_the_other(ran: list[Any]) -> None:
    @faktory.job
    def nested(number: int) -> None:
        ran.append(f"{number}(")
        ran.append(f"){number}")

    with testing.inline() as memory:
        faktory.chain(*(nested.message(number) for number in (1, 2, 3))).push()
        assert memory.jobs == []
    assert ran == ["1(", ")1", "2(", ")2", "3(", ")3"]


@pytest.mark.parametrize("error", ["discard", "lookup"])
def test_a_job_that_does_not_succeed_ends_the_chain(
    step: Any, broken: Any, ran: list[Any], error: str
) -> None:
    with testing.fake() as memory:
        faktory.chain(broken.message(error), step.message(2)).push()
        if error == "discard":
            assert memory.drain() == 1
        else:
            with pytest.raises(LookupError):
                memory.drain()
        assert memory.jobs == []
    assert ran == [error]


def test_a_job_that_changes_what_it_got_does_not_change_the_chain(ran: list[Any]) -> None:
    @faktory.job
    def clears() -> None:
        faktory.current_job().payload["custom"].clear()
        ran.append(faktory.current_job().jid)

    with testing.fake() as memory:
        jid = faktory.chain(clears.message(), clears.set(custom={"a": 1}).message()).push()
        memory.drain()
    assert len(ran) == 2
    assert ran[0] == jid


def test_a_chain_that_cannot_go_on_fails_its_job(step: Any, ran: list[Any]) -> None:
    with testing.fake() as memory:
        custom = {"faktory_chain": [{"jobtype": "step"}]}
        with faktory.Client() as client:
            client.push({"jobtype": "step", "args": [1], "custom": custom})
        with pytest.raises(ChainBroken, match="faktory_chain"):
            memory.drain()
        assert ran == []
        unique = step.set(unique_for=60)
        faktory.chain(step.message(1), unique.message(2)).push()
        unique.perform_async(2)
        with pytest.raises(ChainBroken, match=r"the next job of the chain is refused: .*unique"):
            memory.perform_one()
        assert ran == [1]


def test_a_key_named_chain_is_the_users_own(step: Any, ran: list[Any]) -> None:
    with testing.fake() as memory:
        step.set(custom={"chain": "brand"}).perform_async(1)
        assert memory.jobs[0]["custom"] == {"chain": "brand"}
        assert memory.drain() == 1
        assert ran == [1]


def test_a_batch_waits_for_the_whole_chain(step: Any, ran: list[Any]) -> None:
    with testing.fake() as memory:
        with faktory.Batch(success=step.message("done")).jobs():
            faktory.chain(step.message(1), step.message(2)).push()
        memory.perform_one()
        memory.perform_one()
        assert [job["args"] for job in memory.jobs] == [["done"]]
        memory.drain()
    assert ran == [1, 2, "done"]
