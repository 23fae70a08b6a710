"""The flags of `faktory-worker`: one table for the command line, the variables and the file.

Rules: a flag is declared here and nowhere else, with the type of its value and its default; the
help, docs/commands.md and the completions of shells are made of this table, too.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .values import (
    FORMAT,
    HEALTH,
    LEVEL,
    LIMIT,
    NUMBER,
    QUEUES,
    SECONDS,
    SWITCH,
    TEXT,
    TEXTS,
    ValueType,
)

PREFIX: Final = "FAKTORY_WORKER_"
"""The beginning of a variable's name."""


class Flag(NamedTuple):
    """A flag; its variable and its key in the file have its long name."""

    group: str
    short: str
    name: str
    metavar: str
    value_type: ValueType
    default: object
    help: str
    of_client: str = ""
    """The variable that clients read, in place of one of the worker's and of a key of the file."""

    @property
    def variable(self) -> str:
        """The variable of the same meaning: FAKTORY_WORKER_MAX_JOBS."""
        return self.of_client or PREFIX + self.name.upper().replace("-", "_")

    @property
    def attribute(self) -> str:
        """The option's name: max_jobs."""
        return self.name.replace("-", "_")


JOBS, SERVER, PROCESS, FILE, LOG = "jobs", "server", "processes", "configuration", "names and logs"

FLAGS: Final = (
    Flag(
        JOBS, "-r", "require", "MODULE", TEXTS, [],
        "what defines the jobs: a module, a package, with every jobs.py and tasks.py below it, a "
        ".py file, or a folder, as ., ./app or app/; may be repeated",
    ),
    Flag(
        JOBS, "-q", "queue", "NAME[,WEIGHT][,limit=N]", QUEUES, [],
        "a queue to fetch from, in this order, or by weight, with at most N of its jobs at a time; "
        "may be repeated; '*' stands for default and all that the jobs declare (default: '*')",
    ),
    Flag(
        JOBS, "-c", "concurrency", "N", NUMBER, 10,
        "how many jobs run at a time, each on a thread (default: 10)",
    ),
    Flag(
        JOBS, "-t", "timeout", "SECONDS", SECONDS, 25.0,
        "how long running jobs may go on after TERM (default: 25)",
    ),
    Flag(
        JOBS, "", "time-limit", "SECONDS", LIMIT, None,
        "raise TimeLimitExceeded in a job after so long, if neither its declaration nor its push "
        "has a time_limit",
    ),
    Flag(
        JOBS, "", "burst", "", SWITCH, False,
        "end with 0 when the queues are empty and no job runs; jobs that are scheduled or wait for "
        "a retry do not count: for cron and CI",
    ),
    Flag(
        JOBS, "", "no-periodic", "", SWITCH, False,
        "do not push the periodic jobs that the program declares; without this each worker does",
    ),
    Flag(
        JOBS, "", "give-back", "", SWITCH, False,
        "jobs that are interrupted because the worker stops do not fail by that: they run again "
        "a few seconds later, and that uses up no attempt",
    ),
    Flag(
        JOBS, "", "loop-factory", "MODULE:NAME", TEXT, None,
        "what makes the event loop of async jobs: uvloop:new_event_loop (default: asyncio's)",
    ),
    Flag(
        SERVER, "", "url", "URL", TEXT, None,
        "the server's address, also for a program that configures another; the list of processes "
        "shows it, so one with a password is better in the variable FAKTORY_URL",
        "FAKTORY_URL",
    ),
    Flag(
        PROCESS, "", "processes", "N", NUMBER, None,
        "start N workers, each with -c threads, under a supervisor that restarts one that ends; "
        "Python runs one thread at a time, so this is how to use more than one core",
    ),
    Flag(
        PROCESS, "", "max-jobs", "N", NUMBER, None,
        "a worker ends after N jobs, when those that run have finished; with --processes another "
        "takes its place: for jobs that leak memory",
    ),
    Flag(
        PROCESS, "", "max-memory", "MIB", NUMBER, None,
        "the same after the job with which the process exceeds so many MiB of resident memory",
    ),
    Flag(
        PROCESS, "", "reload", "", SWITCH, False,
        "for development: restart when a .py file below this folder is saved; running jobs "
        "finish first (needs: pip install 'faktory-worker[reload]')",
    ),
    Flag(
        PROCESS, "", "health", "ADDRESS", HEALTH, None,
        "answer /livez, /readyz and /metrics by HTTP on this port of 127.0.0.1, or on host:port; "
        "with --processes for all workers; 0 takes a free port, which the log names",
    ),
    Flag(
        FILE, "-C", "config", "FILE", TEXT, None,
        "read the options that are not given here from this TOML file; its keys are the long flags "
        "(default: [tool.faktory-worker] of pyproject.toml in the current folder, if it is there)",
    ),
    Flag(
        FILE, "-e", "env", "ENV", TEXT, None,
        "the table of the file that overrides the keys at its top: production, for [production] or "
        "[tool.faktory-worker.production]",
    ),
    Flag(
        LOG, "-l", "label", "LABEL", TEXTS, [],
        'shown beside this worker in the server\'s pages; may be repeated (default: "python")',
    ),
    Flag(
        LOG, "-g", "tag", "TAG", TEXT, "",
        "shown in the process's title, which needs the extra proctitle",
    ),
    Flag(
        LOG, "", "log-format", "FORMAT", FORMAT, "text",
        "text, or json: every line a JSON object (default: text)",
    ),
    Flag(
        LOG, "", "log-level", "LEVEL", LEVEL, "INFO",
        "the least level that is logged: debug, info, warning, error, critical (default: info)",
    ),
    Flag(LOG, "-v", "verbose", "", SWITCH, False, "log debug messages, too: --log-level debug"),
    Flag(
        LOG, "", "plain", "", SWITCH, False,
        "no colours and no status line, also on a terminal",
    ),
)  # fmt: skip

FILE_KEYS: Final = {
    flag.name: flag for flag in FLAGS if flag.group is not FILE and not flag.of_client
}
"""The flags that a file may set."""
