"""Many threads push jobs, which are sent together in few PUSHBs.

Rules: each future ends once: with a jid, the server's rejection, or FaktoryOutcomeUnknown. A batch
that was certainly not sent is tried again until `close` gives up, and only then ends with
FaktoryConnectionError. Memory is bounded: a push into a full producer waits or fails. The sending
thread survives every error, and never waits for itself. In a forked child the producer starts
empty; the jobs that wait stay with the parent.
"""

from __future__ import annotations

import atexit
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from datetime import timedelta
from random import random
from threading import Condition, Thread, current_thread
from time import monotonic
from typing import Final, NamedTuple, Protocol, Self
from weakref import WeakSet, ref

from ..exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryError,
    FaktoryJSONError,
    FaktoryOutcomeUnknown,
    FaktoryProtocolError,
    FaktoryServerError,
    FaktoryTimeout,
)
from ..proto import dump_json
from ..wire import commands
from ..wire.log import Log
from ..wire.payload import prepare
from ..wire.recovery import Backoff
from ..wire.types import AnyJob
from ..wire.validate import check_timeout
from . import fork, network
from .client import Client
from .factory import client_factory, shown_factory

EXIT_TIMEOUT: Final = 5.0
"""Seconds that the interpreter's exit waits for jobs that are not pushed yet."""

_log = Log(logging.getLogger("faktory.producer"))


class _Entry(NamedTuple):
    jid: str
    data: bytes
    future: Future[str]
    scheduled: Sequence[str]
    """As `Command.scheduled`."""


class Pushable(Protocol):
    """A job that knows how it is pushed: a `faktory.Message`, or a chain of them."""

    def push_to(self, producer: Producer) -> Future[str]:
        """Push it through this producer."""


class Producer:
    """Collects jobs from any number of threads and pushes them together.

    A PUSHB is sent when `max_batch` jobs or `max_bytes` of them wait, or `linger` seconds after
    the first one.

    Args:
        make: The server's address, or a function that makes a client, called with the first push.
        max_batch: Jobs of a PUSHB at most.
        max_bytes: Bytes of jobs after which a PUSHB is sent.
        linger: Seconds that a job waits for others.
        max_pending: Jobs at most that are not answered yet; then `push` waits for room.
        patience: Seconds that it waits: None for as long as it takes, 0 for not at all.
    """

    _backoff = Backoff()
    _changed = fork.AtFirstUse(lambda: Condition())
    _thread: Thread | None

    def __init__(
        self,
        make: str | Callable[[], Client] = Client,
        *,
        max_batch: int = 1000,
        max_bytes: int = 1024 * 1024,
        linger: float | timedelta = 0.002,
        max_pending: int = 10_000,
        patience: float | timedelta | None = None,
    ) -> None:
        limits = {"max_batch": max_batch, "max_bytes": max_bytes, "max_pending": max_pending}
        for name, value in limits.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}: it must be a whole number of 1 or more.")
        self._make = client_factory(make)
        self._max_batch = max_batch
        self._max_bytes = max_bytes
        self._linger = check_timeout("linger", linger)
        self._max_pending = max_pending
        self._push_timeout = None if patience is None else check_timeout("patience", patience)
        self._closed = False
        self.reset_after_fork()
        fork.register(self)
        _producers.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.pending} jobs pending"
        return f"<faktory.Producer {shown_factory(self._make)}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Make a client of the same server for a `with` block, for a command of another kind."""
        client = self._make()
        try:
            yield client
        finally:
            client.close()

    def push(self, job: AnyJob | Pushable) -> Future[str]:
        """Take a job, a dict or a Message, to be pushed soon; the future's result is its jid.

        Raises at once FaktoryPayloadError for a job that cannot be sent, and FaktoryTimeout if
        there is no room. The job of a future that is cancelled in time is not sent.
        """
        if not isinstance(job, dict) and hasattr(job, "push_to"):
            return job.push_to(self)
        sent = prepare(job)  # type: ignore[arg-type]  # a dict, or refused
        scheduled = commands.times_of((sent,)) if "at" in sent else ()
        entry = _Entry(sent["jid"], dump_json(sent), Future(), scheduled)
        if network.current.in_process and not self._closed:
            return self._push_now(entry)
        with self._changed:
            if self.pending >= self._max_pending:
                self._wait_for_room()
            if self._closed:
                raise RuntimeError("this producer is closed: make a new one.")
            if self._thread is None:
                self._start()
            self._queue.append(entry)
            self._waiting_bytes += len(entry.data)
            self._taken += 1
            if len(self._queue) == 1 or self._batch_is_full():
                self._changed.notify_all()
        return entry.future

    def flush(self, timeout: float | timedelta | None = None) -> None:
        """Push the jobs that wait, and wait for all answers; FaktoryTimeout if some are missing."""
        limit = None if timeout is None else check_timeout("timeout", timeout)
        with self._changed:
            self._check_not_sender("flush")
            taken = self._taken
            self._flushing += 1
            self._changed.notify_all()
            try:
                answered = self._changed.wait_for(lambda: self._done >= taken, limit)
            finally:
                self._flushing -= 1
            if not answered:
                raise FaktoryTimeout(f"{taken - self._done} jobs are not pushed yet.")

    def close(self, timeout: float | timedelta | None = None) -> None:
        """Flush and end; jobs that are not sent within `timeout` seconds are given up.

        FaktoryTimeout has their number. Without a `timeout`, as at the end of a `with` block, this
        waits until an unreachable server is back.
        """
        deadline = None if timeout is None else monotonic() + check_timeout("timeout", timeout)
        self._check_not_sender("close")
        try:
            self.flush(timeout)
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
                left = None if deadline is None else max(0.0, deadline - monotonic())
                # No `join`, which waits for ever where gevent was imported after this package.
                self._changed.wait_for(lambda: self._thread is None, left)

    def reset_after_fork(self) -> None:
        """Start with nothing to push: for `fork`, in the child."""
        vars(self).pop("_changed", None)
        self._queue: deque[_Entry] = deque()
        self._in_flight: list[_Entry] = []  # including those that were cancelled in time
        self._waiting_bytes = 0
        self._taken = 0  # jobs so far
        self._done = 0  # those of them that are answered, the oldest first
        self._flushing = 0  # threads that wait for all to be answered
        self._thread = None

    @property
    def pending(self) -> int:
        """How many jobs are not answered yet."""
        return self._taken - self._done

    def _push_now(self, entry: _Entry) -> Future[str]:
        """Push in this thread, in a test mode: an inline job's error is raised here."""
        client = self._make()
        try:
            refused = client.call(_command([entry]))
        finally:
            client.close()
        _end(entry, None, refused.get(entry.jid))
        return entry.future

    def _start(self) -> None:
        """Start the sending thread; the push that needs it raises if that fails."""
        client = self._make()
        thread = Thread(target=self._run, args=(client,), name="faktory-producer", daemon=True)
        thread.start()
        self._thread = thread
        processes = sys.modules.get("multiprocessing")
        if processes is not None and processes.parent_process() is not None:
            # A child of multiprocessing ends without the interpreter's exit functions.
            from multiprocessing.util import Finalize

            Finalize(self, _close_if_alive, args=(ref(self),), exitpriority=0)

    def _check_not_sender(self, what: str) -> None:
        if current_thread() is self._thread:
            raise RuntimeError(
                f"{what} would wait for itself here: a future's callback runs in the thread that "
                "sends. Hand it over to another thread."
            )

    def _wait_for_room(self) -> None:
        if not self._closed:
            self._check_not_sender("push into a full producer")
        has_room = self._changed.wait_for(
            lambda: self.pending < self._max_pending or self._closed, self._push_timeout
        )
        if not has_room:
            raise FaktoryTimeout(
                f"{self.pending} jobs wait to be pushed, which is all that this producer holds "
                "(max_pending): the server does not take them fast enough."
            )

    def _batch_is_full(self) -> bool:
        return len(self._queue) >= self._max_batch or self._waiting_bytes >= self._max_bytes

    def _run(self, client: Client) -> None:
        """Send batch after batch until closed and empty."""
        try:
            while batch := self._next_batch():
                self._push(client, batch)
        except BaseException as error:  # no future may stay without an end
            self._fail_all(error)
            raise
        finally:
            client.close()
            with self._changed:
                self._thread = None
                self._changed.notify_all()

    def _fail_all(self, error: BaseException) -> None:
        """Take no more jobs, and end all futures."""
        with self._changed:
            self._closed = True
            entries = [*self._in_flight, *self._queue]
            self._queue.clear()
        unknown = FaktoryOutcomeUnknown(f"the producer's thread broke: {error!r}")
        for entry in entries:
            with suppress(InvalidStateError):  # it has ended
                _end(entry, unknown, None)
        with self._changed:
            self._answered(self.pending)

    def _next_batch(self) -> list[_Entry]:
        """Wait for jobs, then a little for more; return [] when closed and empty."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return []
                deadline = monotonic() + self._linger
                while not (self._batch_is_full() or self._flushing or self._closed):
                    if not self._changed.wait(max(0.0, deadline - monotonic())):
                        break
                batch = self._take_batch()
                if batch:
                    return batch

    def _take_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        size = 0
        self._in_flight = []
        while self._queue and len(batch) < self._max_batch and size < self._max_bytes:
            entry = self._queue.popleft()
            self._in_flight.append(entry)
            self._waiting_bytes -= len(entry.data)
            if entry.future.set_running_or_notify_cancel():
                size += len(entry.data)
                batch.append(entry)
        if not batch:
            self._answered(len(self._in_flight))
        return batch

    def _push(self, client: Client, batch: list[_Entry]) -> None:
        """Push a batch until it is answered, unknown or given up; end its futures."""
        command = _command(batch)
        failures = 0
        failure: FaktoryError | None = None
        refused: dict[str, str] = {}
        while True:
            try:
                refused = client.call(command)
                failure = None
            except FaktoryOutcomeUnknown as error:
                failure = error
            except (FaktoryConnectionError, FaktoryProtocolError) as error:  # it was not sent
                failure = error
                failures += 1
                final = isinstance(error, FaktoryAuthenticationError) or error._raised_by_job
                if not final and self._try_again(error, failures):
                    continue
            except FaktoryJSONError as error:
                failure = FaktoryOutcomeUnknown(f"{len(batch)} jobs may be queued or not: {error}")
            except FaktoryError as error:
                failure = error
            except BaseException as error:  # an inline job may raise anything
                failure = FaktoryOutcomeUnknown(f"the push of {len(batch)} jobs broke: {error!r}")
            break
        for entry in batch:
            _end(entry, failure, refused.get(entry.jid))
        with self._changed:
            self._answered(len(self._in_flight))

    def _try_again(self, error: FaktoryError, failures: int) -> bool:
        """Wait a little; return whether to send the batch again."""
        if failures == 1:
            _log.warning("jobs wait until the server is back: %s", error)
        with self._changed:
            delay = self._backoff.delay(failures, random())
            return not self._changed.wait_for(lambda: self._closed, delay)

    def _answered(self, count: int) -> None:
        self._done += count
        self._changed.notify_all()


def _command(batch: list[_Entry]) -> commands.Command[dict[str, str]]:
    line = b"PUSHB [" + b",".join([entry.data for entry in batch]) + b"]\r\n"
    scheduled = [entry.scheduled for entry in batch]
    times = [at for each in scheduled for at in each] if all(scheduled) else ()
    return commands.push_bulk_line(line, [entry.jid for entry in batch], times)


def _end(entry: _Entry, failure: FaktoryError | None, rejection: str | None) -> None:
    if isinstance(failure, FaktoryOutcomeUnknown):
        entry.future.set_exception(FaktoryOutcomeUnknown(str(failure), [entry.jid]))
    elif failure is not None:
        entry.future.set_exception(failure)
    elif rejection is not None:
        entry.future.set_exception(FaktoryServerError.of(rejection))
    else:
        entry.future.set_result(entry.jid)


_producers: WeakSet[Producer] = WeakSet()


def _close_all(timeout: float = EXIT_TIMEOUT) -> None:
    """Before a process ends: push the jobs that wait, and log how many could not be."""
    deadline = monotonic() + timeout
    for producer in list(_producers):
        _close(producer, max(0.0, deadline - monotonic()))


def unsent() -> int:
    """Return how many jobs of all producers are not pushed yet."""
    return sum(producer.pending for producer in list(_producers))


def _close_if_alive(producer: ref[Producer]) -> None:
    found = producer()
    if found is not None:
        _close(found, EXIT_TIMEOUT)


def _close(producer: Producer, timeout: float) -> None:
    try:
        producer.close(timeout)
    except FaktoryTimeout as error:
        _log.error("the program ends before its jobs are pushed: %s", error)
    except Exception:
        _log.exception("the program ends, and a producer cannot be closed")


atexit.register(_close_all)
fork.on_end(_close_all)
