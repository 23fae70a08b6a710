"""Measure what middleware, traces and reports of errors cost a push and an empty job.

Pushes go nowhere, so this is only work of this process (`peers/push_nowhere.py`); empty jobs run in
workers as in `test_worker.py`. What is recorded goes nowhere, too (`peers/around.py`).
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from importlib.util import find_spec
from time import sleep

from faktory import Client

from .conftest import IMPLEMENTATIONS, PEERS
from .test_worker import PROGRAM, WARM_UP, Way, pytestmark, started

__all__ = ["pytestmark"]

LIBRARIES = {
    **({"OpenTelemetry": "otel"} if find_spec("opentelemetry.sdk") else {}),
    **({"Sentry": "sentry"} if find_spec("sentry_sdk") else {}),
}
FASTEST = IMPLEMENTATIONS[0]


def pushes(child, ways, work, count):
    programs = {
        about: child("push_nowhere.py", FAKTORY_IMPL=FASTEST, FAKTORY_BENCH_AROUND=name)
        for about, name in {"nothing": "", **ways}.items()
    }

    def turn(program):
        return {"us CPU/job": program.turn(work, count)["us CPU/job"]}

    return {about: lambda program=program: turn(program) for about, program in programs.items()}


def test_push(contest, child):
    ways = {"a middleware": "plain", **LIBRARIES}
    contest("Around a push, nothing sent", pushes(child, ways, "perform_async", 1000), 15)


def test_push_bulk(contest, child):
    ways = {"a middleware": "plain", "one with bulk=": "bulk", **LIBRARIES}
    title = "Around a push of many, nothing sent"
    contest(title, pushes(child, ways, "perform_bulk", 20_000), 15)


def test_empty_jobs(contest, server, tmp_path):
    program = tmp_path / "empty_with_around.py"
    path = f"import sys; sys.path.insert(0, {str(PEERS)!r}); import around\n"
    program.write_text(path + PROGRAM.format(level="WARNING"))
    command = f"{sys.executable} -m faktory.cli.worker -r {program} -q {{queue}} -c {{concurrency}}"
    with Client(server[1].url) as client, ExitStack() as stack:
        workers = {}
        for about, name in {"nothing": "", **LIBRARIES}.items():
            way = Way(command, {"FAKTORY_IMPL": FASTEST, "FAKTORY_BENCH_AROUND": name})
            workers[about] = stack.enter_context(started(way, client, server[1], 10))
        sleep(WARM_UP)
        turns = {about: worker.work for about, worker in workers.items()}
        contest(f"Around empty jobs, 10 at a time, {server[0]}", turns, 5)
