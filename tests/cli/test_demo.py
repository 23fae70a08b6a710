from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

import faktory
from faktory.cli.tools.demo import Runs, _declare
from faktory.jobs import registry
from faktory.server import EmbeddedServer

from .support import Run, WaitUntil


def test_it_starts_its_own_server_and_counts_every_run(run: Run) -> None:
    demo = run("faktory", "demo", "--jobs", "500")
    assert demo.wait(30) == 0
    assert "Server: an embedded one, in memory. " in demo.printed
    assert f"core     {faktory.implementation} (" in demo.printed
    assert re.search(r"pushed   500 jobs, [\d,]+ a second\n", demo.printed)
    assert re.search(r"run      525 times, [\d,]+ a second, 10 at a time\n", demo.printed)
    assert "retried  25 that failed at first and came back\n" in demo.printed
    assert "count    every job ran exactly as often as it should\n" in demo.printed
    assert demo.said == ""


def test_on_another_server_it_removes_its_jobs_and_touches_no_others(
    server: EmbeddedServer, run: Run
) -> None:
    with faktory.Client(server.url) as client:
        mine = client.push({"jobtype": "mine", "args": []})
        failed = client.push({"jobtype": "mine", "args": [], "queue": "other"})
        assert client.fetch("other") is not None
        client.fail(failed)
    demo = run("faktory", "demo", "--jobs", "200", url=server.url)
    assert demo.wait(30) == 0
    assert "Server: the one in FAKTORY_URL. " in demo.printed
    assert demo.said == ""
    queues = {name: [job["jid"] for job in jobs] for name, jobs in server.queues.items() if jobs}
    assert queues == {"default": [mine]}
    assert [job["jid"] for job in server.retries] == [failed]
    assert server.working == []
    assert server.processed == 1 + 210


def test_a_job_that_ran_too_often_or_too_seldom_is_reported() -> None:
    runs = Runs()
    for jid in ("well", "twice", "twice", "stranger"):
        runs.count(jid)
    assert (runs.total, runs.retried) == (4, 0)
    assert runs.differences({"well": 1, "twice": 1, "never": 1}) == [
        "job never ran 0 times instead of 1",
        "job stranger ran 1 times instead of 0",
        "job twice ran 2 times instead of 1",
    ]


def test_only_a_run_of_a_failed_job_counts_as_a_retry() -> None:
    runs = Runs()
    runs.count("well")
    runs.count("delivered twice")
    runs.count("delivered twice")
    runs.count("came back", retry=True)
    assert (runs.total, runs.retried) == (4, 1)


@pytest.mark.parametrize("changed", [(True, "thumb"), (1.0, "thumb"), (100, "thumb"), (1, "full")])
def test_changed_arguments_are_an_error(
    changed: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_jobs", {})
    resize, arguments = _declare("demo-x", Runs(), 100)[0]
    assert arguments(99) == (99, "thumb")
    with pytest.raises(AssertionError, match="the arguments changed on the way"):
        resize(*changed)


def test_an_interrupted_demo_removes_its_jobs_from_another_server(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    with faktory.Client(server.url) as client:
        failed = client.push({"jobtype": "mine", "args": []})
        assert client.fetch("default") is not None
        client.fail(failed)
    demo = run("faktory", "demo", "--jobs", "20000", url=server.url)
    wait_until(lambda: len(server.retries) > 1, 40)
    demo.send(signal.SIGINT)
    assert demo.wait() == 130
    assert demo.said == "python -m faktory demo: interrupted\n"
    assert [job["jid"] for job in server.retries] == [failed]
    assert not any(server.queues.values())
    assert server.working == []


def test_a_lost_server_is_reported_once(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    demo = run("faktory", "demo", "--jobs", "1000000", url=server.url)
    wait_until(lambda: any(server.queues.values()))
    server.stop()
    assert demo.wait() in (1, 9)  # 1 where a push may have arrived
    assert demo.said.startswith("python -m faktory demo: ")
    assert demo.said.count("\n") == 1


def test_an_unreachable_server_is_reported_in_one_line(run: Run, dead_url: str) -> None:
    demo = run("faktory", "demo", "--jobs", "100", url=dead_url)
    assert demo.wait() == 9
    assert demo.said.startswith("python -m faktory demo: nothing listens on ")
    assert demo.said.count("\n") == 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_ends_early_ends_its_server_too(
    run: Run, wait_until: WaitUntil, number: signal.Signals, code: int
) -> None:
    demo = run("faktory", "demo", "--jobs", "1000000")
    wait_until(lambda: "Queue: demo-" in demo.printed)
    children = Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children")
    (server,) = children.read_text().split()
    demo.send(number)
    assert demo.wait() == code
    assert "Traceback" not in demo.said
    with pytest.raises(ProcessLookupError):
        os.kill(int(server), 0)


def test_the_server_of_a_killed_demo_ends_too(run: Run, wait_until: WaitUntil) -> None:
    demo = run("faktory", "demo", "--jobs", "1000000")
    wait_until(lambda: "Queue: demo-" in demo.printed)
    demo.send(signal.SIGKILL)
    demo.wait()
    wait_until(lambda: demo.silent)  # the server has the same standard error
