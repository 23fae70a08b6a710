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
- PUSHB and MUTATE have no time limit;
- what takes long is done in slices: other connections may fetch the first jobs of a PUSHB before
  it is answered, see a MUTATE, FLUSH or QUEUE half done, and get numbers of different moments from
  an INFO about thousands of queues. (The real server interleaves the same commands, between its
  calls to Redis.) Each job is queued, moved or deleted as a whole; nothing of a PUSHB is queued
  before all of it has been read;
- there are limits, whose errors name them: bytes of a command (`state.py`, and `LONG_COMMANDS` for
  those without much to say), queues of a FETCH, jobs of a PUSHB, bytes of a pattern
  (`sorted_set.py`), keys, digits and bytes of long JSON (`go/long.py`), and the memory for jobs if
  it is set.

The commands of Faktory Enterprise are approximated where it is switched on: see `enterprise/`.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Final

from ..wire.log import Log
from ..wire.session import encode_bulk, encode_error
from .administration import batch, flush, info, mutate, queue, track
from .calls import LIMIT, MAX_ECHO, OK, REPLY, Call, Handler, Panic, Reply, Wait, bulk, dump, echo
from .errors import CommandError
from .go import json as go_json
from .go.json import INT, STRING, STRINGS, GoType, JSONError
from .go.long import LONG, load_in_slices
from .job import JOB, StoredJob, move_expiry
from .slices import Steps, finish
from .state import ServerState
from .workers import ClientRecord

JOBS: Final = GoType("[]client.Job", list, items=JOB)
FAIL: Final = GoType(
    "manager.FailPayload",
    dict,
    {"jid": STRING, "message": STRING, "errtype": STRING, "backtrace": STRINGS},
)
BEAT: Final = GoType(
    "server.ClientBeat", dict, {"current_state": STRING, "wid": STRING, "rss_kb": INT}
)
LONG_COMMANDS: Final = frozenset((b"ACK", b"FAIL", b"MUTATE", b"PUSH", b"PUSHB"))
"""The commands that may have more than LONG bytes."""

MAX_QUEUES: Final = 1000
"""Queues of a FETCH: each one that waits costs memory, and time whenever it ends."""

MAX_JOBS: Final = 1_000_000
"""Jobs of a PUSHB, for each of which the reply may hold an error."""

_log = Log(logging.getLogger("faktory.server"))


def execute(state: ServerState, client: ClientRecord, line: bytes) -> Reply:
    """Execute a command of this client; without a reply (None) the connection is to be closed."""
    reply = start(state, client, line)
    return reply if isinstance(reply, REPLY) else finish(reply)


def start(state: ServerState, client: ClientRecord, line: bytes) -> Reply | Steps[Reply]:
    """As `execute`, but what may take long is returned as steps, which return the reply."""
    begin = line.find(b" ") + 1
    verb = line[: begin - 1 if 0 < begin < 64 else 64]
    handler = COMMANDS.get(verb)
    if handler is None:
        return encode_error(f"unknown command {echo(line[:MAX_ECHO].partition(b' ')[0])}")
    state.command_count += 1
    store = state.store
    if store.unserved:
        store.serve()
    call = Call(state, client, line, begin)
    try:
        reply = handler(call) if len(line) <= LONG else _execute_long(verb, handler, call)
    except Exception as error:
        return _refusal(error)
    if type(reply) is bytes:  # most are, and this is quick
        return reply
    return reply if isinstance(reply, REPLY) else _guarded(reply)


def _execute_long(verb: bytes, handler: Handler, call: Call) -> Steps[Reply]:
    if verb not in LONG_COMMANDS:
        raise CommandError(f"{verb.decode()} is longer than {LONG} bytes: {LIMIT}")
    if handler is not push_bulk:
        try:
            loaded = yield from load_in_slices(call.line, call.begin)
        except JSONError as error:
            loaded = error
        call = call._replace(loaded=loaded)
    reply = handler(call)
    return reply if isinstance(reply, REPLY) else (yield from reply)


def _guarded(steps: Steps[Reply]) -> Steps[Reply]:
    try:
        return (yield from steps)
    except Exception as error:
        return _refusal(error)


def _refusal(error: Exception) -> bytes:
    """Return the reply to a command that raised; no error ends a connection."""
    if isinstance(error, CommandError):
        return encode_error(str(error), error.code)
    if isinstance(error, JSONError):
        return encode_error(f"invalid JSON: {error}")
    if not isinstance(error, Panic):
        _log.exception("a fault of the embedded server itself", exc_info=error)
    return encode_error("internal error")


def _read_job(call: Call, fields: Any, path: str = "") -> StoredJob:
    job = StoredJob(go_json.read_struct(JOB, fields, path))
    if call.state.offset:
        move_expiry(job, call.state.offset)
    return job


def push(call: Call) -> Reply:
    job = _read_job(call, call.load())
    store = call.state.store
    if store.quota is not None:
        store.check(job)
        store.quota.charge(job)
    store.push(job)
    return OK


def push_bulk(call: Call) -> Steps[Reply]:
    # All are read before the first is queued: if one is malformed, none is queued.
    store = call.state.store
    jobs: deque[StoredJob] = deque()
    refused: dict[str, str] = {}
    count = 0

    def take(item: Any) -> None:
        nonlocal count
        job = _read_job(call, item, f".{count}")
        count += 1
        if count > MAX_JOBS:
            raise CommandError(f"a PUSHB has more than {MAX_JOBS} jobs: {LIMIT}")
        try:
            store.check(job)
            if store.quota is not None:
                store.quota.charge(job)
        except CommandError as error:
            refused[job.jid] = str(error)
        else:
            jobs.append(job)

    if len(call.line) > LONG:
        value = yield from load_in_slices(call.line, call.begin, take)
    else:
        value = call.load()
        if type(value) is list:
            for item in value:
                take(item)
    if type(value) is not list:
        go_json.read_structs(JOBS, value)  # null, or it raises what is wrong
    while jobs:
        job = jobs.popleft()
        try:
            store.push(job)
        except CommandError as error:
            refused[job.jid] = str(error) if error.code == "ERR" else f"{error.code} {error}"
        if len(jobs) % 20 == 0:
            yield
    return encode_bulk((yield from dump(refused)).encode())


def fetch(call: Call) -> Reply:
    if call.client.state:
        return Wait([])
    if not call.begin:
        raise CommandError("must call fetch with at least one queue")
    names = echo(call.line[call.begin :]).split(" ")
    if len(names) > MAX_QUEUES:
        raise CommandError(f"a FETCH has more than {MAX_QUEUES} queues: {LIMIT}")
    store = call.state.store
    queues = store.active(names)
    payload = store.fetch(call.client.wid, queues)
    return Wait(queues) if payload is None else encode_bulk(payload)


def ack(call: Call) -> Reply:
    try:
        fields = go_json.load(call.text) if call.loaded is Ellipsis else call.load()
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
    try:
        get = go_json.read_struct(FAIL, call.load()).get
    except JSONError:
        raise CommandError(f"invalid FAIL {call.echo}") from None
    call.state.store.fail(
        get("jid", ""), get("errtype", ""), get("message", ""), get("backtrace", [])
    )
    return OK


def beat(call: Call) -> Reply:
    text = call.text
    try:
        get = go_json.read_struct(BEAT, go_json.load(text)).get
    except JSONError:
        raise CommandError(f"invalid BEAT {call.echo}") from None
    wid = get("wid", "")
    worker = call.state.workers.beat(
        wid, get("current_state", ""), get("rss_kb", 0), call.state.clock()
    )
    if worker is None:
        raise CommandError(f"unknown worker {wid}")
    return bulk({"state": worker.state}) if worker.state else OK


def end(_call: Call) -> Reply:
    return None


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
