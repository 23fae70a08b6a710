"""The checks of `doctor` for waiting jobs: no worker fetches their queue, or knows their type.

Rules: no job is fetched to look at it. The server does not show which queues its workers fetch
from, which queues are paused, or which types the waiting jobs have. The results describe what was
observed, and say that they are no more than that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import admin, output
from .checks import Result, declared_queues, fetched_queues, shorten

if TYPE_CHECKING:
    from ...client import Client

LONG_WAIT = 60.0
"""Seconds after which a waiting job raises the question whether any worker fetches its queue."""


def queues(client: Client, sizes: Mapping[str, int], watch: float) -> Result:
    """Look twice, `watch` seconds apart, at the queues whose oldest job has waited for long.

    A queue whose oldest job has no date is left out, and named.
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
            "See which queues grow: python -m faktory queues",
        )
    total = f"{output.jobs(sum(filled.values()))} in {output.counted(len(filled), 'queue')}"
    unknown = f"; it does not show how long jobs wait in: {shorten(undated)}" if undated else ""
    if not old:
        text = f"{total}, none waits for longer than {LONG_WAIT:.0f} s{unknown}"
        remedy = "See which queues grow: python -m faktory queues" if undated else ""
        return Result("note" if undated else "ok", "queues", text, remedy)
    time.sleep(watch)
    after, passed = admin.latencies(client, dict.fromkeys(old, 1)), time.monotonic() - started
    now = admin.as_object(client.info().get("faktory"))
    slack = min(0.25, watch / 2)
    idle = sorted(
        (name for name, wait in old.items() if _is_same_job(wait, after[name], passed, slack)),
        key=lambda name: -old[name],
    )
    if not idle:
        return Result("ok", "queues", f"{total}, and workers fetch the old ones{unknown}")
    shown = [f"{name} ({filled[name]:,}, for {output.duration(old[name])})" for name in idle]
    workers = admin.as_object(admin.as_object(now.get("tasks")).get("Workers")).get("size")
    none = " No worker is connected." if workers == 0 else ""
    return Result(
        "warning",
        "queues",
        f"no worker seems to fetch from: {shorten(shown)}. In {passed:.1f} s none of their oldest "
        f"jobs was fetched.{none} (A paused queue, and one whose workers are busy, look the same"
        f"{unknown}.)",
        f"Start a worker with -q {idle[0]}; if it is paused, python -m faktory resume {idle[0]}; "
        f"if its jobs are not needed, python -m faktory remove {idle[0]}.",
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
