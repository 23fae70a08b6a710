"""`faktory-worker periodic`, and the scheduler of `faktory-worker`."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from faktory.server import EmbeddedServer

from .support import WORKER, Run, WaitUntil

PROGRAM = """
import faktory

@faktory.job
def sweep() -> None:
    print("swept", faktory.current_job().tick.isoformat(), flush=True)

faktory.periodic(every=10, job=sweep)
faktory.periodic(every=3600, job=sweep, tz="Europe/Berlin", name="hourly")
"""


@pytest.fixture
def program(folder: Path) -> str:
    (folder / "app.py").write_text(PROGRAM)
    return "app.py"


def shown(run: Run, *flags: str) -> Any:
    done = run("faktory", "periodic", *flags, url="tcp://127.0.0.1:1")
    assert done.wait(20) == 0, done.said
    return json.loads(done.printed) if "--json" in flags else done.printed


def test_schedules_are_listed_without_a_server(run: Run, program: str) -> None:
    before = datetime.now(UTC)
    rows = shown(run, "-r", program, "--json")
    assert shown(run, "-r", program, "--list", "--json")[1] == rows[1]
    assert [(row["name"], row["jobtype"]) for row in rows] == [
        ("sweep", "sweep"),
        ("hourly", "sweep"),
    ]
    assert {*rows[0]} == {"name", "jobtype", "at"}
    at = datetime.fromisoformat(rows[1]["at"])
    assert at.utcoffset() in (timedelta(hours=1), timedelta(hours=2))
    assert before < at <= before + timedelta(hours=1, minutes=1)
    text = shown(run, "-r", program).splitlines()
    assert text[0].split() == ["NAME", "JOBTYPE", "WHEN", "AT"]
    assert text[2].split()[:4] == ["hourly", "sweep", "every", "1:00:00"]


def test_the_next_ticks_of_each_schedule_are_shown(run: Run, program: str) -> None:
    rows = shown(run, "-r", program, "--next", "3", "--json")
    assert [row["name"] for row in rows] == ["sweep"] * 3 + ["hourly"] * 3
    times = [datetime.fromisoformat(row["at"]) for row in rows]
    assert [later - earlier for earlier, later in pairwise(times[:3])] == [
        timedelta(seconds=10)
    ] * 2


def test_a_program_without_schedules_is_an_error_with_the_remedy(run: Run, folder: Path) -> None:
    (folder / "other.py").write_text("import faktory\n")
    for flags, text in (((), "no module is named by -r"), (("-r", "other.py"), "declare no")):
        done = run("faktory", "periodic", *flags)
        assert done.wait(20) == 2
        assert text in done.said


@pytest.mark.parametrize(
    "flags", [("--list", "--run"), ("--next", "3", "--run"), ("--list", "--next", "3")]
)
def test_one_of_list_next_and_run_is_asked_for(
    run: Run, program: str, flags: tuple[str, ...]
) -> None:
    done = run("faktory", "periodic", "-r", program, *flags)
    assert done.wait(20) == 2
    assert f"argument {flags[-1] if flags[-1] != '3' else '--next'}: not allowed with" in done.said


def test_a_number_of_ticks_that_is_none_is_wrong_usage(run: Run, program: str) -> None:
    done = run("faktory", "periodic", "-r", program, "--next", "0")
    assert done.wait(20) == 2
    assert "'0' is not a number from 1" in done.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_scheduler_runs_alone_until_it_is_stopped(
    run: Run, program: str, server: EmbeddedServer, wait_until: WaitUntil, number: int
) -> None:
    alone = run(
        "faktory", "periodic", "-r", program, "--run", "--log-format", "json", url=server.url
    )
    wait_until(lambda: server.scheduled)
    assert "FETCH" not in dict(server.commands)
    alone.send(number)
    assert alone.wait(20) == 0
    lines = [json.loads(line) for line in alone.said.splitlines()]
    assert any("Periodic: 2 schedules, next: sweep" in line["message"] for line in lines)


def test_a_worker_pushes_the_ticks_and_runs_them(
    run: Run, program: str, server: EmbeddedServer, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", program, "-c", "1", url=server.url)
    wait_until(lambda: server.scheduled)
    tick = min(job["custom"]["faktory_tick"] for job in server.scheduled)
    server.travel(20)
    wait_until(lambda: f"swept {tick}" in worker.printed + worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait(20) == 0


def test_no_periodic_switches_it_off(
    run: Run, program: str, server: EmbeddedServer, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", program, "-c", "1", "--no-periodic", url=server.url)
    wait_until(lambda: "FETCH" in dict(server.commands))
    worker.send(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert server.scheduled == []
    assert "Periodic" not in worker.said


def test_doctor_says_which_tick_comes_next(run: Run, program: str, server: EmbeddedServer) -> None:
    done = run("faktory", "doctor", "-r", program, "--json", "--watch", "0", url=server.url)
    assert done.wait(20) == 0
    (line,) = [each for each in json.loads(done.printed) if each["check"] == "periodic"]
    assert line["level"] == "ok"
    assert line["text"].startswith("2 schedules; the next tick: ")
