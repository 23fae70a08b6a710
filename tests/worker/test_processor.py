from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from faktory.exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryOutcomeUnknown,
    FaktoryServerError,
    Shutdown,
)
from faktory.jobs.runner import JobRunner
from faktory.wire.commands import Command
from faktory.wire.session import Answer
from faktory.worker import Task
from faktory.worker.events import Events
from faktory.worker.lifecycle import Lifecycle, State
from faktory.worker.manager import Manager
from faktory.worker.processor import Processor
from faktory.worker.timing import Timing

LOG = logging.getLogger("test.processor")
NOTHING = object()
LOST = FaktoryConnectionError("nothing listens")
CUT = FaktoryOutcomeUnknown("the connection broke")
QUICK = Timing(backoff=lambda attempt, random: 0.0, refused_fetch_interval=0.0)
"""No pauses between attempts."""
SLOW = Timing(backoff=lambda attempt, random: 1000.0, report_interval=0.001)


def job(number: int, **fields: Any) -> dict[str, Any]:
    return {"jid": f"jid-{number:04}", "jobtype": "work", "args": [number], **fields}


class FakeClient:
    """Takes the place of a client: a script says what each exchange ends with.

    An error is raised; else it is what FETCH brings. After the script the worker is told to stop.
    """

    def __init__(self, script: Sequence[Any], lifecycle: Lifecycle) -> None:
        self.script = list(script)
        self.lifecycle = lifecycle
        self.sent: list[list[str]] = []
        self.refuse: Callable[[str], FaktoryServerError | None] = lambda verb: None
        self.closed = 0

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        self.sent.append([_said(command) for command in sent])
        outcome = self.script.pop(0) if self.script else NOTHING
        if not self.script:
            self.lifecycle.advance(State.TERMINATE)
        if isinstance(outcome, BaseException):
            raise outcome
        return [self._answer(command, outcome) for command in sent]

    def _answer(self, command: Command[Any], brought: Any) -> Answer:
        error = self.refuse(command.name)
        is_job = command.name == "FETCH" and isinstance(brought, dict) and error is None
        return Answer(command, brought if is_job else None, error)

    def close(self) -> None:
        self.closed += 1


def _said(command: Command[Any]) -> str:
    if command.name == "FETCH":
        return command.data.decode().strip()
    return f"{command.name} {json.loads(command.data.split(b' ', 1)[1])['jid']}"


class Working:
    """A processor with a fake client, and what became of it."""

    def __init__(
        self, script: Sequence[Any], func: Callable[[int], object], timing: Timing = QUICK
    ) -> None:
        self.queues: Callable[[], Sequence[str]] = lambda: ["default"]
        self.ended: list[BaseException | None] = []
        self.tasks = {"work": Task("work", func, False)}
        manager = Manager(
            JobRunner(self.tasks),
            lambda: self.queues(),
            lambda: self.client,  # type: ignore[arg-type, return-value]
            Events(),
            lambda function: None,
            lambda error: None,
            LOG,
            timing,
        )
        manager.on_exit = self._on_exit  # type: ignore[method-assign]
        self.lifecycle = manager.lifecycle
        self.client = FakeClient(script, self.lifecycle)
        self.thread = manager.make_processor("faktory-1")

    def _on_exit(self, processor: Processor, error: BaseException | None) -> None:
        self.ended.append(error)

    def run(self) -> list[list[str]]:
        """Work in this thread until the script is over; return what was sent."""
        self.thread.run()
        return self.client.sent


@pytest.fixture
def work() -> Iterator[Callable[..., Working]]:
    """`work(script, func, timing)`: a processor, not started."""
    made: list[Working] = []

    def work(
        script: Sequence[Any],
        func: Callable[[int], object] = lambda number: None,
        timing: Timing = QUICK,
    ) -> Working:
        working = Working(script, func, timing)
        made.append(working)
        return working

    yield work
    assert made
    for working in made:
        assert len(working.ended) == 1
        assert working.client.closed == 1


def fails(number: int) -> None:
    raise ValueError(number)


# Fetch, run, answer


def test_a_report_goes_out_in_one_write_with_the_next_fetch(work: Callable[..., Working]) -> None:
    ran: list[int] = []
    working = work([job(1), job(2), NOTHING], ran.append)
    assert working.run() == [
        ["FETCH default"],
        ["ACK jid-0001", "FETCH default"],
        ["ACK jid-0002", "FETCH default"],
    ]
    assert ran == [1, 2]
    assert working.ended == [None]


def test_a_job_that_fails_is_reported_so(work: Callable[..., Working]) -> None:
    assert work([job(1), NOTHING], fails).run()[1] == ["FAIL jid-0001", "FETCH default"]


def test_a_job_that_a_fetch_under_way_brings_is_run_and_answered(
    work: Callable[..., Working],
) -> None:
    ran: list[int] = []
    assert work([job(1)], ran.append).run() == [["FETCH default"], ["ACK jid-0001"]]
    assert ran == [1]


def test_a_job_that_comes_after_the_grace_period_is_failed_and_not_run(
    work: Callable[..., Working],
) -> None:
    ran: list[int] = []
    working = work([job(1)], ran.append)
    working.thread.running.close(Shutdown)
    working.thread.giving_up.set()
    assert working.run() == [["FETCH default"], ["FAIL jid-0001"]]
    assert ran == []


def test_the_queues_are_asked_for_anew_each_time(work: Callable[..., Working]) -> None:
    working = work([NOTHING, NOTHING])
    orders = iter([["a", "b"], ["b", "a"]])
    working.queues = lambda: next(orders)
    assert working.run() == [["FETCH a b"], ["FETCH b a"]]


def test_queues_that_change_in_place_are_asked_for_as_they_are(
    work: Callable[..., Working],
) -> None:
    names = ["a"]
    working = work([job(1), NOTHING], lambda number: names.append("b"))
    working.queues = lambda: names
    assert working.run() == [["FETCH a"], ["ACK jid-0001", "FETCH a b"]]


def test_a_refused_fetch_is_repeated(
    work: Callable[..., Working], caplog: pytest.LogCaptureFixture
) -> None:
    working = work([NOTHING, NOTHING, job(1), NOTHING])
    refusals = [FaktoryServerError("ERR no more"), FaktoryServerError("ERR no more")]
    working.client.refuse = lambda verb: refusals.pop() if refusals else None
    assert working.run()[-1] == ["ACK jid-0001", "FETCH default"]
    assert caplog.messages == ["the server refused FETCH: ERR no more"] * 2


# Broken lines


@pytest.mark.parametrize("broken", [1, 2, 5])
@pytest.mark.parametrize("func", [lambda number: None, fails])
def test_a_report_is_repeated_as_it_was_until_it_is_answered(
    work: Callable[..., Working], broken: int, func: Callable[[int], object]
) -> None:
    sent = work([job(1), *[CUT] * broken, NOTHING, NOTHING], func).run()
    verb = "FAIL" if func is fails else "ACK"
    assert sent == [
        ["FETCH default"],
        *[[f"{verb} jid-0001", "FETCH default"]] * (broken + 1),
        ["FETCH default"],
    ]


def test_a_report_is_delivered_after_the_worker_was_told_to_stop(
    work: Callable[..., Working],
) -> None:
    def stop(number: int) -> None:
        working.lifecycle.advance(State.TERMINATE)
        working.thread.stopping.set()

    working = work([job(1), LOST, LOST, NOTHING, NOTHING], stop)
    assert working.run() == [["FETCH default"], *[["ACK jid-0001"]] * 3]


def test_one_broken_connection_is_replaced_without_a_word(
    work: Callable[..., Working], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    work([CUT, NOTHING, CUT, NOTHING]).run()
    assert caplog.messages == []


def test_a_lost_server_is_told_once(
    work: Callable[..., Working], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    work([CUT, LOST, LOST, LOST, NOTHING, NOTHING]).run()
    assert len(caplog.messages) == 2
    assert caplog.messages[0] == "lost the server, trying until it is back: nothing listens"
    assert caplog.messages[1].startswith("the server is back after 0.")


def test_attempts_are_spaced_and_the_first_one_is_at_once(
    work: Callable[..., Working],
) -> None:
    asked: list[int] = []

    def backoff(attempt: int, random: float) -> float:
        assert 0 <= random < 1
        asked.append(attempt)
        return 0.0

    script = [CUT, LOST, LOST, LOST, NOTHING, CUT, LOST, NOTHING]
    work(script, timing=Timing(backoff=backoff)).run()
    assert asked == [1, 2, 3, 1]


def test_stop_ends_the_wait_for_a_lost_server(
    work: Callable[..., Working],
    wait_until: Callable[..., object],
) -> None:
    working = work([LOST, LOST, NOTHING, NOTHING], timing=SLOW)
    working.thread.start()
    wait_until(lambda: len(working.client.sent) == 2)
    working.lifecycle.advance(State.TERMINATE)
    working.thread.stopping.set()
    working.thread.join(10)
    assert not working.thread.is_alive()
    assert working.ended == [None]


def test_stop_has_a_report_tried_often_until_it_is_given_up(
    work: Callable[..., Working],
    wait_until: Callable[..., object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    working = work([job(1), *[LOST] * 100_000], timing=SLOW)
    working.thread.start()
    wait_until(lambda: len(working.client.sent) == 3)
    working.lifecycle.advance(State.TERMINATE)
    working.thread.stopping.set()
    wait_until(lambda: len(working.client.sent) > 10)
    working.thread.giving_up.set()
    working.thread.join(10)
    assert not working.thread.is_alive()
    assert working.client.sent[-1] == ["ACK jid-0001"]
    assert caplog.messages[-1] == "ACK of jid-0001 could not be delivered: nothing listens"


# Refusals of reports


NOT_FOUND = FaktoryServerError("ERR Job not found jid-0001")


def test_a_repeated_fail_that_the_server_knows_already_is_done(
    work: Callable[..., Working], caplog: pytest.LogCaptureFixture
) -> None:
    working = work([job(1), CUT, NOTHING, NOTHING], fails)
    working.client.refuse = lambda verb: NOT_FOUND if verb == "FAIL" else None
    assert working.run()[-1] == ["FETCH default"]
    assert "refused" not in caplog.text


def test_a_first_fail_of_a_job_that_the_server_gave_up_is_logged_and_no_more(
    work: Callable[..., Working], caplog: pytest.LogCaptureFixture
) -> None:
    working = work([job(1), NOTHING, NOTHING], fails)
    working.client.refuse = lambda verb: NOT_FOUND if verb == "FAIL" else None
    assert working.run()[-1] == ["FETCH default"]
    assert caplog.messages[-1] == f"the server refused FAIL of jid-0001: {NOT_FOUND}"


def test_a_refused_ack_never_becomes_a_fail(
    work: Callable[..., Working], caplog: pytest.LogCaptureFixture
) -> None:
    working = work([job(1), job(2), NOTHING])
    working.client.refuse = lambda verb: FaktoryServerError("ERR no") if verb == "ACK" else None
    assert working.run() == [
        ["FETCH default"],
        ["ACK jid-0001", "FETCH default"],
        ["ACK jid-0002", "FETCH default"],
    ]
    assert caplog.messages[-1] == "the server refused ACK of jid-0002: ERR no"


# The end


def test_a_wrong_password_ends_the_thread_with_it(work: Callable[..., Working]) -> None:
    error = FaktoryAuthenticationError("wrong")
    working = work([error, NOTHING])
    assert working.run() == [["FETCH default"]]
    assert working.ended == [error]


def test_queues_that_cannot_be_had_end_the_thread_after_its_report(
    work: Callable[..., Working],
) -> None:
    working = work([job(1), NOTHING, NOTHING])
    orders = iter([["default"]])
    working.queues = lambda: next(orders)
    assert working.run() == [["FETCH default"], ["ACK jid-0001"]]
    assert [type(error) for error in working.ended] == [StopIteration]


def test_a_disowned_job_is_not_reported(work: Callable[..., Working]) -> None:
    def disown(number: int) -> None:
        assert working.thread.running.disown() is not None
        working.lifecycle.advance(State.TERMINATE)

    working = work([job(1), NOTHING], disown)
    assert working.run() == [["FETCH default"]]


def test_a_job_that_nobody_registered_fails_with_what_find_says() -> None:
    working = Working([job(1)], lambda number: None)
    working.tasks.clear()
    assert working.run() == [["FETCH default"], ["FAIL jid-0001"]]
