"""One fault at every byte of an exchange, for every command, and the rules that hold after each.

No call hangs; it returns its own answer; a job is queued once if the call returned, and at most
once if it raised, where the error says that it may be; the next command gets its own answer, over a
new connection if the old one may be broken. The short run stalls at a few bytes only, since each
stall costs a timeout; `-m soak` stalls at every one.
"""

from __future__ import annotations

import dis
import errno
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import randrange
from time import monotonic
from types import FrameType
from typing import Any, Final, TypeVar

import pytest

from faktory import Client, Producer
from faktory.client import sockets
from faktory.client.connections import Connection
from faktory.client.transport import SocketTransport
from faktory.exceptions import (
    FaktoryBulkError,
    FaktoryConnectionError,
    FaktoryError,
    FaktoryOutcomeUnknown,
    FaktoryTimeout,
)
from faktory.server import EmbeddedServer
from faktory.server import commands as server_commands
from faktory.server.state import ServerState
from faktory.wire import commands
from faktory.wire.commands import Command
from faktory.wire.session import Answer, encode_bulk, encode_simple

from .proxy import Fault, Proxy, Way

SHORT = 0.02
"""Seconds that a client waits for an answer that does not come. A machine that is slower than that
makes a timeout of another fault, for which the same rules hold."""

LONG = 30.0
"""Seconds that a client waits for any other answer: a call that takes BOUND waited in vain."""

BOUND = 15.0

T = TypeVar("T")

SET: Final = "scheduled"

FAR = "2100-01-01T00:00:00Z"

LATER = {"at": FAR, "created_at": "2026-01-01T00:00:00Z"}
"""What makes the push of a job idempotent."""

JUNK = (ord("x"), 0x00, 0xFF)
"""What a framing byte becomes, beside its neighbour; never another one that frames a reply."""


@dataclass(frozen=True)
class Case:
    """One command: how to call it, its right answer, and where its jobs are afterwards."""

    name: str
    call: Callable[[Client, str], object]
    right: Callable[[object, str], bool]
    idempotent: bool
    before: str = ""
    """Where a job is before the call: queues, scheduled, working, or "" for none."""
    after: str = ""
    """Where `jobs` jobs are after it has succeeded."""
    jobs: int = 1
    lines: int = 1
    """How many commands are sent."""


def job(jid: str, **fields: object) -> dict[str, object]:
    return {"jid": jid, "queue": "q", "jobtype": "T", "args": [], **fields}


def is_its_jid(value: object, jid: str) -> bool:
    return value == jid


def is_its_job(value: object, jid: str) -> bool:
    return isinstance(value, dict) and value["jid"] == jid


def is_(expected: object) -> Callable[[object, str], bool]:
    return lambda value, _jid: value == expected


def together(client: Client, *sent: Command[Any]) -> list[object]:
    """Send commands in one piece and return their values."""
    answers = client.exchange(*sent)
    assert all(answer.error is None for answer in answers), answers
    return [answer.value for answer in answers]


CASES = [
    Case("PUSH", lambda c, jid: c.push(job(jid)), is_its_jid, False, "", "queues"),
    Case(
        "PUSHB",
        lambda c, jid: c.push_bulk([job(jid), job(jid + "b")]),
        is_({}),
        idempotent=False,
        after="queues",
        jobs=2,
    ),
    Case("PUSH later", lambda c, jid: c.push(job(jid, **LATER)), is_its_jid, True, "", SET),
    Case(
        "PUSHB later",
        lambda c, jid: c.push_bulk([job(jid, **LATER), job(jid + "b", **LATER)]),
        is_({}),
        idempotent=True,
        after=SET,
        jobs=2,
    ),
    Case("queue", lambda c, jid: c.queue("T", (), "q", 5, jid), is_(True), False, "", "queues"),
    Case("FETCH", lambda c, _: c.fetch("q"), is_its_job, False, "queues", "working"),
    Case("ACK", lambda c, jid: c.ack(jid), is_(None), True, "working"),
    Case("FAIL", lambda c, jid: c.fail(jid), is_(None), True, "working", "retries"),
    Case("BEAT", lambda c, _: c.beat(rss_kb=1), is_(None), True),
    Case("INFO", lambda c, _: c.info(), is_({"faktory": {}}), True),
    Case("FLUSH", lambda c, _: c.flush(), is_(None), True, "queues"),
    Case("QUEUE PAUSE", lambda c, _: c.pause_queues("q"), is_(None), True),
    Case("QUEUE RESUME", lambda c, _: c.resume_queues("q"), is_(None), True),
    Case("QUEUE REMOVE", lambda c, _: c.remove_queues("q"), is_(None), True, "queues"),
    Case("QUEUE LATENCY", lambda c, _: c.queue_latency("own"), is_({"own": 0}), True),
    Case("clear", lambda c, _: c.clear(SET), is_(None), True, SET),
    Case("discard", lambda c, jid: c.discard(SET, jids=[jid]), is_(None), True, SET),
    Case("kill", lambda c, jid: c.kill(SET, jids=[jid]), is_(None), True, SET, "dead"),
    Case("requeue", lambda c, jid: c.requeue(SET, jids=[jid]), is_(None), True, SET, "queues"),
    Case("BATCH NEW", lambda c, jid: c.batch_new(success=job(jid)), is_("b-new"), False),
    Case("BATCH OPEN", lambda c, _: c.call(commands.batch_open("b1")), is_("b1"), False),
    Case("BATCH COMMIT", lambda c, _: c.batch_commit("b1"), is_(None), False),
    Case("BATCH STATUS", lambda c, _: c.batch_status("b1"), is_({"bid": "b1"}), True),
    Case("TRACK GET", lambda c, jid: c.track_get(jid), is_its_job, True),
    Case("TRACK SET", lambda c, jid: c.track_set(jid, 5, "half"), is_(None), True),
    Case("any", lambda c, _: c.command("QUEUE", "LATENCY", "own"), is_(b'{"own":0}'), False),
    Case(
        "ACK and PUSH",
        lambda c, jid: together(c, commands.ack("12345678"), commands.push(job(jid))),
        is_([None, None]),
        idempotent=False,
        after="queues",
        lines=2,
    ),
    Case(
        "QUEUE LATENCY and BATCH STATUS",
        lambda c, _: together(c, commands.queue_latency(["own"]), commands.batch_status("b1")),
        is_([{"own": 0}, {"bid": "b1"}]),
        idempotent=True,
        lines=2,
    ),
]
PUSH = CASES[0]


class HandlerError(TimeoutError):
    """Raised by a signal handler."""


class Interrupt:
    """A signal at the nth place of a `with` block's client code at which Python handles signals.

    That is where a function begins, and behind every call. `raised` is true if there is an nth.
    """

    def __init__(self, nth: int, error: BaseException) -> None:
        self.raised = False
        self._left = nth
        self._error = error
        self._before: dict[FrameType, str] = {}

    def __enter__(self) -> None:
        self._tracing = sys.gettrace()
        sys.settrace(self._look)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._tracing)

    def _look(self, frame: FrameType, event: str, _arg: object) -> Callable[..., object] | None:
        if not frame.f_globals.get("__name__", "").startswith(("faktory.client.", "faktory.wire.")):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            before = self._before.get(frame, "")
            self._before[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if not before.startswith("CALL"):
                return self._look
        elif event != "call":
            return self._look
        self._left -= 1
        if self._left < 0 and not self.raised:
            self.raised = True
            raise self._error
        return self._look


class PlainClient(Client):
    """Waits its timeout for every answer, however long the command itself may take."""

    def call(self, command: Command[T]) -> T:
        command.min_timeout = 0.0
        return super().call(command)

    def exchange(self, *sent: Command[Any]) -> list[Answer]:
        for command in sent:
            command.min_timeout = 0.0
        return super().exchange(*sent)


class Rig:
    """A client, a proxy with faults, and a server whose state can be inspected."""

    def __init__(self) -> None:
        self.server = EmbeddedServer()
        self.server.start()
        self.proxy = Proxy(self.server.port)
        self.client = self.new_client(LONG)
        self.client.connect()
        self.control = Client(self.server.url, worker_id="controls")
        self.numbers = iter(range(10_000_000, 99_999_999))

    def close(self) -> None:
        self.client.close()
        self.control.close()
        self.proxy.stop()
        self.server.stop()

    def new_client(self, timeout: float) -> Client:
        url = f"tcp://127.0.0.1:{self.proxy.port}"
        return PlainClient(url, timeout=timeout, worker_id="faulty")

    def check(self, case: Case, fault: Fault | None) -> None:
        """Call with one fault; AssertionError if a rule is broken."""
        jid = self._prepare(case)
        if fault is not None and fault.kind in ("stall", "corrupt"):
            self.client._connection._transport._timeout = (
                SHORT  # of this connection, not of the next
            )
        self.proxy.plan(fault)
        opened = self.proxy.opened
        value, error = self._call(lambda: case.call(self.client, jid))
        if fault is None:
            assert error is None, error
            self._judge(case, jid, value, error)
            return
        if fault.kind != "stall" and error is None:
            # A fault at the end of the answer comes behind it, and must not race the next command.
            behind = self.proxy.happened.wait(0.5) and not case.idempotent
            if behind and fault.kind in ("cut", "reset"):
                follower, trouble = self._call(lambda: self.client.push(job(f"next{jid}")))
                assert follower == f"next{jid}", f"sent into a line that had ended: {trouble!r}"
        follower, trouble = self._call(lambda: self.client.queue_latency(f"next{jid}"))
        assert trouble is None, f"the next command failed: {trouble!r}"
        assert follower == {f"next{jid}": 0}, f"the next command got another's answer: {follower}"
        # On a busy machine the short timeout may end before the fault: that is like a stall.
        reconnected = self.proxy.opened > opened
        assert reconnected or self.proxy.happened.wait(20), "the fault did not happen"
        self._judge(case, jid, value, error)
        harmless = fault.kind == "split"
        assert self.proxy.opened == opened + (not harmless), "the client did not reconnect"
        assert not (harmless and error), error

    def greet(self, fault: Fault) -> None:
        """Push over a new connection whose handshake has one fault."""
        jid = self._prepare(PUSH)
        self.proxy.plan_next(fault)
        client = self.new_client(SHORT if fault.kind in ("stall", "corrupt") else LONG)
        try:
            value, error = self._call(lambda: PUSH.call(client, jid))
            late = isinstance(error, FaktoryTimeout)
            assert late or self.proxy.happened.wait(20), "the fault did not happen"
            self._judge(PUSH, jid, value, error)
            assert (error is None) == (fault.kind == "split"), error
            assert error is None or isinstance(error, FaktoryConnectionError), error
            assert not isinstance(error, FaktoryOutcomeUnknown), "nothing was sent yet"
            endpoint = client._connection._endpoint
            client._connection._endpoint = replace(endpoint, timeout=LONG)
            if late:  # perhaps before the proxy saw its connection: the fault is still planned
                self.proxy.plan_next(None)
            assert client.push(job(jid + "c")) == jid + "c"
        finally:
            client.close()

    def interrupt(self, nth: int, error: OSError) -> bool:
        """Push while a signal handler raises; return whether there was an nth place for it."""
        jid = self._prepare(PUSH)
        interrupt = Interrupt(nth, error)
        pushed = raised = None
        try:
            with interrupt:
                pushed = self.client.push(job(jid))
        except OSError as caught:
            raised = caught
        assert raised in (None, error), repr(raised)
        assert interrupt.raised == (pushed is None), "the handler's error was swallowed"
        answer = self.client.queue_latency(f"next{jid}")
        assert answer == {f"next{jid}": 0}, f"the next command got another's answer: {answer}"
        jobs = self._jobs(jid)
        assert jobs["queues"] <= 1, jobs
        return interrupt.raised

    def _prepare(self, case: Case) -> str:
        jid = str(next(self.numbers))
        self.control.flush()
        if case.before:
            later = {"at": FAR} if case.before == SET else {}
            self.control.push(job(jid, **later))
        if case.before == "working":
            self.control.fetch("q")
        self.server.clear_commands()
        return jid

    def _call(self, call: Callable[[], object]) -> tuple[object, FaktoryError | None]:
        began = monotonic()
        value, error = None, None
        try:
            value = call()
        except FaktoryError as failure:
            error = failure
        took = monotonic() - began
        assert took < BOUND, f"the call hung for {took:.1f} s"
        return value, error

    def _judge(self, case: Case, jid: str, value: object, error: FaktoryError | None) -> None:
        arrived = sum(f"next{jid}" not in rest for verb, rest in self.server.commands
                      if verb not in ("HELLO", "END"))  # fmt: skip
        jobs = self._jobs(jid)
        if error is None:
            assert case.right(value, jid), f"not its answer: {value!r}"
            assert jobs == ({case.after: case.jobs} if case.after else {}), jobs
            most = case.lines * (1 + case.idempotent)
            assert case.lines <= arrived <= most, f"arrived {arrived} times"
            return
        assert not case.idempotent, f"one fault is one too many: {error!r}"
        unknown = isinstance(error, FaktoryOutcomeUnknown) or (
            isinstance(error, FaktoryBulkError) and bool(error.unknown)
        )
        assert arrived <= unknown * case.lines, f"arrived {arrived} times, and {error!r}"
        total = sum(jobs.values())
        assert total == case.jobs if case.before else total in (0, case.jobs), jobs
        if case.after == "queues" and unknown:
            named = error.unknown if isinstance(error, FaktoryBulkError) else error.jids
            assert sorted(named) == [jid, jid + "b"][: case.jobs], named

    def _jobs(self, jid: str) -> Counter[str]:
        """Count this run's jobs, by place."""
        server = self.server
        found = {
            "queues": [entry for queue in server.queues.values() for entry in queue],
            "scheduled": server.scheduled,
            "retries": server.retries,
            "dead": server.dead,
            "working": [entry["job"] for entry in server.working],
        }
        return +Counter(
            {
                place: sum(entry["jid"].startswith(jid) for entry in entries)
                for place, entries in found.items()
            }
        )


def framing(replies: bytes) -> list[int]:
    """Return the offsets of the bytes that frame replies: their types, lengths and ends."""
    found: list[int] = []
    start = 0
    while start < len(replies):
        end = replies.index(b"\r\n", start)
        found += [start, end, end + 1]
        is_bulk = replies[start : start + 1] == b"$"
        length = int(replies[start + 1 : end]) if is_bulk else -1
        found += range(start + 1, end) if is_bulk else ()
        start = end + 2
        if length >= 0:
            start += length + 2
            found += [start - 2, start - 1]
    return sorted(found)


def faults(request: bytes, reply: bytes, *, all_stalls: bool) -> Iterator[Fault]:
    """Yield every fault of an exchange of these bytes."""
    sizes: dict[Way, int] = {"request": len(request), "reply": len(reply)}
    for way, size in sizes.items():
        for offset in range(size + 1):
            yield Fault("cut", way, offset)
            yield Fault("reset", way, offset)
            if 0 < offset < size:
                yield Fault("split", way, offset)
        last = size if way == "request" else size - 1  # a whole answer is in time
        for offset in range(last + 1) if all_stalls else sorted({0, size // 2, last}):
            yield Fault("stall", way, offset)
    for offset in framing(reply):
        for byte in {*JUNK, reply[offset] ^ 1}:
            yield Fault("corrupt", "reply", offset, byte)


def sweep(rig: Rig, case: Case, *, all_stalls: bool = False, share: int = 1) -> Counter[str]:
    """Check a command with every fault, or each `share`th of them, and others the next time; return
    the number of offsets, and of runs by fault."""
    rig.check(case, None)
    request, reply = rig.proxy.moved["request"], rig.proxy.moved["reply"]
    done = Counter(commands=1, offsets=len(request) + len(reply))
    for fault in islice(
        faults(request, reply, all_stalls=all_stalls), randrange(share), None, share
    ):
        try:
            rig.check(case, fault)
        except AssertionError as error:
            raise AssertionError(f"{case.name}, {fault}: {error}") from error
        done[fault.kind] += 1
    return done


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    # Answers must have the same length each time: a clock that stands, and INFO without counts.
    monkeypatch.setattr(ServerState, "clock", lambda _state: 1_900_000_000_123_456_789)
    monkeypatch.setitem(
        server_commands.COMMANDS, b"INFO", lambda _call: encode_bulk(b'{"faktory":{}}')
    )
    # Commands that the open-source server lacks.
    monkeypatch.setitem(server_commands.COMMANDS, b"BATCH", batch)
    monkeypatch.setitem(server_commands.COMMANDS, b"TRACK", track)
    rig = Rig()
    try:
        yield rig
    finally:
        rig.close()


def batch(call: server_commands.Call) -> bytes:
    answers = {
        "NEW": encode_bulk(b"b-new"),
        "OPEN": encode_simple("b1"),
        "COMMIT": encode_simple("OK"),
        "STATUS": encode_bulk(b'{"bid":"b1"}'),
    }
    return answers[call.text.split()[0]]


def track(call: server_commands.Call) -> bytes:
    word, rest = call.text.split(maxsplit=1)
    return encode_simple("OK") if word == "SET" else encode_bulk(b'{"jid":"%b"}' % rest.encode())


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Add up all runs; printed at the end, whether or not output is captured."""
    done: Counter[str] = Counter()
    yield done
    kinds = [kind for kind in done if kind not in ("commands", "offsets")]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(
            f"\nfaults: {done['commands']} commands x {done['offsets']} offsets x "
            f"{len(kinds)} faults ({', '.join(f'{done[kind]} {kind}' for kind in kinds)}) "
            f"= {sum(done[kind] for kind in kinds)} runs"
        )


SHARE = pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.soak)])


@SHARE
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_fault_anywhere_neither_hangs_nor_mismatches_nor_loses_a_job(
    rig: Rig, case: Case, share: int, tally: Counter[str]
) -> None:
    tally.update(sweep(rig, case, share=share))


def test_every_command_is_among_the_cases(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    makers = {
        name: make
        for name, make in vars(commands).items()
        if str(getattr(make, "__annotations__", {}).get("return")).startswith("Command[")
    }
    called = set()

    def recorded(name: str) -> Callable[..., object]:
        def make(*args: object, **kwargs: object) -> object:
            called.add(name)
            return makers[name](*args, **kwargs)

        return make

    for name in makers:
        monkeypatch.setattr(commands, name, recorded(name))
    for case in CASES:
        rig.check(case, None)
    assert "track_set" in called
    # What only a worker sends is cut at each byte in tests/worker/test_retry_faults.py.
    # The others are what an async client sends for `push_bulk`, and `aperform_bulk`.
    assert called == makers.keys() - {"push_in_time", "push_bulk_of", "join_bulk"}


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_stall_at_any_byte_times_out(rig: Rig, case: Case, tally: Counter[str]) -> None:
    tally.update(sweep(rig, case, all_stalls=True))


@SHARE
def test_one_fault_anywhere_ends_a_producers_future_as_it_ends_a_push(
    rig: Rig, share: int, tally: Counter[str]
) -> None:
    with Producer(lambda: rig.client, linger=0) as producer:
        case = replace(
            PUSH,
            name="Producer",
            call=lambda _, jid: producer.push(job(jid)).result(LONG),
        )
        tally.update(sweep(rig, case, share=share))
        later = replace(
            case,
            call=lambda _, jid: producer.push(job(jid, **LATER)).result(LONG),
            idempotent=True,
            after=SET,
        )
        tally.update(sweep(rig, later, share=share))


def test_an_answer_that_is_not_json_leaves_a_producers_job_unknown(rig: Rig) -> None:
    with Producer(lambda: rig.client, linger=0) as producer:
        rig.proxy.plan(Fault("corrupt", "reply", len("$2\r\n"), ord("x")))
        future = producer.push(job("12345678"))
        error = future.exception(LONG)
    assert isinstance(error, FaktoryOutcomeUnknown), error
    assert error.jids == ["12345678"]


@SHARE
def test_one_fault_anywhere_in_the_handshake_sends_nothing(
    rig: Rig, share: int, tally: Counter[str]
) -> None:
    hi, ok = encode_simple('HI {"v":2}'), encode_simple("OK")
    rig.proxy.plan_next(None)
    with rig.new_client(LONG):
        hello = rig.proxy.moved["request"]
        assert rig.proxy.moved["reply"] == hi + ok
    done = Counter(commands=1, offsets=len(hello + hi + ok))
    for fault in islice(faults(hello, hi + ok, all_stalls=False), randrange(share), None, share):
        if fault.way == "reply" and fault.offset == len(hi + ok):
            continue  # the handshake is over then
        try:
            rig.greet(fault)
        except AssertionError as error:
            raise AssertionError(f"the handshake, {fault}: {error}") from error
        done[fault.kind] += 1
    tally.update(done)


def interrupt_everywhere(rig: Rig, error: OSError) -> int:
    places = 0
    while rig.interrupt(places, error):
        places += 1
    return places


ALARMS = [HandlerError("alarm"), ConnectionResetError(errno.ECONNRESET, "the handler's own")]


@pytest.mark.parametrize("error", ALARMS, ids=lambda error: type(error).__name__)
def test_a_signal_handlers_error_anywhere_in_a_push_comes_out_and_queues_it_once_at_most(
    rig: Rig, error: OSError
) -> None:
    assert interrupt_everywhere(rig, error) > 20


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="its tracing ends where the exchange begins"
)
@pytest.mark.parametrize("error", ALARMS, ids=lambda error: type(error).__name__)
def test_a_client_that_takes_a_handlers_error_for_the_sockets_is_caught(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    monkeypatch.setattr(sockets, "is_own", lambda _: True)
    with pytest.raises(AssertionError, match=r"swallowed|FaktoryOutcomeUnknown"):
        interrupt_everywhere(rig, error)


def test_a_client_that_sends_every_push_again_is_caught(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = commands.push

    def idempotent_push(job: dict[str, object]) -> Command[None]:
        command = honest(job)
        command.idempotent = True
        return command

    monkeypatch.setattr(commands, "push", idempotent_push)
    with pytest.raises(AssertionError, match=r"^PUSH, Fault\(.*Counter\(\{'queues': 2\}\)"):
        sweep(rig, PUSH)


def test_a_client_that_keeps_its_connection_after_a_timeout_is_caught(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unless_late(close: Callable[[object], None]) -> Callable[[object], None]:
        def close_or_keep(self: object) -> None:
            error = sys.exception()
            if not isinstance(getattr(error, "cause", error), FaktoryTimeout):
                close(self)

        return close_or_keep

    monkeypatch.setattr(SocketTransport, "abort", unless_late(SocketTransport.abort))
    monkeypatch.setattr(Connection, "_drop", unless_late(Connection._drop))
    with pytest.raises(AssertionError, match=r"^PUSH, Fault\(kind='stall'.*another's answer: None"):
        sweep(rig, PUSH)
