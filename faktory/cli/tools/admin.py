"""The tools that show a server's queues and sets, and change them.

Rules: a tool asks before it deletes jobs or moves them to the dead ones. An unknown queue is an
error, although the server answers OK to it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

from ...exceptions import FaktoryServerError
from ...wire.validate import QUEUE_NAME, brief, clip, show
from ..exits import Exit, ExitError, UsageError
from . import output, waiting

if TYPE_CHECKING:
    from ...client import Client

CHUNK = 100
"""Commands sent at a time: their answers must fit into the buffers of the operating system."""

DEADLINE = "context deadline exceeded"
COMMAND_TIMEOUT = "5 s"
"""What a server says that has worked on a command for so long (`server/server.go`)."""

SHOWN = ("description", "faktory_version")
"""What `info` shows of the server on its first line."""

COLOURS = {"failed": "warning", "retries": "warning", "dead": "error"}
"""Of what `info` shows, where it is not 0."""

DELETING = ("clear", "discard", "kill")
"""The operations of `mutate` after which jobs no longer run."""


def info(options: argparse.Namespace) -> int:
    """Show the server's state."""
    from ...client import Client
    from ...proto import encode_command, load_json
    from ...wire.commands import Command, expect_text

    with Client(options.url) as client:
        text = client.call(Command("INFO", encode_command("INFO"), expect_text, idempotent=True))
    state = load_json(text.encode())
    if options.json:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode() + b"\n")
        return Exit.DONE
    if not isinstance(state, dict):
        raise ExitError(Exit.FAILED, f"the answer to INFO is {show(state)}, not an object.")
    faktory, server = as_object(state.get("faktory")), as_object(state.get("server"))
    sets, queues = as_object(faktory.get("sets")), as_object(faktory.get("queues"))
    tasks = as_object(faktory.get("tasks"))
    waiting = [output.number(size) or 0 for size in queues.values()]
    up = output.number(server.get("uptime"))
    rows = [
        (
            "server",
            f"{clip(str(server.get('description')))} {clip(str(server.get('faktory_version')))}",
        ),
        ("address", str(client.faktory)),
        ("up for", "?" if up is None else output.duration(up)),
        ("its time", clip(str(state.get("now", state.get("server_utc_time"))))),
        ("connections", output.amount(server.get("connections", 0))),
        ("workers", output.amount(as_object(tasks.get("Workers")).get("size", 0))),
        ("memory", f"{output.amount(server.get('used_memory_mb', 0))} MB"),
        ("processed", output.amount(faktory.get("total_processed", 0))),
        ("failed", output.amount(faktory.get("total_failures", 0))),
        ("enqueued", f"{sum(waiting):,} in {output.counted(len(queues), 'queue')}"),
        *((clip(name), output.amount(size)) for name, size in sorted(sets.items())),
    ]
    for name, value in rows:
        line = output.escape(f"{name:12} {value}")
        print(output.paint(line, COLOURS.get(name, "") if value not in ("0", "?") else ""))
    return Exit.DONE


def as_object(value: object) -> dict[str, Any]:
    """Return a dict as it is, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


class State(NamedTuple):
    """What INFO says about jobs: the sizes of queues and sets."""

    queues: dict[str, int]
    sets: dict[str, int]


def read_state(info: Mapping[str, Any]) -> State:
    """Return the sizes of an INFO; ExitError says what is odd about it."""
    faktory = info.get("faktory")
    if not isinstance(faktory, dict):
        raise _odd("faktory", faktory, "an object")
    return State(_counts(faktory, "queues"), _counts(faktory, "sets"))


def _counts(faktory: Mapping[str, Any], name: str) -> dict[str, int]:
    counts = faktory.get(name)
    if not isinstance(counts, dict):
        raise _odd(f"faktory.{name}", counts, "an object")
    for key, count in counts.items():
        if not isinstance(count, int) or output.number(count) is None or count < 0:
            raise _odd(f"faktory.{name}[{brief(key)}]", count, "a number of jobs")
    return counts


def _odd(place: str, value: object, expected: str) -> ExitError:
    return ExitError(
        Exit.FAILED,
        f"the server's answer to INFO is odd: {place} is {show(value)}, not {expected}. "
        "See all of it: faktory-worker info --json",
    )


def queues(options: argparse.Namespace) -> int:
    """Show queues: how many jobs wait in them, and for how long."""
    from ...client import Client

    with Client(options.url) as client:
        sizes = _sizes(client)
        chosen = {name: sizes[name] for name in check_known(options.names, sizes) or sorted(sizes)}
        ages = latencies(client, chosen)
    if options.json:
        output.show_json(
            [
                {"name": name, "size": size, "latency": ages.get(name)}
                for name, size in chosen.items()
            ]
        )
    elif not chosen:
        print("The server has no queues.")
    else:
        rows = [
            (output.escape(name), f"{size:,}", _age(size, ages.get(name)))
            for name, size in chosen.items()
        ]
        output.show(output.table(("queue", "jobs", "oldest waits"), rows))
    return Exit.DONE


def _age(size: int, seconds: float | None) -> str:
    if not size:
        return "-"
    return "?" if seconds is None else output.duration(seconds)


def latencies(client: Client, sizes: dict[str, int]) -> dict[str, float | None]:
    """Return for how many seconds the oldest job of each queue has waited, None if unknown.

    Each queue has a command of its own: a job without a date makes the server refuse the whole
    command (`server/commands.go: queueLatency`).
    """
    from ...wire import commands

    ages: dict[str, float | None] = {name: None if size else 0.0 for name, size in sizes.items()}
    names = [name for name, size in sizes.items() if size and QUEUE_NAME.fullmatch(name)]
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        answers = client.exchange(*(commands.queue_latency([name]) for name in chunk))
        for name, answer in zip(chunk, answers, strict=True):
            if answer.error is None:
                ages[name] = output.number(answer.value.get(name))
    return ages


def pause(options: argparse.Namespace) -> int:
    """Stop the server from handing out jobs of queues."""
    return _change(options, "paused", lambda client, names: client.pause_queues(*names))


def resume(options: argparse.Namespace) -> int:
    """Let the server hand out jobs of paused queues again."""
    return _change(options, "resumed", lambda client, names: client.resume_queues(*names))


def _change(
    options: argparse.Namespace, done: str, change: Callable[[Client, list[str]], None]
) -> int:
    from ...client import Client

    _check_names(options)
    with Client(options.url) as client:
        sizes = _sizes(client)
        names = check_known(options.names, sizes)
        change(client, ["*"] if options.all else names)
    output.show(
        f"{done}: {', '.join(names or sorted(sizes)) or 'nothing, the server has no queues'}"
    )
    return Exit.DONE


def remove(options: argparse.Namespace) -> int:
    """Delete queues and their jobs."""
    from ...client import Client

    _check_names(options)
    with Client(options.url) as client:
        sizes = _sizes(client)
        names = check_known(options.names, sizes) or sorted(sizes)
        total = sum(sizes[name] for name in names)
        what = f"{len(names)} queues" if len(names) > 5 else f"queue {', '.join(names)}"
        output.confirm(f"Delete {what} of {client.faktory} with {output.jobs(total)}?", options.yes)
        with waiting.shown(options.url, "removing", total, _waiting_in(names)):
            client.remove_queues(*(["*"] if options.all else names))
    output.show(f"removed: {', '.join(names) or 'nothing, the server has no queues'}")
    return Exit.DONE


def mutate(options: argparse.Namespace) -> int:
    """Change the jobs of a set."""
    from ...client import Client
    from ...wire import commands

    filters = [("jobtype", options.jobtype), ("jid", options.jid), ("matching", options.matching)]
    chosen = [f"{name} {_listed(value)}" for name, value in filters if value is not None]
    if options.operation == "clear" and chosen:
        raise UsageError("clear deletes all jobs of a set; use discard with a filter.")
    command = commands.mutate(
        options.operation, options.target, options.jobtype, options.jid, options.matching
    )
    assert command is not None  # a command line has no empty list of jids
    with Client(options.url) as client:
        before = _set_size(client, options.target)
        if options.operation in DELETING:
            which = f"those with {' and '.join(chosen)}" if chosen else "all"
            output.confirm(
                f"{options.operation.capitalize()} {which} of the {output.jobs(before)} in the "
                f"set {options.target} of {client.faktory}?",
                options.yes,
            )
        try:
            with waiting.shown(options.url, "changing", before, _left_in(options.target)):
                client.call(command)
        except KeyboardInterrupt:
            text = "interrupted; the server may go on with it. Its sets: faktory-worker info"
            raise ExitError(Exit.INTERRUPTED, text) from None
        except FaktoryServerError as error:
            if DEADLINE not in error.message:
                raise
            after = _set_size(client, options.target)
            raise ExitError(
                Exit.FAILED,
                f"the server has stopped in the middle, as it has {COMMAND_TIMEOUT} for a command "
                f"({clip(error.message)}); {options.target}: {output.jobs(before)} before, "
                f"{after:,} after. The same command again goes on.",
            ) from None
        after = _set_size(client, options.target)
    if options.json:
        output.show_json({"target": options.target, "before": before, "after": after})
    else:
        print(f"{options.target}: {output.jobs(before)} before, {after:,} after")
    return Exit.DONE


def flush(options: argparse.Namespace) -> int:
    """Delete all jobs."""
    from ...client import Client

    with Client(options.url) as client:
        state = read_state(client.info())
        kept = {"enqueued": sum(state.queues.values()), **state.sets}
        counts = ", ".join(f"{size:,} {name}" for name, size in kept.items())
        output.confirm(f"Delete every job of {client.faktory} ({counts})?", options.yes)
        client.flush()
    print(f"flushed {client.faktory}")
    return Exit.DONE


def _listed(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _check_names(options: argparse.Namespace) -> None:
    if bool(options.names) == options.all:
        raise UsageError("name the queues, or choose all of them by --all.")


def _waiting_in(names: list[str]) -> Callable[[Client], int]:
    def left(client: Client) -> int:
        sizes = _sizes(client)
        return sum(sizes.get(name, 0) for name in names)

    return left


def _left_in(target: str) -> Callable[[Client], int]:
    return lambda client: _set_size(client, target)


def _sizes(client: Client) -> dict[str, int]:
    return read_state(client.info()).queues


def _set_size(client: Client, name: str) -> int:
    return read_state(client.info()).sets.get(name, 0)


def check_known(names: Iterable[str], sizes: dict[str, int]) -> list[str]:
    """Return the names without repetitions; raise ExitError if the server does not know one."""
    names = list(dict.fromkeys(names))
    for name in names:
        if name not in sizes:
            close = get_close_matches(name, sizes, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ExitError(
                Exit.FAILED,
                f"the server has no queue {name!r}: the first job makes it.{hint}",
            )
    return names
