"""The commands: one small function for each [Go: server/commands.go, mutate.go].

Rules: a command line goes in and one reply comes out, except that FETCH may have to wait and that
END has none. There is no socket here, and no clock but the state's.

Deliberate differences from the real server:

- a job without `retry` gets 25, not the `retry` of the job before it;
- scheduled jobs, retries, expired reservations and silent workers are dealt with when they are due,
  not at the next tick of 5 or 15 seconds;
- a FETCH whose connection is closed while it waits takes no job;
- of a name that stands twice in one JSON object the later one counts; nesting ends at some 1,000
  levels, not at 10,000;
- errors about broken JSON name the problem in words of their own, after "invalid JSON: ";
- line ends in an error become spaces; they break the real server's reply in two;
- INFO reports no memory and no cycles of the tasks; MUTATE goes through a set in order;
- PUSHB has no time limit, but commands have a length limit.

The commands of Faktory Enterprise are approximated where it is switched on: see `enterprise/`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import gmtime, strftime
from typing import Any, Final, NamedTuple

from ..wire.session import encode_bulk, encode_error, encode_simple
from .enterprise.store import EnterpriseStore
from .go import json as go_json
from .go import time as go_time
from .go.json import INT, STRING, STRINGS, GoType, JSONError
from .go.time import SECOND
from .job import JOB, StoredJob
from .state import ServerState
from .store import CommandError, compile_filter
from .workers import ClientRecord

VERSION: Final = "1.10.0"
"""The version of the real server that this one is held to."""

JOBS: Final = GoType("[]client.Job", list, items=JOB)
FAIL: Final = GoType(
    "manager.FailPayload",
    dict,
    {"jid": STRING, "message": STRING, "errtype": STRING, "backtrace": STRINGS},
)
BEAT: Final = GoType(
    "server.ClientBeat", dict, {"current_state": STRING, "wid": STRING, "rss_kb": INT}
)
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

OK: Final = encode_simple("OK")


class Wait(NamedTuple):
    """The reply to a FETCH that finds no job: wait for one from these queues."""

    queues: list[str]


class Panic(Exception):
    """The real server panics here and replies "internal error" [Go: safeDispatch]."""


class Call(NamedTuple):
    """One command; `rest` is what follows the verb and a space, None without a space."""

    state: ServerState
    client: ClientRecord
    rest: bytes | None

    @property
    def text(self) -> str:
        """The text after the verb; the real server panics without one."""
        if self.rest is None:
            raise Panic
        return go_json.decode(self.rest)

    @property
    def echo(self) -> str:
        """The text after the verb, so that an error can repeat it byte for byte."""
        return _echo(self.rest or b"")


Reply = bytes | Wait | None
Handler = Callable[[Call], Reply]


def execute(state: ServerState, client: ClientRecord, line: bytes) -> Reply:
    """Execute a command of this client; without a reply (None) the connection is to be closed."""
    verb, space, rest = line.partition(b" ")
    handler = COMMANDS.get(verb)
    if handler is None:
        return encode_error(f"unknown command {_echo(verb)}")
    state.command_count += 1
    store = state.store
    if store.unserved:
        store.serve()
    try:
        return handler(Call(state, client, rest if space else None))
    except CommandError as error:
        return encode_error(str(error), error.code)
    except JSONError as error:
        return encode_error(f"invalid JSON: {error}")
    except Panic:
        return encode_error("internal error")


def push(call: Call) -> Reply:
    call.state.store.push(StoredJob(_read(JOB, call.text)))
    return OK


def push_bulk(call: Call) -> Reply:
    # All are read before the first is queued: if one is malformed, none is queued.
    jobs = [StoredJob(fields) for fields in go_json.read_structs(JOBS, go_json.load(call.text))]
    refused = {}
    for job in jobs:
        try:
            call.state.store.push(job)
        except CommandError as error:
            refused[job.jid] = str(error) if error.code == "ERR" else f"{error.code} {error}"
    return _bulk(refused)


def fetch(call: Call) -> Reply:
    if call.client.state:
        return Wait([])
    if call.rest is None:
        raise CommandError("must call fetch with at least one queue")
    store = call.state.store
    queues = store.active(call.echo.split(" "))
    payload = store.fetch(call.client.wid, queues)
    return Wait(queues) if payload is None else encode_bulk(payload)


def ack(call: Call) -> Reply:
    text = call.text
    try:
        fields = go_json.load(text)
        if type(fields) is not dict or not all(
            value is None or type(value) is str for value in fields.values()
        ):
            raise ValueError
        jid = fields["jid"]
    except (ValueError, KeyError):  # JSONError is a ValueError
        raise CommandError(f"invalid ACK {call.echo}") from None
    call.state.store.acknowledge(jid or "")
    return OK


def fail(call: Call) -> Reply:
    text = call.text
    try:
        get = _read(FAIL, text).get
    except JSONError:
        raise CommandError(f"invalid FAIL {call.echo}") from None
    call.state.store.fail(
        get("jid", ""), get("errtype", ""), get("message", ""), get("backtrace", [])
    )
    return OK


def beat(call: Call) -> Reply:
    text = call.text
    try:
        get = _read(BEAT, text).get
    except JSONError:
        raise CommandError(f"invalid BEAT {call.echo}") from None
    wid = get("wid", "")
    worker = call.state.workers.beat(
        wid, get("current_state", ""), get("rss_kb", 0), call.state.clock()
    )
    if worker is None:
        raise CommandError(f"unknown worker {wid}")
    return _bulk({"state": worker.state}) if worker.state else OK


def info(call: Call) -> Reply:
    state = call.state
    store = state.store
    now = state.clock()
    queues = {name: len(queue) for name, queue in store.queues.items()}
    sets = {
        "dead": len(store.dead),
        "retries": len(store.retries),
        "scheduled": len(store.scheduled),
        "working": len(store.working),
    }

    def task(name: str) -> dict[str, int]:
        enqueued = store.enqueued.get(name, 0)
        return {"cycles": 0, "enqueued": enqueued, "size": sets[name.lower()], "wall_time_sec": 0}

    tasks = {
        "Busy": {"reaped": store.expired, "size": len(store.reservations)},
        **{name: task(name) for name in ("Dead", "Retries", "Scheduled")},
        "Workers": {"reaped": state.workers.reaped, "size": len(state.workers.table)},
    }
    data = (
        f'{{"now":"{go_time.write(now)}",'
        f'"server_utc_time":"{strftime("%H:%M:%S UTC", gmtime(now // SECOND))}",'
        f'"faktory":{{"queues":{go_json.dump(queues)},"sets":{go_json.dump(sets)},'
        f'"tasks":{go_json.dump(tasks)},"total_failures":{store.failures},'
        f'"total_processed":{store.processed},"total_enqueued":{sum(queues.values())},'
        f'"total_queues":{len(queues)}}},'
        f'"server":{{"description":"{store.edition}","faktory_version":"{VERSION}",'
        f'"uptime":{(now - state.started_at) // SECOND},"connections":{state.connection_count},'
        f'"command_count":{state.command_count},"used_memory_mb":0}}}}'
    )
    return encode_bulk(data.encode())


def flush(call: Call) -> Reply:
    call.state.store.flush()
    return OK


def end(_call: Call) -> Reply:
    return None


def queue(call: Call) -> Reply:
    subcommand, *names = call.text.split(" ")
    subcommand = subcommand.upper()
    store = call.state.store
    if subcommand == "LATENCY":
        if names == ["*"]:
            raise CommandError("QUEUE LATENCY does not support wildcards")
        return _bulk({name: _double(store.latency(name)) for name in names})
    change = {"PAUSE": store.pause, "RESUME": store.resume, "REMOVE": store.remove}.get(subcommand)
    if change is None:
        raise CommandError(f"no such QUEUE subcommand: {subcommand}")
    if not names:
        raise Panic
    for name in list(store.queues) if names[0] == "*" else names:
        change(name)
    return OK


def mutate(call: Call) -> Reply:
    if call.rest is None or b" " in call.rest:
        raise CommandError("invalid format")
    text = call.text
    try:
        operation = _read(OPERATION, text)
    except JSONError as error:
        raise CommandError(str(error)) from None
    command, target = operation.get("cmd"), operation.get("target", "")
    matches = compile_filter(operation.get("filter"))
    store = call.state.store
    if command == "clear":
        store.discard(target, None)
    elif command == "discard":
        store.discard(target, matches)
    elif command == "kill":
        store.kill(target, matches)
    elif command == "requeue":
        store.requeue(target, matches)
    else:
        raise CommandError("unknown mutate operation")
    return OK


def batch(call: Call) -> Reply:
    store = _enterprise(call, "batch")
    subcommand, _, rest = call.text.partition(" ")
    subcommand = subcommand.upper()
    if subcommand == "NEW":
        return encode_bulk(store.new_batch(_read(BATCH, rest)).encode())
    if subcommand == "OPEN":
        return encode_bulk(store.batches.require_open(rest).bid.encode())
    if subcommand == "COMMIT":
        store.batches.commit(rest, store.clock())
        return OK
    if subcommand == "STATUS":
        return _bulk(store.batches.status(rest))
    raise CommandError(f"no such BATCH subcommand: {subcommand}")


def track(call: Call) -> Reply:
    store = _enterprise(call, "tracking")
    subcommand, _, rest = call.text.partition(" ")
    subcommand = subcommand.upper()
    if subcommand == "GET":
        return _bulk(store.tracks.status(rest))
    if subcommand == "SET":
        store.report(_read(TRACK, rest))
        return OK
    raise CommandError(f"no such TRACK subcommand: {subcommand}")


def _enterprise(call: Call, subsystem: str) -> EnterpriseStore:
    store = call.state.store
    if not isinstance(store, EnterpriseStore):
        raise CommandError(f"{subsystem} subsystem is only available in Faktory Enterprise")
    return store


COMMANDS: Final[dict[bytes, Handler]] = {
    b"ACK": ack,
    b"BATCH": batch,
    b"BEAT": beat,
    b"END": end,
    b"FAIL": fail,
    b"FETCH": fetch,
    b"FLUSH": flush,
    b"INFO": info,
    b"MUTATE": mutate,
    b"PUSH": push,
    b"PUSHB": push_bulk,
    b"QUEUE": queue,
    b"TRACK": track,
}


def _echo(data: bytes) -> str:
    """Return text that `encode_error` turns into the same bytes again."""
    return data.decode("utf-8", "surrogateescape")


def _read(kind: GoType, text: str) -> dict[str, Any]:
    return go_json.read_struct(kind, go_json.load(text))


def _bulk(value: object) -> bytes:
    return encode_bulk(go_json.dump(value).encode())


def _double(value: float) -> object:
    """Return a float as `load` does, so that `dump` writes it as Go does."""
    return go_json.load(repr(value))
