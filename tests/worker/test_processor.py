"""What a processor sends, with a fake client."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from faktory.exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryConnectionResetError,
    FaktoryOutcomeUnknown,
    FaktoryServerError,
    FaktoryTimeout,
    Shutdown,
)
from faktory.wire.commands import Command
from faktory.wire.session import Answer
from faktory.worker import Task
from faktory.worker.lifecycle import Lifecycle, State
from faktory.worker.processor import Processor
from faktory.worker.queues import Limits
from faktory.worker.timing import Timing

from .conftest import WaitUntil, make_manager, messages, succeed

Work = Callable[..., "Working"]
LOG = logging.getLogger("test.processor")
NOTHING = object()
LOST = FaktoryConnectionError("nothing listens")
CUT = FaktoryOutcomeUnknown("the connection broke")
GONE = FaktoryOutcomeUnknown("the connection broke")
GONE.__cause__ = FaktoryTimeout("its machine does not answer")
QUICK = Timing(backoff=lambda attempt, random: 0.0, refused_fetch_interval=0.0)
"""No pauses between attempts."""
SLOW = Timing(backoff=lambda attempt, random: 1000.0, report_interval=0.001)


def job(number: int, **fields: Any) -> dict[str, Any]:
    return {"jid": f"jid-{number:04}", "jobtype": "work", "args": [number], **fields}


class FakeClient:
    """A fake client with a script: each exchange raises its error or fetches its job.

    With the end of the script the lifecycle ends.
    """

    def __init__(self, script: Sequence[Any], lifecycle: Lifecycle) -> None:
        self.script = list(script)
        self.lifecycle = lifecycle
        self.sent: list[list[str]] = []
        self.error_for: Callable[[str], FaktoryServerError | None] = lambda verb: None
        self.closed = 0
        self.disconnect: Callable[[], object]

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        self.sent.append([_text(command) for command in sent])
        outcome = self.script.pop(0) if self.script else NOTHING
        if not self.script:
            self.lifecycle.advance(State.TERMINATE)
        if isinstance(outcome, BaseException):
            raise outcome
        return [self._answer(command, outcome) for command in sent]

    def _answer(self, command: Command[Any], fetched: Any) -> Answer:
        error = self.error_for(command.name)
        is_job = command.name == "FETCH" and isinstance(fetched, dict) and error is None
        return Answer(command, fetched if is_job else None, error)

    def close(self) -> None:
        self.closed += 1


def _text(command: Command[Any]) -> str:
    if command.name == "FETCH":
        return command.data.decode().strip()
    return f"{command.name} {json.loads(command.data.split(b' ', 1)[1])['jid']}"


class Working:
    """A processor with a fake client, and the errors that it ended with."""

    def __init__(
        self, script: Sequence[Any], func: Callable[[int], object], timing: Timing = QUICK
    ) -> None:
        self.queues: Callable[[], Sequence[str]] = lambda: ["default"]
        self.limits = Limits({})
        self.ended: list[BaseException | None] = []
        self.tasks = {"work": Task("work", func, False)}
        manager = make_manager(self.tasks, LOG, lambda: self.queues(), lambda: self.client, timing)
        manager.on_exit = self._on_exit  # type: ignore[method-assign]
        self.lifecycle = manager.lifecycle
        self.client = FakeClient(script, self.lifecycle)
        self.thread = manager.make_processor("faktory-1")

    def _on_exit(self, processor: Processor, error: BaseException | None) -> None:
        self.ended.append(error)

    def run(self) -> list[list[str]]:
        """Work in this thread until the script ends; return what was sent."""
        self.thread.run()
        return self.client.sent


@pytest.fixture
def work() -> Iterator[Work]:
    """`work(script, func, timing)`: a processor, not started."""
    made: list[Working] = []

    def work(
        script: Sequence[Any],
        func: Callable[[int], object] = succeed,
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


# Fetch, run, report


def test_a_report_goes_out_in_one_write_with_the_next_fetch(work: Work) -> None:
    ran: list[int] = []
    working = work([job(1), job(2), NOTHING], ran.append)
    assert working.run() == [
        ["FETCH default"],
        ["ACK jid-0001", "FETCH default"],
        ["ACK jid-0002", "FETCH default"],
    ]
    assert ran == [1, 2]
    assert working.ended == [None]


def test_a_job_that_raises_is_reported_with_fail(work: Work) -> None:
    assert work([job(1), NOTHING], fails).run()[1] == ["FAIL jid-0001", "FETCH default"]


def test_a_job_that_a_pending_fetch_brings_is_run_and_reported(work: Work) -> None:
    ran: list[int] = []
    assert work([job(1)], ran.append).run() == [["FETCH default"], ["ACK jid-0001"]]
    assert ran == [1]


def test_a_job_that_comes_after_the_grace_period_is_failed_and_not_run(work: Work) -> None:
    ran: list[int] = []
    working = work([job(1)], ran.append)
    working.thread.running.close(Shutdown)
    working.thread.giving_up.set()
    assert working.run() == [["FETCH default"], ["FAIL jid-0001"]]
    assert ran == []


def test_get_queues_is_called_before_each_fetch(work: Work) -> None:
    working = work([NOTHING, NOTHING])
    orders = iter([["a", "b"], ["b", "a"]])
    working.queues = lambda: next(orders)
    assert working.run() == [["FETCH a b"], ["FETCH b a"]]


def test_a_list_of_queues_may_change_in_place(work: Work) -> None:
    names = ["a"]
    working = work([job(1), NOTHING], lambda number: names.append("b"))
    working.queues = lambda: names
    assert working.run() == [["FETCH a"], ["ACK jid-0001", "FETCH a b"]]


# Queues with a limit


def limited(work: Work, script: Sequence[Any], func: Callable[[int], object]) -> Working:
    """A processor of the queues a and b; a has a limit of 1."""
    working = work(script, func)
    working.queues = lambda: ["a", "b"]
    working.limits = working.thread._manager.limits = Limits({"a": 1})
    return working


def test_a_job_has_its_permit_from_its_fetch_until_its_report(work: Work) -> None:
    free: list[bool] = []

    def look(number: int) -> None:
        free.append(working.limits.acquire("another", ["a"]) == ["a"])
        working.limits.release("another")

    script = [job(1, queue="a"), job(2, queue="b"), NOTHING, job(3, queue="a"), NOTHING]
    working = limited(work, script, look)
    assert working.run() == [
        ["FETCH a b"],
        ["ACK jid-0001", "FETCH a b"],
        ["ACK jid-0002", "FETCH a b"],
        ["FETCH a b"],
        ["ACK jid-0003", "FETCH a b"],
    ]
    assert free == [False, True, False]
    assert working.limits.acquire("another", ["a"]) == ["a"]  # it has ended


def test_a_full_queue_is_left_out_of_fetch(work: Work) -> None:
    def take(number: int) -> None:
        if number == 1:
            working.limits.acquire("another", ["a"])
        else:
            working.limits.release("another")

    working = limited(work, [job(1, queue="b"), job(2, queue="b"), NOTHING], take)
    assert working.run() == [
        ["FETCH a b"],
        ["ACK jid-0001", "FETCH b"],
        ["ACK jid-0002", "FETCH a b"],
    ]


def test_a_report_does_not_wait_for_a_permit(work: Work, wait_until: WaitUntil) -> None:
    working = limited(
        work,
        [job(1, queue="elsewhere"), NOTHING, NOTHING],
        lambda number: working.limits.acquire("another", ["a"]),
    )
    working.queues = lambda: ["a"]
    working.thread.start()
    wait_until(lambda: working.client.sent == [["FETCH a"], ["ACK jid-0001"]])
    working.limits.release("another")
    working.thread.join(10)
    assert working.client.sent[2:] == [["FETCH a"]]


@pytest.mark.parametrize("answer", [LOST, FaktoryServerError("ERR no")])
def test_a_fetch_without_an_answer_keeps_no_permit_while_it_pauses(
    work: Work, wait_until: WaitUntil, answer: Exception
) -> None:
    working = limited(work, [LOST, LOST, NOTHING], succeed)
    timing = Timing(backoff=lambda attempt, random: 1000.0, refused_fetch_interval=1000.0)
    working.thread._manager.timing = timing
    if isinstance(answer, FaktoryServerError):
        working.client.script = [NOTHING, NOTHING]
        working.client.error_for = lambda verb: answer
    working.thread.start()
    wait_until(lambda: working.client.sent and working.limits.acquire("another", ["a"]) == ["a"])
    working.lifecycle.advance(State.TERMINATE)
    working.thread.stopping.set()
    working.thread.join(10)
    assert not working.thread.is_alive()


def test_a_greeting_that_is_asked_for_during_a_pause_comes_before_the_next_fetch(
    work: Work,
) -> None:
    working = work([NOTHING, NOTHING])
    sent_before: list[int] = []
    working.client.disconnect = lambda: sent_before.append(len(working.client.sent))
    asked: list[int] = []

    def queues() -> list[str]:  # as long as it takes, the heartbeat may ask for that
        asked.append(1)
        if len(asked) == 1:
            working.thread.reconnect()
        return ["default"]

    working.queues = queues
    assert working.run() == [["FETCH default"]] * 2
    assert sent_before == [0]


def test_a_refused_fetch_is_repeated(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    working = work([NOTHING, NOTHING, job(1), NOTHING])
    errors = [FaktoryServerError("ERR no more"), FaktoryServerError("ERR no more")]
    working.client.error_for = lambda verb: errors.pop() if errors else None
    assert working.run()[-1] == ["ACK jid-0001", "FETCH default"]
    assert caplog.messages == ["the server refused FETCH: ERR no more"]  # once a minute


# Broken connections


@pytest.mark.parametrize("broken", [1, 2, 5])
@pytest.mark.parametrize("func", [succeed, fails])
def test_a_report_is_repeated_unchanged_until_it_is_answered(
    work: Work, broken: int, func: Callable[[int], object]
) -> None:
    sent = work([job(1), *[CUT] * broken, NOTHING, NOTHING], func).run()
    verb = "FAIL" if func is fails else "ACK"
    assert sent == [
        ["FETCH default"],
        *[[f"{verb} jid-0001", "FETCH default"]] * (broken + 1),
        ["FETCH default"],
    ]


def test_a_report_is_delivered_after_the_worker_was_stopped(work: Work) -> None:
    def stop(number: int) -> None:
        working.lifecycle.advance(State.TERMINATE)
        working.thread.stopping.set()

    working = work([job(1), LOST, LOST, NOTHING, NOTHING], stop)
    assert working.run() == [["FETCH default"], *[["ACK jid-0001"]] * 3]


def test_one_broken_connection_is_replaced_without_a_log_message(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    work([CUT, NOTHING, CUT, NOTHING]).run()
    assert caplog.messages == []


def test_a_fetch_that_was_given_up_is_logged(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    work([GONE, NOTHING, NOTHING]).run()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "FETCH was sent and not answered: if the server has given out a job, that job waits out "
        "its reservation, and runs again then (one with retry 0 is lost): its machine does not "
        "answer"
    )


@pytest.mark.parametrize(
    ("cause", "logged"),
    [
        (FaktoryConnectionResetError("closed the connection"), False),  # a server that stops
        (FaktoryConnectionResetError("broke"), True),  # a machine in between
        (FaktoryConnectionError("no route to host"), True),
    ],
)
def test_a_fetch_that_the_network_broke_is_logged(
    work: Work, caplog: pytest.LogCaptureFixture, cause: FaktoryConnectionError, logged: bool
) -> None:
    broken = FaktoryOutcomeUnknown("the connection broke")
    broken.__cause__ = cause
    if logged:
        cause.__cause__ = ConnectionResetError("by peer")
    work([broken, NOTHING, NOTHING]).run()
    assert bool(messages(caplog, "FETCH was sent and not answered")) is logged


def test_a_lost_server_is_logged_once(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    work([NOTHING, CUT, LOST, LOST, LOST, NOTHING, NOTHING]).run()
    lost, back = caplog.messages
    assert lost == "lost the connection to the server: nothing listens; trying again"
    assert re.fullmatch(r"the server is back after \d+\.\d s", back)


def test_a_pause_precedes_each_attempt_but_the_first(work: Work) -> None:
    attempts: list[int] = []

    def backoff(attempt: int, random: float) -> float:
        assert 0 <= random < 1
        attempts.append(attempt)
        return 0.0

    script = [CUT, LOST, LOST, LOST, NOTHING, CUT, LOST, NOTHING]
    work(script, timing=Timing(backoff=backoff)).run()
    assert attempts == [1, 2, 3, 1]


def test_stop_ends_the_wait_for_a_lost_server(work: Work, wait_until: WaitUntil) -> None:
    working = work([LOST, LOST, NOTHING, NOTHING], timing=SLOW)
    working.thread.start()
    wait_until(lambda: len(working.client.sent) == 2)
    working.lifecycle.advance(State.TERMINATE)
    working.thread.stopping.set()
    working.thread.join(10)
    assert not working.thread.is_alive()
    assert working.ended == [None]


def test_a_report_is_tried_often_while_the_worker_stops(
    work: Work, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
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
    assert caplog.messages[-1] == (
        "ACK of jid-0001 could not be delivered: nothing listens; its job runs again after its "
        "reservation"
    )


# Reports that the server refuses

NOT_FOUND = FaktoryServerError("ERR Job not found jid-0001")


def test_a_repeated_fail_of_a_job_that_the_server_has_failed_is_done(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    working = work([job(1), CUT, NOTHING, NOTHING], fails)
    working.client.error_for = lambda verb: NOT_FOUND if verb == "FAIL" else None
    assert working.run()[-1] == ["FETCH default"]
    assert "refused" not in caplog.text


def test_a_refused_first_fail_is_logged_and_not_repeated(
    work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    working = work([job(1), NOTHING, NOTHING], fails)
    working.client.error_for = lambda verb: NOT_FOUND if verb == "FAIL" else None
    assert working.run()[-1] == ["FETCH default"]
    assert caplog.messages[-1] == f"the server refused FAIL of jid-0001: {NOT_FOUND}"


def test_a_refused_ack_never_becomes_a_fail(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    working = work([job(1), job(2), NOTHING])
    working.client.error_for = lambda verb: FaktoryServerError("ERR no") if verb == "ACK" else None
    assert working.run() == [
        ["FETCH default"],
        ["ACK jid-0001", "FETCH default"],
        ["ACK jid-0002", "FETCH default"],
    ]
    assert caplog.messages[-1] == "the server refused ACK of jid-0002: ERR no"


# The end


def test_a_wrong_password_ends_the_thread_with_that_error(work: Work) -> None:
    error = FaktoryAuthenticationError("wrong")
    working = work([error, NOTHING])
    assert working.run() == [["FETCH default"]]
    assert working.ended == [error]


def test_an_error_of_get_queues_ends_the_thread_after_its_report(work: Work) -> None:
    working = work([job(1), NOTHING, NOTHING])
    orders = iter([["default"]])
    working.queues = lambda: next(orders)
    assert working.run() == [["FETCH default"], ["ACK jid-0001"]]
    assert [type(error) for error in working.ended] == [StopIteration]


def test_a_disowned_job_is_not_reported(work: Work) -> None:
    def disown(number: int) -> None:
        assert working.thread.running.disown() is not None
        working.lifecycle.advance(State.TERMINATE)

    working = work([job(1), NOTHING], disown)
    assert working.run() == [["FETCH default"]]


def test_an_unknown_job_fails(work: Work) -> None:
    working = work([job(1)])
    working.tasks.clear()
    assert working.run() == [["FETCH default"], ["FAIL jid-0001"]]
