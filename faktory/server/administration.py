"""The commands about queues, sets and the server [Go: server/commands.go, mutate.go]."""

from __future__ import annotations

from time import gmtime, strftime
from typing import Final

from ..wire.session import encode_bulk
from .calls import OK, Call, Panic, Reply, bulk, dump
from .enterprise.store import EnterpriseStore
from .errors import CommandError
from .filters import compile_filter
from .go import json as go_json
from .go import time as go_time
from .go.json import INT, STRING, STRINGS, GoType, JSONError
from .go.time import SECOND
from .job import JOB
from .slices import ITEMS, Steps, chunks
from .state import ServerState

VERSION: Final = "1.10.0"
"""The version of the real server that this one is held to."""

FILTER: Final = GoType(
    "client.JobFilter", dict, {"regexp": STRING, "jobtype": STRING, "jids": STRINGS}
)
OPERATION: Final = GoType(
    "client.Operation",
    dict,
    {"filter": FILTER, "cmd": STRING, "target": GoType("client.Structure", str)},
)
BATCH: Final = GoType(
    "client.Batch",
    dict,
    {"parent_bid": STRING, "description": STRING, "success": JOB, "complete": JOB},
)
TRACK: Final = GoType(
    "client.setJobTrack",
    dict,
    {"jid": STRING, "desc": STRING, "reserve_until": STRING, "percent": INT},
)


def information(state: ServerState) -> Steps[str]:
    """Write what INFO and the page's `/stats` show, as JSON."""
    store = state.store
    now = state.clock()
    queues: dict[str, int] = {}
    for names in chunks(list(store.queues)):
        queues.update((name, len(store.queues.get(name, ()))) for name in names)
        yield
    sizes = yield from dump(queues)
    enqueued = 0
    for numbers in chunks(queues.values()):
        enqueued += sum(numbers)
        yield
    sets = {
        "dead": len(store.dead),
        "retries": len(store.retries),
        "scheduled": len(store.scheduled),
        "working": len(store.working),
    }

    def task(name: str) -> dict[str, int]:
        moved = store.enqueued.get(name, 0)
        return {"cycles": 0, "enqueued": moved, "size": sets[name.lower()], "wall_time_sec": 0}

    tasks = {
        "Busy": {"reaped": store.expired, "size": len(store.reservations)},
        **{name: task(name) for name in ("Dead", "Retries", "Scheduled")},
        "Workers": {"reaped": state.workers.reaped, "size": len(state.workers.table)},
    }
    return (
        f'{{"now":"{go_time.write(now)}",'
        f'"server_utc_time":"{strftime("%H:%M:%S UTC", gmtime(now // SECOND))}",'
        f'"faktory":{{"queues":{sizes},"sets":{go_json.dump(sets)},'
        f'"tasks":{go_json.dump(tasks)},"total_failures":{store.failures},'
        f'"total_processed":{store.processed},"total_enqueued":{enqueued},'
        f'"total_queues":{len(queues)}}},'
        f'"server":{{"description":"{store.edition}","faktory_version":"{VERSION}",'
        f'"uptime":{(now - state.started_at) // SECOND},"connections":{state.connection_count},'
        f'"command_count":{state.command_count},"used_memory_mb":0}}}}'
    )


def info(call: Call) -> Steps[Reply]:
    return encode_bulk((yield from information(call.state)).encode())


def flush(call: Call) -> Steps[Reply]:
    yield from call.state.store.flush()
    return OK


def queue(call: Call) -> Steps[Reply]:
    subcommand, *names = call.text.split(" ")
    subcommand = subcommand.upper()
    store = call.state.store
    if subcommand == "LATENCY":
        if names == ["*"]:
            raise CommandError("QUEUE LATENCY does not support wildcards")
        latencies = {}
        for number, name in enumerate(names):
            latencies[name] = _double(store.latency(name))
            if number % 100 == 99:
                yield
        return encode_bulk((yield from dump(latencies)).encode())
    if subcommand not in ("PAUSE", "RESUME", "REMOVE"):
        raise CommandError(f"no such QUEUE subcommand: {subcommand}")
    if not names:
        raise Panic
    for number, name in enumerate(list(store.queues) if names[0] == "*" else names):
        if subcommand == "PAUSE":
            store.pause(name)
        elif subcommand == "RESUME":
            store.resume(name)
        else:
            yield from store.remove(name)
        if number % ITEMS == ITEMS - 1:
            yield
    return OK


def mutate(call: Call) -> Steps[Reply]:
    if not call.begin or call.line.find(b" ", call.begin) >= 0:
        raise CommandError("invalid format")
    try:
        operation = go_json.read_struct(OPERATION, call.load())
    except JSONError as error:
        raise CommandError(str(error)) from None
    command, target = operation.get("cmd"), operation.get("target", "")
    matches = yield from compile_filter(operation.get("filter"))
    store = call.state.store
    if command == "clear":
        yield from store.discard(target, None)
    elif command == "discard":
        yield from store.discard(target, matches)
    elif command == "kill":
        yield from store.kill(target, matches)
    elif command == "requeue":
        yield from store.requeue(target, matches)
    else:
        raise CommandError("unknown mutate operation")
    return OK


def batch(call: Call) -> Reply:
    store = _enterprise(call, "batch")
    subcommand, _, rest = call.text.partition(" ")
    subcommand = subcommand.upper()
    if subcommand == "NEW":
        return encode_bulk(store.new_batch(go_json.read_struct(BATCH, go_json.load(rest))).encode())
    if subcommand == "OPEN":
        return encode_bulk(store.batches.require_open(rest).bid.encode())
    if subcommand == "COMMIT":
        store.batches.commit(rest, store.clock())
        return OK
    if subcommand == "STATUS":
        return bulk(store.batches.status(rest))
    raise CommandError(f"no such BATCH subcommand: {subcommand}")


def track(call: Call) -> Reply:
    store = _enterprise(call, "tracking")
    subcommand, _, rest = call.text.partition(" ")
    subcommand = subcommand.upper()
    if subcommand == "GET":
        return bulk(store.tracks.status(rest))
    if subcommand == "SET":
        store.report(go_json.read_struct(TRACK, go_json.load(rest)))
        return OK
    raise CommandError(f"no such TRACK subcommand: {subcommand}")


def _enterprise(call: Call, subsystem: str) -> EnterpriseStore:
    store = call.state.store
    if not isinstance(store, EnterpriseStore):
        raise CommandError(f"{subsystem} subsystem is only available in Faktory Enterprise")
    return store


def _double(value: float) -> object:
    """Return a float as `load` does, so that `dump` writes it as Go does."""
    return go_json.load(repr(value))
