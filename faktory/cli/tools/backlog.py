"""What `doctor` can tell of jobs that wait: nobody listens to their queue, or knows their type.

Rules: no job is taken to look at it. The server tells nobody which queues its workers ask for,
which queues are paused, or of which types the waiting jobs are; what is said instead is what was
seen, and that it is no more than that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import admin, output
from .checks import Finding, declared_queues, some

if TYPE_CHECKING:
    from ...client import Client

OLD_AFTER = 60.0
"""Seconds that the oldest job of a queue waits before one asks whether anybody listens."""


def queues(client: Client, watch: float) -> Finding:
    """Look twice, `watch` seconds apart, at queues whose oldest job waits for long.

    The server tells nobody which queues its workers ask for, nor which are paused.
    """
    sizes: dict[str, int] = client.info()["faktory"]["queues"]
    filled = {name: size for name, size in sizes.items() if size}
    if not filled:
        return Finding("ok", "queues", "no job waits in a queue")
    before, started = admin.latencies(client, filled), time.monotonic()
    old = {name: wait for name, wait in before.items() if wait is not None and wait >= OLD_AFTER}
    if not old and None in before.values():
        return Finding(
            "note",
            "queues",
            "the server does not say how long jobs wait, so whether anybody listens is not known",
            "See which queues grow: python -m faktory queues",
        )
    total = f"{output.jobs(sum(filled.values()))} in {output.counted(len(filled), 'queue')}"
    if not old:
        return Finding("ok", "queues", f"{total}, none waits longer than {OLD_AFTER:.0f} s")
    time.sleep(watch)
    after, passed = admin.latencies(client, dict.fromkeys(old, 1)), time.monotonic() - started
    now = client.info()["faktory"]
    slack = min(0.25, watch / 2)
    idle = sorted(
        (name for name, wait in old.items() if _stands(wait, after[name], passed, slack)),
        key=lambda name: -old[name],
    )
    if not idle:
        return Finding("ok", "queues", f"{total}, and those that wait for long are being taken")
    shown = [f"{name} ({filled[name]:,}, for {output.duration(old[name])})" for name in idle]
    workers = now.get("tasks", {}).get("Workers", {}).get("size")
    nobody = " No worker at all is connected." if workers == 0 else ""
    return Finding(
        "warning",
        "queues",
        f"nobody seems to listen to: {some(shown)}. In {passed:.1f} s of watching none of their "
        f"oldest jobs was taken.{nobody} (Paused, or behind busy workers, looks the same.)",
        f"Start a worker with -q {idle[0]}; if it is paused, python -m faktory resume {idle[0]}; "
        f"if nobody needs its jobs, python -m faktory remove {idle[0]}.",
    )


def _stands(before: float, after: float | None, passed: float, slack: float) -> bool:
    """Tell whether the oldest job is still the same: it waits longer by the time that passed."""
    return after is not None and abs(after - before - passed) < slack


def jobtypes(sizes: Mapping[str, int], modules: Sequence[str]) -> Finding:
    """Say in which queues job types may wait that the program does not register.

    No command of the protocol shows a job without taking it.
    """
    unseen = "the server shows no job's type without handing the job out"
    if not modules:
        return Finding(
            "note",
            "job types",
            f"not compared: {unseen}",
            "Name the program by -r MODULE to compare the queues of its jobs, at least.",
        )
    declared = declared_queues()
    if not declared:
        return Finding("note", "job types", "not compared: the program registers none")
    own = set(declared.values())
    foreign = sorted((name for name, size in sizes.items() if size and name not in own))
    if not foreign:
        return Finding(
            "ok", "job types", f"jobs wait in no queue but those of this program's jobs; {unseen}"
        )
    return Finding(
        "warning",
        "job types",
        f"jobs wait in queues that no job type of this program is declared for: {some(foreign)}. "
        f"They may be of types that it does not register ({unseen})",
        "A worker of this program that is given one of these queues fails the types it does not "
        "know. Leave the queue to the program that it belongs to, or add -r for the module that "
        "defines its jobs; the server's web page of the queue shows the types.",
    )
