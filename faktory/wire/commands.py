"""One small pure function a command: what to send, how to read its answer, how to treat it.

Each command says of itself whether it may be repeated when the line broke after it was sent, and
how long its answer may lawfully take; what follows from that is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, Literal, TypeVar

from ..exceptions import FaktoryPayloadError, FaktoryProtocolError
from ..proto import encode_command, encode_push, encode_push_bulk
from .validate import check_queue, clip

T = TypeVar("T")

FETCH_TIMEOUT: Final = 12.0
"""Seconds. FETCH waits 2 s for a job, and lawfully up to its context of 5 s and one more Redis
call (`server/server.go: processLines`); who gives up earlier strands a job for its reservation."""

BULK_TIMEOUT: Final = 15.0
"""Seconds. PUSHB has 5 s for the whole array (`server/commands.go: pushBulk`), and large ones
take a while to arrive before that."""


class Command(Generic[T]):
    """A command on its way.

    `data` is its line, `read` makes the answer's value of the reply and is never given an error
    reply, `json` tells whether a bulk reply holds JSON, `idempotent` whether sending it twice
    does no harm, `may_duplicate` whether it may do twice what was asked once, which a caller can
    choose to risk, `already_done` how a refusal begins that says, the second time, that the first
    one had arrived, `floor` the seconds to wait for the answer at least, `jids` the jobs that
    it is about, `blind` whether it goes out without a look at the line before.
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

    def __repr__(self) -> str:
        return f"<{self.name}, {len(self.data)} bytes>"


def push(job: dict[str, Any]) -> Command[None]:
    """Queue one job. Not idempotent: the server does not notice a jid that it has already."""
    # By position: keywords cost more than the encoding.
    return Command("PUSH", encode_push(job), expect_ok, False, True, (job["jid"],))


def push_bulk(jobs: Sequence[dict[str, Any]]) -> Command[dict[str, str]]:
    """Queue many jobs; answered by what was refused, jid to reason."""
    jids = [job["jid"] for job in jobs]
    return push_bulk_line(encode_push_bulk(jobs), jids)


def push_bulk_line(line: bytes, jids: Sequence[str]) -> Command[dict[str, str]]:
    """Queue many jobs whose PUSHB line is already there, from a JobTemplate say."""
    return Command(
        "PUSHB",
        line,
        expect_dict,
        json=True,
        idempotent=False,
        may_duplicate=True,
        min_timeout=BULK_TIMEOUT,
        jids=jids,
    )


def fetch(queues: Sequence[str], skip_check: bool = False) -> Command[dict[str, Any] | None]:
    """Ask for a job from the first queue that has one; None after 2 s without.

    Not idempotent: a job that was popped for an answer nobody read is reserved all the same.
    `blind` is for who asks again whatever becomes of it: nothing is popped for a closed line.
    """
    return Command(
        "FETCH",
        encode_command("FETCH", *_named(queues)),
        expect_dict_or_none,
        json=True,
        idempotent=False,
        min_timeout=FETCH_TIMEOUT,
        skip_check=skip_check,
    )


def ack(jid: str) -> Command[None]:
    """Report a job as done.

    Idempotent: the server answers OK for a jid that it does not know
    (`manager/working.go: Acknowledge`).
    """
    line = encode_command("ACK", json={"jid": _job_id(jid)})
    return Command("ACK", line, expect_ok, idempotent=True, jids=(jid,))


def fail(jid: str, errtype: str, message: str, backtrace: Sequence[str] | None) -> Command[None]:
    """Report a job as failed; the server retries or buries it.

    Idempotent: the second time the server says that it does not know the job any more.
    """
    failure = {"jid": _job_id(jid), "errtype": errtype, "message": message, "backtrace": backtrace}
    line = encode_command("FAIL", json=failure)
    return Command(
        "FAIL", line, expect_ok, idempotent=True, already_done="Job not found", jids=(jid,)
    )


def _job_id(jid: str) -> str:
    """The id of a job that there is; of any length: the server once took it."""
    if not isinstance(jid, str) or not jid:
        raise FaktoryPayloadError(f"the jid is {jid!r}: pass the id of the job, as FETCH gave it.")
    return jid


State = Literal["quiet", "terminate"]


def beat(wid: str, current_state: str | None, rss_kb: int | None) -> Command[State | None]:
    """Report a worker as alive; answered by the state that the server wants it in, or None.

    A left out `rss_kb` shows as 0 in the server's pages.
    """
    if current_state not in (None, "quiet", "terminate"):
        raise ValueError(f"the state is {current_state!r}: it can be 'quiet' or 'terminate'.")
    fields: dict[str, object] = {"wid": wid}
    if current_state is not None:
        fields["current_state"] = current_state
    if rss_kb is not None:
        fields["rss_kb"] = rss_kb
    return Command("BEAT", encode_command("BEAT", json=fields), _state, json=True, idempotent=True)


def info() -> Command[dict[str, Any]]:
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
    """Change the jobs of a set; None where nothing can match, so that nothing is to be sent.

    The server reads an empty list of jids as all jobs, ignores what stands beside jids, and takes
    `*?[]` in a job type for wildcards (`server/mutate.go`): none of that is sent.
    """
    if target not in ("retries", "scheduled", "dead"):
        raise ValueError(f"the target {target!r} is none of retries, scheduled and dead.")
    chosen: dict[str, object] = {}
    if jids is not None:
        if jobtype is not None or matching is not None:
            raise ValueError("the server looks at jids alone: give them without jobtype, matching.")
        if isinstance(jids, (str, bytes)) or not isinstance(jids, Iterable):
            raise ValueError(f"jids is {jids!r}: pass a list of job ids.")
        chosen["jids"] = [_job_id(jid) for jid in jids]
        if not chosen["jids"]:
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
            "Give jids, or use matching with a pattern that you mean."
        )
    request: dict[str, object] = {"cmd": operation, "target": target}
    if chosen:
        request["filter"] = chosen
    line = encode_command("MUTATE", json=request)
    return Command("MUTATE", line, expect_ok, idempotent=True, min_timeout=BULK_TIMEOUT)


def pause_queues(names: Sequence[str]) -> Command[None]:
    """Stop handing out jobs of queues; a queue that the server has not seen yet stays as it is."""
    return _queues("PAUSE", names)


def resume_queues(names: Sequence[str]) -> Command[None]:
    """Hand out jobs of paused queues again."""
    return _queues("RESUME", names)


def remove_queues(names: Sequence[str]) -> Command[None]:
    """Delete queues with all that is in them."""
    return _queues("REMOVE", names)


def queue_latency(names: Sequence[str]) -> Command[dict[str, float]]:
    """Ask how many seconds the oldest job of each queue waits; 0 for one that is not there."""
    return Command(
        "QUEUE LATENCY",
        encode_command("QUEUE", "LATENCY", *_named(names)),
        expect_dict,
        json=True,
        idempotent=True,
    )


def _queues(action: str, names: Sequence[str]) -> Command[None]:
    words = ["*"] if list(names) == ["*"] else _named(names)
    line = encode_command("QUEUE", action, *words)
    return Command(f"QUEUE {action}", line, expect_ok, idempotent=True)


def _named(names: Sequence[str]) -> list[str]:
    """The names, of which there must be one: older servers crash without."""
    if not names:
        raise ValueError("name a queue at least.")
    return [check_queue("the queue", name) for name in names]


def batch_new(definition: Mapping[str, object]) -> Command[str]:
    """Make a batch; answered by its bid. It takes jobs until it is committed."""
    line = encode_command("BATCH", "NEW", json=definition)
    return Command("BATCH NEW", line, expect_text, idempotent=False)


def batch_open(bid: str) -> Command[str]:
    """Open a batch again, for more jobs; answered by its bid."""
    line = encode_command("BATCH", "OPEN", bid)
    return Command("BATCH OPEN", line, expect_text, idempotent=False)


def batch_commit(bid: str) -> Command[None]:
    """Close a batch: its callbacks follow when its jobs are done."""
    line = encode_command("BATCH", "COMMIT", bid)
    return Command("BATCH COMMIT", line, expect_ok, idempotent=False)


def batch_status(bid: str) -> Command[dict[str, Any]]:
    """Ask how far a batch is."""
    line = encode_command("BATCH", "STATUS", bid)
    return Command("BATCH STATUS", line, expect_dict, json=True, idempotent=True)


def track_get(jid: str) -> Command[dict[str, Any]]:
    """Ask how far a job says it is."""
    line = encode_command("TRACK", "GET", _job_id(jid))
    return Command("TRACK GET", line, expect_dict, json=True, idempotent=True, jids=(jid,))


def track_set(
    jid: str, percent: int | None, desc: str | None, reserve_until: str | None
) -> Command[None]:
    """Say how far a job is; `reserve_until` (RFC 3339) asks for more time."""
    fields: dict[str, object] = {"jid": _job_id(jid), "desc": desc}
    if percent is not None:
        fields["percent"] = percent
    if reserve_until is not None:
        fields["reserve_until"] = reserve_until
    line = encode_command("TRACK", "SET", json=fields)
    return Command("TRACK SET", line, expect_ok, idempotent=True, jids=(jid,))


def end() -> bytes:
    """Say goodbye: the server closes without an answer (`server/commands.go: end`)."""
    return encode_command("END")


def expect_ok(reply: object) -> None:
    """Read a reply that is OK or makes no sense."""
    if reply != "OK":
        raise _senseless(reply, "OK")


def expect_text(reply: object) -> str:
    """Read a reply that is text, as a line or as a bulk."""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    if not isinstance(reply, str):
        raise _senseless(reply, "text")
    return reply


def expect_dict(reply: object) -> dict[str, Any]:
    """Read a reply that is a JSON object."""
    if not isinstance(reply, dict):
        raise _senseless(reply, "a JSON object")
    return reply


def expect_dict_or_none(reply: object) -> dict[str, Any] | None:
    """Read a reply that is a JSON object or nil."""
    return None if reply is None else expect_dict(reply)


def _state(reply: object) -> State | None:
    if reply == "OK":
        return None
    state = reply.get("state") if isinstance(reply, dict) else None
    if state == "quiet":
        return "quiet"
    if state == "terminate":
        return "terminate"
    raise _senseless(reply, "OK or a state")


def _senseless(reply: object, expected: str) -> FaktoryProtocolError:
    return FaktoryProtocolError(f"the server answered {clip(repr(reply))} where {expected} belongs")
