"""The tools by name: what the dispatcher looks for, and what each help lists.

Rules: it imports nothing, since a worker, a tool and a probe all import it.
"""

from __future__ import annotations

from typing import Final

WORKER: Final = "worker"
"""The name of the worker among the tools; it runs without a name, too."""

WORKER_SUMMARY: Final = "run the jobs of a program; faktory-worker does so without a tool's name"

GROUPS: Final = {
    "inspecting": {
        "doctor": "find what is wrong with a setup, and how to fix it",
        "info": "show the server's state",
        "queues": "show queues: how many jobs wait in them, and for how long the oldest",
        "top": "watch a server: its queues and sets, what is pushed, processed and fails",
        "periodic": "show when periodic jobs are due, or push them",
        "health": "ask a worker with --health whether it is ready, or alive",
    },
    "managing": {
        "push": "push a job, or many from a file",
        "pause": "stop the server from handing out jobs of queues",
        "resume": "let the server hand out jobs of paused queues again",
        "remove": "delete queues with the jobs that wait in them",
        "mutate": "change jobs that are scheduled, wait for a retry, or are dead",
        "flush": "delete all jobs of the server, in every queue and set",
    },
    "a server to try things out": {
        "server": "run an embedded server, for development and one small machine",
        "demo": "push 20,000 jobs, run them, and check that each ran as often as it should",
    },
}
"""The tools, by group, each with what it does."""

TOOLS: Final = {name: text for group in GROUPS.values() for name, text in group.items()}
