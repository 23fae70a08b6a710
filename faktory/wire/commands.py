"""One small pure function a command: what to send, how to read its answer, how to treat it.

A command carries whether it may be sent again when the connection breaks before its answer, and
how long its answer may take; what follows from that is decided in `recovery` and by the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

from ..exceptions import FaktoryPayloadError, FaktoryProtocolError, FaktoryServerError
from ..proto import encode_command, encode_push, encode_push_bulk
from .failure import describe
from .payload import DEFAULT_RETRY, prepare
from .types import BatchStatus, FetchedJob, JobProgress, ServerInfo
from .validate import brief, check_instant, check_queue, show

T = TypeVar("T")

BULK_TIMEOUT: Final = 15.0
"""Seconds. PUSHB has 5 s for the whole array (`server/commands.go: pushBulk`), once it has
arrived, which takes large ones a while."""


class Command(Generic[T]):
    """A command to send.

    data            its line
    read            makes the answer's value from a reply; it is not called with an error reply
    json            a bulk reply holds JSON
    idempotent      sending it twice does no harm
    scheduled       times of the jobs that it schedules, as text: sending it twice does no harm
                    until the first of them
    may_duplicate   sending it twice may do twice what was asked once: a caller's choice
    already_done    how the error begins that means, the second time, that the first one arrived
    min_timeout     seconds without any of the answer to wait at least
    jids            the jobs that it is about
    skip_check      send it without checking first that the connection is open and silent
    send_once       the connection never sends it again, not even if nothing of it was sent: its
                    caller looks at the time first
    """

    __slots__ = (
        "already_done",
        "data",
        "idempotent",
        "jids",
        "json",
        "may_duplicate",
        "min_timeout",
        "name",
        "read",
        "scheduled",
        "send_once",
        "skip_check",
    )

    def __init__(
        self,
        name: str,
        data: bytes,
        read: Callable[[object], T],
        idempotent: bool,
        may_duplicate: bool = False,
        jids: Sequence[str] = (),
        json: bool = False,
        already_done: str | None = None,
        min_timeout: float = 0.0,
        skip_check: bool = False,
        send_once: bool = False,
    ) -> None:
        self.name = name
        self.data = data
        self.read = read
        self.json = json
        self.idempotent = idempotent
        self.may_duplicate = may_duplicate
        self.already_done = already_done
        self.min_timeout = min_timeout
        self.jids = jids
        self.skip_check = skip_check
        self.scheduled: Sequence[str] = ()
        self.send_once = send_once

    def __repr__(self) -> str:
        return f"<{self.name}, {len(self.data)} bytes>"


class _Push(Command[None]):
    """A PUSH: what all of them have in common is the class's, and `push` sets the rest.

    A program makes many, and this takes half the time.
    """

    __slots__ = ()
    name = "PUSH"
    json = False
    may_duplicate = True
    already_done = None
    skip_check = False
    send_once = False
    scheduled = ()

    if not TYPE_CHECKING:
        __init__ = object.__init__  # a function of ours would take longer


_new_push: Callable[[], Command[None]] = _Push  # type: ignore[assignment]


def push(job: dict[str, Any]) -> Command[None]:
    """Queue one job, or schedule it, by PUSH.

    Not idempotent: the server does not notice a jid that it has already. But see `times_of`.
    """
    line = encode_push(job)
    if "at" in job:
        # Positional: keywords cost more than the encoding.
        command = Command("PUSH", line, expect_ok, False, True, (job["jid"],))
        command.scheduled = times_of((job,))
        return command
    command = _new_push()
    command.data = line
    command.read = expect_ok
    command.idempotent = False
    command.min_timeout = 0.0
    command.jids = (job["jid"],)
    return command


def push_exactly(job: dict[str, Any]) -> Command[None]:
    """Queue one job, or schedule it, with its own `retry` whatever others push at that moment.

    By PUSH the server reads all clients' jobs into one variable for that number, also at the same
    moment (`server/commands.go: push`), so that one job may be kept with another's. PUSHB has a
    variable for each job. So only jobs with the default go out by PUSH: there the number is right
    whichever of them it was read for.
    """
    if job.get("retry") == DEFAULT_RETRY:
        return push(job)
    line = _bulk_line([encode_push(job)])
    command = Command("PUSHB", line, _expect_queued, False, True, (job["jid"],), True)
    if "at" in job:
        command.scheduled = times_of((job,))
    return command


def push_in_time(job: dict[str, Any]) -> Command[None]:
    """Queue one job for later. Until its time, its caller may send the same line again.

    The scheduled job is the same entry each time (`storage/sorted_redis.go: AddElement`), so it has
    to be kept as it is: by PUSHB, see `push_exactly`.
    """
    line = _bulk_line([encode_push(job)])
    return Command(
        "PUSHB", line, _expect_queued, False, jids=(job["jid"],), json=True, send_once=True
    )


def _bulk_line(lines: Iterable[bytes]) -> bytes:
    """Return the PUSHB of jobs, of the PUSH of each."""
    jobs = [line[len("PUSH ") : -len("\r\n")] for line in lines]
    return b"PUSHB [" + b",".join(jobs) + b"]\r\n"


def push_bulk(jobs: Sequence[dict[str, Any]]) -> Command[dict[str, str]]:
    """Queue many jobs; the value maps the jids of those refused to the reason."""
    jids = [job["jid"] for job in jobs]
    return push_bulk_line(encode_push_bulk(jobs), jids, times_of(jobs))


def push_bulk_of(lines: Iterable[bytes], jobs: Sequence[dict[str, Any]]) -> Command[dict[str, str]]:
    """Queue many jobs, of each of which there is the line of a PUSH."""
    return push_bulk_line(_bulk_line(lines), [job["jid"] for job in jobs], times_of(jobs))


def join_bulk(parts: Sequence[Command[dict[str, str]]]) -> Command[dict[str, str]]:
    """Queue the jobs of many PUSHBs with one."""
    pieces = [part.data[len("PUSHB [") : -len("]\r\n")] for part in parts if part.jids]
    jids = [jid for part in parts for jid in part.jids]
    scheduled = [at for part in parts for at in part.scheduled]
    if not all(part.scheduled for part in parts):
        scheduled.clear()
    return push_bulk_line(b"PUSHB [" + b",".join(pieces) + b"]\r\n", jids, scheduled)


def times_of(jobs: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    """Return the times of jobs whose push can be sent again until then; () if one's cannot.

    The server keeps scheduled jobs in a set of their JSON (`storage/sorted_redis.go: AddElement`),
    so the same job is there once, unless the server gives each copy a `created_at` of its own. What
    Enterprise counts or locks at a push is not sent again.
    """
    times = []
    for job in jobs:
        at = job.get("at")
        if not (isinstance(at, str) and job.get("created_at")):
            return ()
        if not _COUNTED.isdisjoint(job.get("custom") or ()):
            return ()
        times.append(at)
    return times


_COUNTED: Final = frozenset({"bid", "track", "unique_for"})


def push_bulk_line(
    line: bytes, jids: Sequence[str], scheduled: Sequence[str] = ()
) -> Command[dict[str, str]]:
    """Queue many jobs whose PUSHB line is already encoded, by a JobTemplate for example.

    `scheduled` is what `times_of` returns for the jobs.
    """
    command: Command[dict[str, str]] = Command(
        "PUSHB",
        line,
        expect_dict,
        json=True,
        idempotent=False,
        may_duplicate=True,
        min_timeout=BULK_TIMEOUT,
        jids=jids,
    )
    command.scheduled = scheduled
    return command


def fetch(queues: Sequence[str], skip_check: bool = False) -> Command[FetchedJob | None]:
    """Ask for a job from the first queue that has one; None after 2 s without.

    Not idempotent: a job whose answer is lost stays reserved. So there is no limit to the wait: a
    server that stands still for a minute pops a job for every FETCH that it has received when it
    goes on. `skip_check` is for a loop that fetches again after any error: the server pops nothing
    for a closed connection.
    """
    return Command(
        "FETCH",
        encode_command("FETCH", *_check_queues(queues)),
        expect_dict_or_none,
        json=True,
        idempotent=False,
        min_timeout=inf,
        skip_check=skip_check,
    )


def ack(jid: str, in_time: bool = False) -> Command[None]:
    """Report a job as done.

    Idempotent: the server answers OK for a jid that it does not know
    (`manager/working.go: Acknowledge`). With `in_time` another worker may get the same jid soon,
    whose reservation this would end: its caller looks at the time before it sends this.
    """
    line = encode_command("ACK", json={"jid": _check_jid(jid)})
    return Command("ACK", line, expect_ok, idempotent=True, jids=(jid,), send_once=in_time)


def fail(jid: str, errtype: str, message: str, backtrace: Sequence[str] | None) -> Command[None]:
    """Report a job as failed; the server retries or buries it.

    Idempotent: the second time the server answers that it does not know the job.
    """
    failure = {
        "jid": _check_jid(jid),
        "errtype": errtype,
        "message": message,
        "backtrace": backtrace,
    }
    line = encode_command("FAIL", json=failure)
    return Command(
        "FAIL", line, expect_ok, idempotent=True, already_done="Job not found", jids=(jid,)
    )


def fail_with(
    jid: str,
    error: BaseException | None,
    errtype: str | None,
    message: str | None,
    backtrace: int | Sequence[str] | None,
) -> Command[None]:
    """Report a job as failed by an exception, or in words of the caller's; see `failure`."""
    if backtrace is not None and not isinstance(backtrace, (int, Sequence)):
        raise ValueError(
            f"backtrace is {backtrace!r}: pass lines of text, or how many of them to send."
        )
    return fail(jid, *describe(error, errtype, message, backtrace))


def _check_jid(jid: str) -> str:
    """Return the id of an existing job, which may be of any length."""
    if not isinstance(jid, str) or not jid:
        raise FaktoryPayloadError(
            f"the jid is {show(jid)}: pass the id of the job, as FETCH gave it."
        )
    return jid


WorkerState = Literal["quiet", "terminate"]


def beat(
    wid: str | None, current_state: str | None, rss_kb: int | None
) -> Command[WorkerState | None]:
    """Report a worker as alive; the value is the state that the server wants it in, or None.

    Without `rss_kb` the server's pages show 0.
    """
    if wid is None:
        raise ValueError("only a worker beats: make the client with worker_id=.")
    if current_state not in (None, "quiet", "terminate"):
        raise ValueError(f"the state is {current_state!r}: it must be 'quiet' or 'terminate'.")
    fields: dict[str, object] = {"wid": wid}
    if current_state is not None:
        fields["current_state"] = current_state
    if rss_kb is not None:
        fields["rss_kb"] = rss_kb
    return Command(
        "BEAT", encode_command("BEAT", json=fields), _expect_state, json=True, idempotent=True
    )


def info() -> Command[ServerInfo]:
    """Ask for the server's state."""
    return Command("INFO", encode_command("INFO"), expect_dict, json=True, idempotent=True)


def flush() -> Command[None]:
    """Delete everything on the server."""
    return Command("FLUSH", encode_command("FLUSH"), expect_ok, idempotent=True)


Operation = Literal["clear", "discard", "kill", "requeue"]
Target = Literal["retries", "scheduled", "dead"]


def mutate(
    operation: Operation,
    target: Target,
    jobtype: str | None = None,
    jids: Iterable[str] | None = None,
    matching: str | None = None,
) -> Command[None] | None:
    """Change the jobs of a set; None where nothing can match, so that nothing need be sent.

    The server takes an empty list of jids for all jobs, ignores other filters beside jids, and
    takes `*?[]` in a job type for wildcards (`server/mutate.go`): none of these is sent.
    """
    if target not in ("retries", "scheduled", "dead"):
        raise ValueError(f"the target {target!r} is not one of retries, scheduled and dead.")
    chosen: dict[str, object] = {}
    named: list[str] = []
    if jids is not None:
        if jobtype is not None or matching is not None:
            raise ValueError("the server looks at jids alone: pass no jobtype, no matching.")
        if isinstance(jids, (str, bytes)) or not isinstance(jids, Iterable):
            raise ValueError(f"jids is {jids!r}: pass a list of job ids.")
        chosen["jids"] = named = [_check_jid(jid) for jid in jids]
        if not named:
            return None
    for name, wire_name, value in (
        ("jobtype", "jobtype", jobtype),
        ("matching", "regexp", matching),
    ):
        if value is None:
            continue
        if not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}: it must be text.")
        if not value:
            raise ValueError(f"{name} is empty, which the server would take as everything.")
        if any(character in value for character in "<>&"):
            raise ValueError(f"{name} {value!r} never matches: the server keeps <, >, & escaped.")
        chosen[wire_name] = value
    if jobtype is not None and any(character in jobtype for character in "*?[]\\"):
        raise ValueError(
            f"the job type {jobtype!r} holds one of *?[]\\, which the server takes as wildcards. "
            "Pass jids, or matching with a pattern."
        )
    request: dict[str, object] = {"cmd": operation, "target": target}
    if chosen:
        request["filter"] = chosen
    line = encode_command("MUTATE", json=request)
    return Command("MUTATE", line, expect_ok, idempotent=True, jids=named, min_timeout=BULK_TIMEOUT)


def pause_queues(names: Sequence[str]) -> Command[None]:
    """Stop handing out jobs of queues; a queue that the server does not know yet stays active."""
    return _queues("PAUSE", names)


def resume_queues(names: Sequence[str]) -> Command[None]:
    """Hand out jobs of paused queues again."""
    return _queues("RESUME", names)


def remove_queues(names: Sequence[str]) -> Command[None]:
    """Delete queues and the jobs in them."""
    return _queues("REMOVE", names)


def queue_latency(names: Sequence[str]) -> Command[dict[str, float]]:
    """Ask for how many seconds the oldest job of each queue has waited; 0 without a job."""
    return Command(
        "QUEUE LATENCY",
        encode_command("QUEUE", "LATENCY", *_check_queues(names)),
        expect_dict,
        json=True,
        idempotent=True,
    )


def _queues(action: str, names: Sequence[str]) -> Command[None]:
    words = ["*"] if list(names) == ["*"] else _check_queues(names)
    line = encode_command("QUEUE", action, *words)
    return Command(f"QUEUE {action}", line, expect_ok, idempotent=True)


def _check_queues(names: Sequence[str]) -> list[str]:
    """Return the names of queues, at least one: older servers crash without."""
    if not names:
        raise ValueError("no queue is named: pass one at least.")
    return [check_queue("the queue", name) for name in names]


def batch_new(
    success: Mapping[str, object] | None,
    complete: Mapping[str, object] | None = None,
    description: str | None = None,
    parent_bid: str | None = None,
) -> Command[str]:
    """Make a batch; the value is its bid. It takes jobs until it is committed."""
    if success is None and complete is None:
        raise ValueError("a batch needs a callback: pass success=, complete= or both.")
    fields: dict[str, object] = {}
    if description is not None:
        fields["description"] = description
    if parent_bid is not None:
        fields["parent_bid"] = parent_bid
    if success is not None:
        fields["success"] = prepare(success)
    if complete is not None:
        fields["complete"] = prepare(complete)
    line = encode_command("BATCH", "NEW", json=fields)
    return Command("BATCH NEW", line, expect_text, idempotent=False)


def batch_open(bid: str) -> Command[str]:
    """Open a batch again, for more jobs; the value is its bid."""
    line = encode_command("BATCH", "OPEN", bid)
    return Command("BATCH OPEN", line, expect_text, idempotent=False)


def batch_commit(bid: str) -> Command[None]:
    """Close a batch: its callbacks follow when its jobs are done."""
    line = encode_command("BATCH", "COMMIT", bid)
    return Command("BATCH COMMIT", line, expect_ok, idempotent=False)


def batch_status(bid: str) -> Command[BatchStatus]:
    """Ask how far a batch is."""
    line = encode_command("BATCH", "STATUS", bid)
    return Command("BATCH STATUS", line, expect_dict, json=True, idempotent=True)


def track_get(jid: str) -> Command[JobProgress]:
    """Ask for the progress that a job has reported."""
    line = encode_command("TRACK", "GET", _check_jid(jid))
    return Command("TRACK GET", line, expect_dict, json=True, idempotent=True, jids=(jid,))


def track_set(
    jid: str, percent: int | None, desc: str | None, reserve_until: datetime | str | float | None
) -> Command[None]:
    """Report a job's progress; `reserve_until` extends its reservation."""
    if desc is not None and not isinstance(desc, str):
        raise ValueError(f"desc is {desc!r}: it must be text.")
    fields: dict[str, object] = {"jid": _check_jid(jid), "desc": desc}
    if percent is not None:
        if not isinstance(percent, int) or not 0 <= percent <= 100:
            raise ValueError(f"percent is {percent!r}: it must be a whole number from 0 to 100.")
        fields["percent"] = percent
    if reserve_until is not None:
        fields["reserve_until"] = check_instant("reserve_until", reserve_until)
    line = encode_command("TRACK", "SET", json=fields)
    return Command("TRACK SET", line, expect_ok, idempotent=True, jids=(jid,))


def other(verb: str, words: Sequence[str], json: object) -> Command[str | bytes | int | None]:
    """Send any command; the value is the reply."""
    line = encode_command(verb, *words, json=json)
    return Command(verb, line, _expect_any, idempotent=False, min_timeout=BULK_TIMEOUT)


def end() -> bytes:
    """End the connection: the server closes it without an answer (`server/commands.go: end`)."""
    return encode_command("END")


def expect_ok(reply: object) -> None:
    """Read a reply that must be OK."""
    if reply != "OK":
        raise _unexpected(reply, "OK")


def _expect_queued(reply: object) -> None:
    """Read the reply to the PUSHB of a single job; raise the server's error if it was refused."""
    for reason in expect_dict(reply).values():
        error = FaktoryServerError.of(str(reason))
        raise FaktoryServerError.of(f"ERR {reason}") if error.message == str(reason) else error


def expect_text(reply: object) -> str:
    """Read a reply that must be text, as a line or in bulk."""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    if not isinstance(reply, str):
        raise _unexpected(reply, "text")
    return reply


def expect_dict(reply: object) -> Any:
    """Read a reply that must be a JSON object: return a dict."""
    if not isinstance(reply, dict):
        raise _unexpected(reply, "a JSON object")
    return reply


def expect_dict_or_none(reply: object) -> Any:
    """Read a reply that must be a JSON object or nil: return a dict or None."""
    return None if reply is None else expect_dict(reply)


def _expect_any(reply: object) -> Any:
    return reply


def _expect_state(reply: object) -> WorkerState | None:
    if reply == "OK":
        return None
    state = reply.get("state") if isinstance(reply, dict) else None
    if state == "quiet":
        return "quiet"
    if state == "terminate":
        return "terminate"
    raise _unexpected(reply, "OK or a state")


def _unexpected(reply: object, expected: str) -> FaktoryProtocolError:
    return FaktoryProtocolError(f"the server answered {brief(reply)} where {expected} belongs")
