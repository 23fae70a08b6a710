"""`top`: a server's queues, sets, workers and rates, read again and again.

Rules: on a terminal it is one screen, redrawn in place where something has changed, by the extra
`cli`; anywhere else a block of lines for each reading. A server that does not answer at first ends
the tool, as it does the others; later that is shown, and the tool goes on.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from .. import terminal
from ..exits import Exit
from . import admin, output, readings
from .arguments import add_json
from .frame import MAX_QUEUES, frame, plain, room_for_queues
from .readings import Reading, Seen, Watcher

if TYPE_CHECKING:
    from ...client import Client

INTERVAL: Final = 2.0
JSON_INTERVAL: Final = 1.0
LEAST_INTERVAL: Final = 0.1
"""Seconds between readings."""

WIDTH: Final = 100
"""Columns of lines that go to no terminal."""

LATE: Final = 3.0
"""Seconds after which a reading is late, and the screen says so."""

_QUIT: Final = frozenset(b"qQ\x03\x04")
"""Keys that end it, Ctrl-C and Ctrl-D where they are mere keys, too."""


def add_tool(tool: Any) -> None:
    """Add it to the parser."""
    add = tool(
        "top",
        run,
        "On a terminal it redraws one screen until q or Ctrl-C (with the extra `cli`), else it "
        "prints lines for each reading. Rates are those since the reading before.",
        ("-d 5 images mail", "these queues, every five seconds"),
        ("--json", "one reading for programs, with rates"),
    )
    add("names", metavar="QUEUE", nargs="*", help="only these queues (default: the largest)")
    add(
        "-d",
        "--interval",
        metavar="SECONDS",
        type=_interval,
        help="time between two readings (default: 2, with --json 1)",
    )
    add("-n", "--count", metavar="N", type=_count, help="end after so many readings")
    add("--plain", action="store_true", help="print lines, on a terminal too")
    add_json(add, "one reading, as info --json has it, with rates and latencies")


def _interval(text: str) -> float:
    with suppress(ValueError):
        if LEAST_INTERVAL <= float(text) <= 86_400:
            return float(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a number of seconds from {LEAST_INTERVAL} to 86400"
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10**9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Watch a server, until it is enough."""
    from ...client import Client

    client = Client(options.url)
    if options.json:
        with client:
            return _show_json(client, options)
    show = _show_screen if not options.plain and _has_screen() else _show_lines
    with suppress(KeyboardInterrupt):
        show(client, options)
    return Exit.DONE


def _has_screen() -> bool:
    """Return whether standard output is a terminal that can be redrawn; say it if rich lacks."""
    if not terminal.can_redraw(sys.stdout):
        return False
    if terminal.has_rich():
        return True
    text = "one screen needs the extra: pip install 'faktory-worker[cli]'"
    print(f"faktory-worker top: these are lines; {text}", file=sys.stderr)
    return False


def _title(client: Client) -> str:
    return f"{client.faktory.place}{' (TLS)' if client.faktory.tls else ''}"


def _first(client: Client, options: argparse.Namespace, limit: int) -> Reading:
    reading = readings.read(client, options.names, limit)
    admin.check_known(options.names, reading.state.queues)
    return reading


def _show_json(client: Client, options: argparse.Namespace) -> int:
    first = _first(client, options, 0)
    time.sleep(options.interval or JSON_INTERVAL)
    last = readings.read(client, options.names, None)
    output.show_json(
        {
            **last.info,
            "rates": {
                name: rate if rate is None else round(rate, 6)
                for name, rate in readings.rates(first, last)._asdict().items()
            },
            "latencies": last.latencies,
        }
    )
    return Exit.DONE


def _show_lines(client: Client, options: argparse.Namespace) -> None:
    with client:
        seen = Seen(_first(client, options, MAX_QUEUES))
        left = options.count or 0
        while True:
            began = time.monotonic()
            if not seen.problem:
                width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                print(f"{plain(frame(seen, _title(client), width, hint=now))}\n", flush=True)
                left -= 1
                # What reads this has ended: so does this.
                if left == 0 or getattr(sys.stdout, "error", None) is not None:
                    return
            time.sleep(max(0.0, began + (options.interval or INTERVAL) - time.monotonic()))
            before, seen = seen, readings.look(client, options.names, MAX_QUEUES, seen)
            if seen.problem and not before.problem:
                text = output.escape(seen.problem)
                print(f"no answer, trying again: {text}", file=sys.stderr, flush=True)


def _show_screen(client: Client, options: argparse.Namespace) -> None:
    from .screen import Ended, Screen

    first = _first(client, options, room_for_queues(24))
    watcher: Watcher | None = None
    with suppress(Ended), _no_log(), Screen() as screen:
        interval = options.interval or INTERVAL
        watcher = Watcher(client, options.names, interval, first, screen.wake)
        hint = f"every {interval:g} s, q ends it"
        watcher.start()
        try:
            while watcher.error is None:
                columns, lines = screen.size
                watcher.rows = room_for_queues(lines)
                seen = watcher.seen
                note = _note(seen, interval)
                screen.draw(frame(seen, _title(client), columns, lines, hint, note))
                if options.count and watcher.count >= options.count:
                    break
                if set(screen.wait(interval + LATE)) & _QUIT:
                    break
        finally:
            watcher.stop()
            if not watcher.is_alive():  # else it has the client
                client.close()
    if watcher is not None and watcher.error is not None:
        raise watcher.error


@contextmanager
def _no_log() -> Iterator[None]:
    """Keep the lines of this package's log, which go to the terminal by default, off the screen."""
    log, handler = logging.getLogger("faktory"), logging.NullHandler()
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def _note(seen: Seen, interval: float) -> str:
    """Return why the numbers are old, empty if they are not."""
    since = f"no answer since {time.strftime('%H:%M:%S', time.localtime(seen.since))}"
    if seen.problem:
        return f"{since}, trying again: {seen.problem}"
    is_late = time.monotonic() - seen.latest.at > interval + LATE
    return f"{since}, waiting for one" if is_late else ""
