"""The tools that bring their own server: `server` runs the embedded one, `demo` starts one."""

from __future__ import annotations

import argparse
import gc
import logging
import os
from contextlib import closing
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..exits import UsageError
from .page import Page, add_flags

if TYPE_CHECKING:
    from ...server import EmbeddedServer

_LONG_COLLECTION = 0.015
"""Seconds."""

_began = 0.0


def add_tools(add: Any) -> None:
    """Add both tools; `add` makes the parser of one."""
    server = add(
        "server",
        _server,
        "It speaks the protocol of Faktory. Its jobs are gone when it stops, unless --data names a "
        "file for them. Beyond that: the real Faktory, the same code, another URL.",
        ("", "in memory, on 127.0.0.1:7419"),
        ("--data jobs.db", "with its jobs in a file"),
        ("--bind 127.0.0.1:0 --no-web", "on a free port, which it prints"),
    )
    _add_data(server.add_argument)
    server.add_argument(
        "--bind",
        metavar="HOST:PORT",
        default="127.0.0.1:7419",
        help="the address to listen on; port 0 takes a free one (default: 127.0.0.1:7419)",
    )
    server.add_argument(
        "--password",
        default=os.environ.get("FAKTORY_PASSWORD"),
        help="require this password of clients; the list of processes shows it, so it is better to "
        "set the variable FAKTORY_PASSWORD (the default)",
    )
    server.add_argument("--tls-cert", metavar="FILE", help="use TLS with this certificate")
    server.add_argument("--tls-key", metavar="FILE", help="the certificate's key")
    server.add_argument(
        "--enterprise",
        action="store_true",
        help="support batches, tracking, unique and expiring jobs, too; approximate: made after "
        "the public documentation of Faktory Enterprise",
    )
    server.add_argument(
        "--max-memory",
        metavar="MIB",
        type=int,
        help="refuse jobs beyond about so many MiB for all stored jobs (default: no limit)",
    )
    server.add_argument(
        "--insecure",
        action="store_true",
        help="listen for other machines without a password: anyone there can push and take jobs",
    )
    server.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="log no lines about jobs that fail or are dead",
    )
    add_flags(server)
    # For a program whose server must end with it, even if it is killed: the program holds the
    # server's standard input open.
    server.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)
    demo = add(
        "demo",
        _demo,
        "It uses the server in FAKTORY_URL, if set, with queues and job types of its own; else an "
        "embedded one.",
        ("", "20,000 jobs"),
        ("--jobs 1000", "fewer"),
    )
    demo.add_argument("--jobs", metavar="N", type=int, default=20_000, help="default: 20000")


def _add_data(add: Any) -> None:
    add(
        "--data",
        metavar="FILE",
        help="keep the jobs in this file, made if it is not there: what was answered with OK is in "
        "it. One server has it at a time (default: none, in memory)",
    )
    add(
        "--sync",
        choices=("full", "normal"),
        default="full",
        help="what is answered survives a power cut (full), or only the end of the process "
        "(normal, which is faster) (default: full)",
    )
    add(
        "--check",
        action="store_true",
        help="say what is in the file of --data, which a server may be using, and end: with 1 if "
        "it is damaged or cannot be read",
    )
    add(
        "--export",
        metavar="URL",
        help="move the jobs of the file of --data to the server at this address, and end; what it "
        "does not take stays in the file, and another run goes on with that",
    )


def _server(options: argparse.Namespace) -> int:
    if options.data is None and (options.check or options.export):
        raise UsageError("--check and --export are about a file: name it with --data FILE.")
    if options.check or options.export:
        from . import datafile

        if options.check:
            return datafile.check(options.data)
        return datafile.export(options.data, options.export)
    return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    from ...server import EmbeddedServer
    from ...worker.signals import handled

    gc.callbacks.append(_freeze_what_is_many)
    lines: SimpleQueue[str | None] = SimpleQueue()
    """What is to be printed; None ends the server."""
    failures: list[Exception] = []

    def on_failure(error: Exception) -> None:
        failures.append(error)
        lines.put(None)

    server = EmbeddedServer(
        bind=options.bind,
        password=options.password,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        max_memory=options.max_memory,
        enterprise=options.enterprise,
        data=options.data,
        sync=options.sync,
    )
    server.on_failure = on_failure
    if server.is_exposed and not options.insecure:
        raise UsageError(
            f"--bind is {options.bind!r}: other machines could push and take jobs without a "
            "password. Set one with --password or FAKTORY_PASSWORD, or accept that with --insecure."
        )
    if not options.quiet:
        _log_failures()
    approximate = " Its Enterprise features are approximate." if options.enterprise else ""
    secret = f" *** is the password, from {_source(options.password)}." if options.password else ""
    kept = (
        "in memory, for development and tests only: its jobs are gone when it stops (--data FILE "
        "keeps them; production: https://contribsys.com/faktory)."
        if options.data is None
        else f"with its jobs in {options.data}, for development and one small machine (beyond "
        "that: https://contribsys.com/faktory)."
    )
    page = Page(options)
    page.bind()
    with (
        closing(page),
        handled(dict.fromkeys(("SIGTERM", "SIGINT"), lambda: lines.put(None))),
        server,
    ):
        print(
            f"An embedded Faktory server, {kept}{approximate}{secret} FAKTORY_URL={server.address}",
            flush=True,
        )
        if options.until_eof:
            Thread(target=_await_eof, args=(lines,), name="stdin", daemon=True).start()
        page.start(server, lines.put)
        while (line := lines.get()) is not None:
            print(line, flush=True)
        page.close()
    if failures:
        raise failures[0]
    if options.data is None:
        _count_gone(server)
    return 0


def _source(password: str) -> str:
    return "FAKTORY_PASSWORD" if os.environ.get("FAKTORY_PASSWORD") == password else "--password"


def _log_failures() -> None:
    """Write a line to standard error for each run that fails, until the process ends.

    By the thread of a worker's log: who does not read the lines does not stop the server.
    """
    from ...server.failures import LOGGER
    from ..worker.logs import LineHandler

    handler = LineHandler(2)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger(LOGGER)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _count_gone(server: EmbeddedServer) -> None:
    """Say how many jobs the stopped server had."""
    sizes = server.sizes
    count = sum(sizes.values())
    if count:
        parts = ", ".join(f"{size} {where}" for where, size in sizes.items() if size)
        print(f"{count} {'job is' if count == 1 else 'jobs are'} gone ({parts}).", flush=True)


def _freeze_what_is_many(phase: str, info: dict[str, int]) -> None:
    """Spare the garbage collector the stored jobs, of which it goes through all again and again.

    With a million of them that takes a third of a second, in which no client is answered. After a
    collection that took long, all that is left is excluded from later ones.
    """
    global _began
    if info["generation"] == 2:
        if phase == "start":
            _began = perf_counter()
        elif perf_counter() - _began > _LONG_COLLECTION:
            gc.freeze()


def _await_eof(lines: SimpleQueue[str | None]) -> None:
    # Not through sys.stdin: a thread that ends with its lock held is fatal to the interpreter.
    while os.read(0, 4096):
        pass
    lines.put(None)


def _demo(options: argparse.Namespace) -> int:
    from . import demo

    return demo.run(options.jobs)
