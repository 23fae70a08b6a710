"""What probes say of a worker: alive while its clocks move, ready while it fetches."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from math import inf
from time import monotonic

import pytest

from faktory import Worker
from faktory.server import EmbeddedServer
from faktory.worker import counts
from faktory.worker.counts import BEAT_DUE, CLOCK, PROCESS, REASON, Counts, Page
from faktory.worker.manager import Manager
from faktory.worker.processor import Processor
from faktory.worker.status import READY, REASONS, STOPPING, Probes, Status
from faktory.worker.timing import Timing

from .conftest import Held, Push, Start, WaitUntil, make_manager

QUICK = Timing(
    check_interval=0.01,
    stuck_after=0.3,
    refused_fetch_interval=0.02,
    backoff=lambda attempt, random: 0.02,
)


@pytest.fixture
def counted() -> Iterator[Counts]:
    """The counters of this process."""
    yield counts.enable()
    counts.disable()


@pytest.fixture
def probes(counted: Counts) -> Probes:
    return Probes([counted.page], stuck_after=5)


Is = Callable[[str], None]


@pytest.fixture
def becomes(probes: Probes, wait_until: WaitUntil) -> Is:
    """`becomes("outage")`: wait until that is the reason, while the worker stays alive."""

    def becomes(reason: str) -> None:
        wait_until(lambda: probes.readyz().body == {"reason": reason})
        assert probes.readyz().passes == (reason == "ready")
        assert probes.livez().passes

    return becomes


def test_a_worker_is_ready_once_the_server_has_answered_until_it_is_quiet_and_stops(
    becomes: Is, start: Start
) -> None:
    becomes("starting")
    running = start(timing=QUICK)
    becomes("ready")
    running.worker.quiet()
    becomes("quiet")
    running.stop()
    becomes("stopping")


def test_a_worker_is_starting_while_handlers_of_startup_run(
    server: EmbeddedServer, becomes: Is, start: Start
) -> None:
    go_on = threading.Event()
    worker = Worker(server.url, timing=QUICK)
    worker.on("startup", go_on.wait)
    start(worker)
    becomes("starting")
    go_on.set()
    becomes("ready")


def test_an_outage_makes_it_unready_and_never_dead(
    server: EmbeddedServer, becomes: Is, start: Start
) -> None:
    start(timing=QUICK, concurrency=2)
    becomes("ready")
    server.refuse_connections()
    server.disconnect()
    becomes("outage")
    server.accept_connections()
    becomes("ready")


def test_a_server_that_is_not_there_at_the_start_is_an_outage(
    closed_port: int, becomes: Is, start: Start
) -> None:
    start(Worker(f"tcp://127.0.0.1:{closed_port}", timing=QUICK))
    becomes("outage")


def test_a_server_that_refuses_fetch_makes_it_unready(
    server: EmbeddedServer, becomes: Is, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faktory.worker.status.REFUSED_WITHIN", 0.5)
    start(timing=QUICK)
    becomes("ready")
    server.answer_error("FETCH", "no", times=5)
    becomes("refused")
    becomes("ready")


def test_a_worker_whose_threads_are_all_busy_is_ready(
    becomes: Is, push: Push, start: Start, held: Held, probes: Probes
) -> None:
    push("work")
    start({"work": held.hold}, timing=QUICK)
    assert held.began.wait(10)
    becomes("ready")
    threading.Event().wait(3 * QUICK.stuck_after)
    becomes("ready")


def test_a_stop_with_a_long_job_is_alive_to_its_end(
    becomes: Is, push: Push, start: Start, held: Held, probes: Probes
) -> None:
    push("work")
    running = start({"work": held.hold}, timing=QUICK, disconnect_wait=30)
    assert held.began.wait(10)
    running.worker.stop()
    becomes("stopping")
    held.release()
    running.join()
    becomes("stopping")


def test_a_thread_that_hangs_outside_of_a_job_is_stuck(
    server: EmbeddedServer, probes: Probes, push: Push, start: Start, wait_until: WaitUntil
) -> None:
    """In a filter of the log, say; its job is over, and the worker cannot replace it."""
    go_on = threading.Event()
    log = logging.getLogger("stuck")
    log.setLevel(logging.INFO)
    log.getChild("job").addFilter(
        lambda record: not record.getMessage().endswith(" start") and go_on.wait(30)
    )
    worker = Worker(server.url, timing=QUICK, log=log)
    worker.register("work", lambda: None)
    push("work")
    start(worker)
    wait_until(lambda: not probes.livez().passes)
    assert probes.livez().body["reason"] == "stuck"
    assert "1 of its threads" in probes.livez().body["text"]
    go_on.set()
    wait_until(lambda: probes.livez().passes)


@pytest.fixture
def manager() -> Manager:
    return make_manager({}, logging.getLogger("test"), timing=Timing(check_interval=0))


@pytest.fixture
def status(counted: Counts, manager: Manager) -> Status:
    return Status(counted, manager)


def test_a_thread_that_cannot_be_replaced_is_stuck_after_a_while(
    probes: Probes, status: Status, manager: Manager
) -> None:
    manager.missing = 1
    status.publish()
    assert probes.livez().passes
    status._missing_since = monotonic() - 60
    status.publish()
    assert not probes.livez().passes
    manager.missing = 0
    status.publish()
    assert probes.livez().passes


class Unused:
    is_connected = False


def test_a_thread_that_waits_for_the_server_is_not_late(
    probes: Probes, status: Status, manager: Manager
) -> None:
    processor = Processor("faktory-1", manager, Unused())  # type: ignore[arg-type]
    manager.processors.append(processor)
    processor.due = monotonic() - 60
    status.publish()
    assert not probes.livez().passes
    processor.waits_since = monotonic() - 600
    status.publish()
    assert probes.livez().passes


@pytest.mark.parametrize(
    ("cell", "fault"), [(CLOCK, "the thread that manages it"), (BEAT_DUE, "its heartbeat")]
)
def test_a_clock_that_does_not_move_is_a_death(
    counted: Counts, probes: Probes, status: Status, cell: int, fault: str
) -> None:
    status.publish()
    assert probes.livez().passes
    counted.page.head[cell] = monotonic() - 6
    assert fault in probes.livez().body["text"]
    counted.page.head[REASON] = STOPPING
    assert probes.livez().passes


def workers(*states: tuple[int, str]) -> Sequence[Page]:
    pages = [Page() for _ in states]
    for page, (process, reason) in zip(pages, states, strict=True):
        page.head[PROCESS] = process
        page.head[REASON] = REASONS.index(reason)
        page.head[CLOCK], page.head[BEAT_DUE] = monotonic(), inf
    return pages


def test_a_supervisor_is_ready_if_one_of_its_workers_fetches() -> None:
    probes = Probes(workers((0, "ready"), (7, "ready"), (8, "outage")), supervised=True)
    ready = probes.readyz()
    assert ready.passes
    assert ready.body == {
        "reason": "ready",
        "workers": [
            {"number": 1, "process": None, "reason": "starting"},
            {"number": 2, "process": 7, "reason": "ready"},
            {"number": 3, "process": 8, "reason": "outage"},
        ],
    }


def test_a_supervisor_has_the_reason_of_the_worker_that_is_nearest_to_fetching() -> None:
    probes = Probes(workers((7, "starting"), (8, "outage"), (0, "ready")), supervised=True)
    assert probes.readyz().body["reason"] == "outage"
    probes = Probes(workers((0, "ready"), (0, "ready")), supervised=True)
    assert probes.readyz().body["reason"] == "starting"
    probes.absent = lambda: "stopping"
    assert probes.readyz().body["reason"] == "stopping"


def test_a_supervisor_names_the_worker_that_does_not_go_on() -> None:
    pages = workers((7, "ready"), (8, "ready"))
    pages[1].head[CLOCK] -= 60
    livez = Probes(pages, supervised=True).livez()
    assert not livez.passes
    assert livez.body["text"].startswith("worker 2: the thread that manages it has not gone on")


def test_the_states_have_the_places_that_others_name() -> None:
    assert (REASONS[0], REASONS[READY], REASONS[STOPPING]) == ("starting", "ready", "stopping")
