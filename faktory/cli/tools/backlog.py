"""The checks of `doctor` for waiting jobs: no worker fetches their queue, or knows their type.

Rules: no job is fetched to look at it. The server does not show which queues its workers fetch
from, which queues are paused, or which types the waiting jobs have. The results describe what was
observed, and say that they are no more than that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from . import admin, output
from .checks import Result, declared_queues, fetched_queues, shorten

if TYPE_CHECKING:
    from ...client import Client

LONG_WAIT = 60.0
"""Seconds after which a waiting job raises the question whether any worker fetches its queue."""


def queues(
    client: Client, sizes: Mapping[str, int], watch: float, counts: Mapping[str, int | None]
) -> Result:
    """Look twice, `watch` seconds apart, at the queues whose oldest job has waited for long.

    A queue whose oldest job has no date is left out, and named. Where no worker is connected, any
    job that waits is a warning; `counts` is what `read_counts` has returned.
    """
    filled = {name: size for name, size in sizes.items() if size}
    if not filled:
        return Result("ok", "queues", "no job waits in a queue")
    before, started = admin.latencies(client, filled), time.monotonic()
    old = {name: wait for name, wait in before.items() if wait is not None and wait >= LONG_WAIT}
    undated = [name for name, wait in before.items() if wait is None]
    if len(undated) == len(before):
        return Result(
            "note",
            "queues",
            "the server does not show how long jobs wait, so it is unknown if workers fetch them",
            "See which queues grow: faktory-worker queues",
        )
    total = f"{output.jobs(sum(filled.values()))} in {output.counted(len(filled), 'queue')}"
    unknown = f"; it does not show how long jobs wait in: {shorten(undated)}" if undated else ""
    if not old and counts["Workers"] == 0:
        shown = [f"{name} ({size:,})" for name, size in sorted(filled.items())]
        waiting = sum(filled.values())
        wait = "waits" if waiting == 1 else "wait"
        return Result(
            "warning",
            "queues",
            f"{output.jobs(waiting)} {wait}, and no worker is connected: {shorten(shown)}",
            "Start a worker: without -q it fetches default and all queues that its jobs declare, "
            f"with -q only those that it names, as -q {min(filled)}.",
        )
    if not old:
        text = f"{total}, none waits for longer than {LONG_WAIT:.0f} s{unknown}"
        remedy = "See which queues grow: faktory-worker queues" if undated else ""
        return Result("note" if undated else "ok", "queues", text, remedy)
    time.sleep(watch)
    after, passed = admin.latencies(client, dict.fromkeys(old, 1)), time.monotonic() - started
    now = read_counts(client.info())
    slack = min(0.25, watch / 2)
    idle = sorted(
        (name for name, wait in old.items() if _is_same_job(wait, after[name], passed, slack)),
        key=lambda name: -old[name],
    )
    if not idle:
        return Result("ok", "queues", f"{total}, and workers fetch the old ones{unknown}")
    shown = [f"{name} ({filled[name]:,}, for {output.duration(old[name])})" for name in idle]
    none = " No worker is connected." if now["Workers"] == 0 else ""
    return Result(
        "warning",
        "queues",
        f"no worker seems to fetch from: {shorten(shown)}. In {passed:.1f} s none of their oldest "
        f"jobs was fetched.{none} (A paused queue, and one whose workers are busy, look the same"
        f"{unknown}.)",
        f"Start a worker with -q {idle[0]}; if it is paused, faktory-worker resume {idle[0]}; "
        f"if its jobs are not needed, faktory-worker remove {idle[0]}. A worker with -q fetches "
        "only the queues that it names.",
    )


def read_counts(info: Mapping[str, object]) -> dict[str, int | None]:
    """Return how many workers are connected, and how many jobs are reserved ("Busy").

    None for what the server does not say.
    """
    tasks = admin.as_object(admin.as_object(info.get("faktory")).get("tasks"))
    sizes = {name: admin.as_object(tasks.get(name)).get("size") for name in ("Workers", "Busy")}
    return {name: size if type(size) is int else None for name, size in sizes.items()}


def reservations(counts: Mapping[str, int | None]) -> Iterator[Result]:
    """Say when jobs come back that workers had which are gone."""
    if (reserved := counts["Busy"]) and counts["Workers"] == 0:
        one = reserved == 1
        yield Result(
            "warning",
            "reserved",
            f"{output.jobs(reserved)} {'is' if one else 'are'} reserved, and no worker is "
            f"connected: {'it comes' if one else 'they come'} back when the reservation ends, "
            "after reserve_for at the latest (30 minutes by default). That counts as a failed "
            "attempt; a job with retry 0 is lost by it",
            "Wait, or start the worker that has them, if it is only cut off. Stop workers by TERM, "
            "and kill none before its -t and 15 s more are over: then no job stays reserved.",
        )


def _is_same_job(before: float, after: float | None, passed: float, slack: float) -> bool:
    """Return whether the oldest job is the same: it has waited longer by the time that passed."""
    return after is not None and abs(after - before - passed) < slack


def jobtypes(sizes: Mapping[str, int], modules: Sequence[str]) -> Result:
    """Compare the queues of waiting jobs with those that the program's jobs are declared for.

    No command of the protocol shows a waiting job's type without fetching the job.
    """
    unseen = "the server does not show a job's type without handing the job out"
    if not modules:
        return Result(
            "note",
            "job types",
            f"not compared: {unseen}",
            "Name the program by -r MODULE to compare at least the queues of its jobs.",
        )
    if not declared_queues():
        return Result("note", "job types", "not compared: the program registers none")
    own = fetched_queues()
    others = sorted((name for name, size in sizes.items() if size and name not in own))
    if not others:
        return Result(
            "ok", "job types", f"jobs wait only in the queues of this program's jobs; {unseen}"
        )
    return Result(
        "warning",
        "job types",
        f"jobs wait in queues that no job type of this program is declared for: {shorten(others)}. "
        f"They may have types that it does not register ({unseen})",
        "A worker of this program that fetches from one of these queues fails the types it does "
        "not know. Leave the queue to the program that it belongs to, or add -r for the module "
        "that defines its jobs; the queue's page in the server's web interface shows the types.",
    )
