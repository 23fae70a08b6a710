"""The connection of a processor is cut at every byte of a job's exchange.

FAKTORY_SERVER_COMMAND starts the real server: see `real.RealFaktory`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import faktory
from faktory import Client
from faktory.wire.commands import Command
from faktory.worker import timing as worker_timing
from faktory.worker.heartbeat import Heartbeat
from faktory.worker.processor import Processor

from ..client.proxy import Fault, Proxy, Way
from .conftest import Start, WaitUntil, make_worker
from .real import Server, serving


@pytest.fixture(params=["embedded", "real"])
def server(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    wait_until: WaitUntil,
) -> Iterator[Server]:
    # Bytes are counted on the connection that was opened last: the processor's is the only one.
    monkeypatch.setattr(Heartbeat, "start", lambda self: None)
    with serving(request.param, tmp_path, wait_until) as running:
        yield running


def cut_everywhere(server: Server, start: Start, wait_until: WaitUntil, fails: bool) -> list[str]:
    """Run jobs, each of which has the exchange after it cut at the next byte; return errors."""
    ways: tuple[Way, ...] = ("request", "reply")
    faults: list[Fault] = []
    planned = 0
    ran: Counter[str] = Counter()
    proxy = Proxy(server.port)

    def work() -> None:
        nonlocal planned
        ran[faktory.current_job().jid] += 1
        if len(ran) == 2:  # between the first job and this one there was one full exchange
            faults.extend(
                Fault("cut", way, at) for way in ways for at in range(len(proxy.moved[way]) + 1)
            )
        if planned < len(faults):
            proxy.plan(faults[planned])
            planned += 1
        elif not faults:
            proxy.plan(None)
        if fails:
            raise ValueError("always")

    timing = worker_timing.Timing(backoff=lambda attempt, random: 0.0)
    worker = make_worker(f"tcp://127.0.0.1:{proxy.port}", {"work": work}, timing=timing)
    with Client(server.url) as client:
        jobs: list[dict[str, Any]] = [
            {"jobtype": "work", "args": [], "retry": 0} for _ in range(900)
        ]
        assert client.push_bulk(jobs) == {}
        running = start(worker)
        wait_until(lambda: len(faults) and planned == len(faults), timeout=30)
        wait_until(lambda: not client.info()["faktory"]["queues"].get("default"), timeout=30)
        running.stop()
        info = client.info()["faktory"]
        processed, reserved = info["total_processed"], info["sets"]["working"]
    proxy.stop()
    assert len(faults) > 200
    wrong = [f"{jid} ran {times} times" for jid, times in ran.items() if times > 1]
    if processed != len(ran):
        wrong.append(f"{len(ran)} ran, {processed} were answered")
    if reserved != 900 - len(ran):
        wrong.append(f"{reserved} are reserved, {900 - len(ran)} did not run")
    # Only a FETCH that the server received reserves a job: with a cut in its answer, or right
    # before that.
    if not 0 < reserved <= 1 + sum(fault.way == "reply" for fault in faults):
        wrong.append(f"{reserved} are reserved")
    return wrong


@pytest.mark.parametrize("fails", [False, True])
def test_a_cut_at_any_byte_loses_no_job_and_strands_only_those_in_flight(
    server: Server, start: Start, wait_until: WaitUntil, fails: bool
) -> None:
    assert cut_everywhere(server, start, wait_until, fails) == []


def test_a_worker_that_drops_an_unanswered_report_is_noticed(
    server: Server, start: Start, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Processor._next_commands

    def drop(processor: Processor) -> list[Command[Any]]:
        if processor._delivery is not None and processor._delivery.repeated:
            processor._delivery = None
        return real(processor)

    monkeypatch.setattr(Processor, "_next_commands", drop)
    monkeypatch.setattr("faktory.wire.recovery.may_resend", lambda *_: False)
    assert cut_everywhere(server, start, wait_until, fails=False) != []
