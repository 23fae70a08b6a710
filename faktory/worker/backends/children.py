"""`use_threads=False`: a process for each processor, which runs its jobs one at a time.

A worker has threads, and a fork of it could find any lock acquired, for ever. So before it has any
it forks a fork server: a supervisor that forks a child when a processor needs one.

Rules: a child that dies takes down the job that ran in it, and nothing else: that job fails with
how the child died, and the next one gets a new child. Nothing that a child sends is unpickled. A
child that does not end when it is interrupted is killed. When the worker is gone, however that
came, the fork server kills what is left and ends.

A channel carries a job to a child, and back its reply, in JSON; the fork server has the child's
end, too, and writes there how the child ended. Interrupts go through the fork server.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from random import random
from threading import Event, Lock
from time import monotonic
from typing import Any, Final, NoReturn

from ...client import Client
from ...exceptions import Shutdown, TimeLimitExceeded
from ...jobs.context import JobContext
from ...jobs.registry import Runnable
from ...jobs.runner import JobRunner, in_context
from ...wire import failure
from ...wire.failure import MAX_BACKTRACE
from ..timing import Timing
from .base import RemoteError, control_of, make_remote_error
from .supervisor import Child, Supervisor, describe_death, pair

_ORDER: Final = struct.Struct("=cqq")
"""To the fork server: what, a child's pid, a job's number. It answers _FORK with a _NUMBER."""
_NUMBER: Final = struct.Struct("=q")
"""A pid, minus an errno, a job's number, how a child ended."""

_FORK, _KILL = b"f", b"k"
_INTERRUPTS: Final[dict[bytes, type[BaseException]]] = {b"s": Shutdown, b"t": TimeLimitExceeded}
_WORDS: Final = {exception: word for word, exception in _INTERRUPTS.items()}

_REPLY, _MORE_TIME, _ENDED = b"r", b"m", b"e"
"""What a message from a child's end of a channel is; a number follows, then JSON."""
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_HEAD: Final = 1 + _NUMBER.size
_MAX_MESSAGE: Final = 1_000_000
"""Bytes: a report has 50 lines of 1000 bytes at most, and its traceback once more."""


class ProcessDied(RemoteError, Exception):
    """A job's process ended before the job did: the error type that its FAIL reports."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.report = ("ProcessDied", message, [])


class ForkServerDied(RuntimeError):
    """The fork server has died, so there can be no more children."""

    def __init__(self) -> None:
        super().__init__(
            "the process that starts the processes of jobs is gone: was it killed? "
            "Start the worker again."
        )


class ProcessBackends:
    """The processes of a worker, made before the worker has threads.

    Children know what `runner` finds now. `on_fork_server_died` is called when no job can be run
    any more.
    """

    def __init__(
        self,
        runner: JobRunner,
        make_client: Callable[[], Client],
        on_fork_server_died: Callable[[ForkServerDied], None],
        log: logging.Logger,
        timing: Timing,
    ) -> None:
        self.known: Mapping[str, Runnable] = {name: runner.find(name) for name in runner.jobtypes}
        self.on_fork_server_died = on_fork_server_died
        self.log = log
        self.timing = timing
        if (others := threading.active_count() - 1) > 0:
            log.warning(
                "processes are made of a program that runs %d other threads: a lock that one of "
                "them holds right now stays acquired in each process. Start threads later: in a "
                'handler of "startup", or in the jobs.',
                others,
            )
        self.fork_server = ForkServerClient(
            lambda channel, interrupts: JobProcess(channel, interrupts, runner, make_client).run()
        )

    def make(self) -> ProcessBackend:
        """Make the backend of one processor."""
        return ProcessBackend(self)

    def close(self) -> None:
        """End all processes, at once."""
        self.fork_server.close()


class ProcessBackend:
    """Runs the jobs of one processor in a child, and in the next one when that has died."""

    def __init__(self, backends: ProcessBackends) -> None:
        self._backends = backends
        self._fork_server = backends.fork_server
        self._timing = backends.timing
        self._pid = 0
        """0: there is no child."""
        self._channel: Connection | None = None
        self._served = False
        """Whether this child has finished a job."""
        self._deaths = 0
        """How many children in a row have finished none."""
        self._number = 0
        """Which job this is: what interrupts one leaves the next alone."""
        self._interrupted: type[BaseException] | None = None
        self._woken = Event()
        self._lock = Lock()

    def run(self, task: Runnable, job: JobContext) -> None:
        """Run a job in the child; see `Backend`."""
        late = None if self._backends.known.get(job.jobtype) is task else _pickled(task)
        with self._lock:
            self._number += 1
            self._interrupted = None
            self._woken.clear()
        if self._channel is not None and self._channel.poll():
            self.close()  # it died between two jobs, so none is to blame
        channel = self._channel or self._start_child()
        try:
            channel.send_bytes(pickle.dumps((self._number, job.payload, late)))
            while (reply := self._receive(channel)).keys() == {"ends"}:
                job._ends = reply["ends"]  # the job has asked for more time
        except (_ChildEnded, OSError, EOFError, ValueError, struct.error) as error:
            raise self._death(channel, error) from None
        self._served = True
        self._deaths = 0
        if reply:
            errtype, message, backtrace = reply["report"]
            report = (errtype, message, backtrace)
            raise make_remote_error(report, reply["control"], reply["traceback"])

    def interrupt(self, exception: type[BaseException]) -> float | None:
        """Raise in the child; the second time, kill it."""
        with self._lock:
            insist = self._interrupted is exception
            self._interrupted = exception
            self._woken.set()
            self._order(_KILL if insist else _WORDS[exception])
        return None if insist else monotonic() + self._grace(exception)

    def kill(self) -> bool:
        """Kill the child."""
        self._order(_KILL)
        return True

    def close(self) -> None:
        """Let the child end, which has nothing to do."""
        with self._lock:
            self._pid = 0
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            self._deaths += not self._served

    def _start_child(self) -> Connection:
        """Wait for a child; raise what the job is interrupted by meanwhile."""
        while self._channel is None:
            if self._deaths:
                self._woken.wait(self._timing.backoff(self._deaths, random()))
            if self._interrupted is not None:
                raise self._interrupted
            try:
                pid, self._channel = self._fork_server.fork()
            except ForkServerDied as error:
                self._backends.on_fork_server_died(error)
                raise
            except OSError as error:
                self._deaths += 1
                self._backends.log.error(
                    "the system gives no process for a job, trying again: %s", error
                )
            else:
                self._served = False
                with self._lock:
                    self._pid = pid
                    if self._interrupted is not None:
                        self._order(_WORDS[self._interrupted])
        return self._channel

    def _receive(self, channel: Connection) -> dict[str, Any]:
        """Return the next message about the job; _ChildEnded when the child has died."""
        while True:
            message = channel.recv_bytes(_MAX_MESSAGE)
            number = _NUMBER.unpack(message[1:_HEAD])[0]
            if message[:1] == _ENDED:
                raise _ChildEnded(number)
            if number == self._number:
                reply: dict[str, Any] = json.loads(message[_HEAD:])
                return reply

    def _order(self, what: bytes) -> None:
        if pid := self._pid:
            self._fork_server.order(what, pid, self._number)

    def _grace(self, exception: type[BaseException]) -> float:
        return self._timing.kill_grace if exception is Shutdown else self._timing.time_limit_grace

    def _death(self, channel: Connection, error: Exception) -> BaseException:
        """Kill the child, if it is still there, and return how it ended."""
        self._order(_KILL)
        message = ""
        try:
            while not isinstance(error, (_ChildEnded, ValueError)):
                self._receive(channel)
        except (_ChildEnded, OSError, EOFError, ValueError) as end:
            error = end
        if isinstance(error, _ChildEnded):
            message = describe_death("the job's process", error.status)
        elif isinstance(error, EOFError):
            message = (
                "the job's process was killed, and the one that starts such processes before it"
            )
            self._backends.on_fork_server_died(ForkServerDied())
        else:
            message = (
                "the job's process was killed, since the job wrote into the descriptor that "
                "connects it to the worker"
            )
        self.close()
        if self._interrupted is None:
            return ProcessDied(message)
        name, grace = self._interrupted.__name__, self._grace(self._interrupted)
        message = f"{self._interrupted()}, did not end within {grace:g} s, and was killed"
        return make_remote_error((name, message, []), name, "")


class _ChildEnded(Exception):
    """The fork server says how a child ended."""

    def __init__(self, status: int) -> None:
        self.status = status


class ForkServerClient:
    """The worker's end of a fork server; `main` is what each child does, with both its channels."""

    def __init__(self, main: Callable[[Connection, socket.socket], NoReturn]) -> None:
        """Fork it. To be called before the worker has threads."""
        with suppress(Exception):  # or each child would print what is buffered
            sys.stdout.flush()
            sys.stderr.flush()
        self._control, control = pair()
        self._lock = Lock()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ForkServer.signals)
        try:
            self.pid = _fork()
            if not self.pid:
                self._control.close()
                _serve(ForkServer(control), mask, main)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        control.close()

    def fork(self) -> tuple[int, Connection]:
        """Start a child; return its pid and the channel to it.

        OSError where the system gives no more processes, or no more descriptors.
        """
        with self._lock:
            try:
                self._control.send(_ORDER.pack(_FORK, 0, 0))
                answer, descriptors, _, _ = socket.recv_fds(
                    self._control, _NUMBER.size, 1, _CLOEXEC
                )
            except OSError:
                answer = b""
        if not answer:
            raise ForkServerDied
        (pid,) = _NUMBER.unpack(answer)
        if pid > 0 and not descriptors:  # this process has none left, so the child ends
            pid = -errno.EMFILE
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        os.set_inheritable(descriptors[0], False)  # where there is no _CLOEXEC
        return pid, Connection(descriptors[0])

    def order(self, what: bytes, pid: int, number: int) -> None:
        """Have a child killed, or one of its jobs interrupted, if it is still there."""
        try:
            self._control.send(_ORDER.pack(what, pid, number))
        except OSError:  # there is no fork server to reap the child
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the children that are left, and wait until nothing is."""
        self._control.close()
        with suppress(ChildProcessError):  # a program that ignores SIGCHLD has none to wait for
            os.waitpid(self.pid, 0)


class _JobChild(Child):
    """A child, its end of the channel for jobs, and the worker's until that is sent."""

    def __init__(self) -> None:
        super().__init__(0)
        self.theirs, self.jobs = Pipe()


class ForkServer(Supervisor):
    """Forks a child when the worker asks for one, and says how each one ended."""

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGTTIN)
    """What terminals and init systems send to all processes of a group: the worker decides."""

    def __init__(self, control: socket.socket) -> None:
        super().__init__([])
        self._control = control

    def done(self) -> bool:
        """Return whether the worker is gone."""
        return self._control.fileno() < 0

    def sources(self) -> dict[int, Callable[[], None]]:
        """Wait for orders."""
        return {self._control.fileno(): self._on_order}

    def on_start(self, child: Child) -> None:
        """Answer with the pid and the worker's end of the channel."""
        assert isinstance(child, _JobChild)
        with suppress(OSError):  # the worker is gone: seen when it is read
            socket.send_fds(self._control, [_NUMBER.pack(child.pid)], [child.theirs.fileno()])
        child.theirs.close()

    def on_start_error(self, child: Child, error: OSError) -> None:
        """Answer with the reason; the worker asks again."""
        assert isinstance(child, _JobChild)
        self.children.remove(child)
        child.theirs.close()
        child.jobs.close()
        self._answer(-(error.errno or 1))

    def on_exit(self, child: Child, status: int) -> None:
        """Say how a child ended, in its place."""
        assert isinstance(child, _JobChild)
        self.children.remove(child)
        child.close_channel()
        with suppress(OSError):  # nobody reads that any more
            os.set_blocking(child.jobs.fileno(), False)
            child.jobs.send_bytes(_ENDED + _NUMBER.pack(status))
        child.jobs.close()

    def become_child(self, born: Child) -> None:
        """Close the ends that are the fork server's, the worker's or another child's."""
        self._control.close()
        for child in self.children:
            assert isinstance(child, _JobChild)
            if child.pid or child is born:
                child.theirs.close()
            if child is not born:
                child.jobs.close()

    def kill_children(self) -> None:
        """Kill all that are left, and wait for them."""
        for child in self.children:
            child.signal(signal.SIGKILL)
        for child in self.children:
            if child.pid:
                os.waitpid(child.pid, 0)

    def _on_order(self) -> None:
        try:
            order = self._control.recv(_ORDER.size)
        except OSError:
            order = b""
        if not order:
            self._control.close()
            return
        what, pid, number = _ORDER.unpack(order)
        if what == _FORK:
            try:
                self.children.append(_JobChild())
            except OSError as error:  # no more descriptors
                self._answer(-(error.errno or 1))
            return
        for child in self.children:
            if child.pid == pid and what == _KILL:
                child.signal(signal.SIGKILL)
            elif child.pid == pid and child.channel is not None:
                with suppress(OSError):  # it has just ended
                    child.channel.send(_ORDER.pack(what, pid, number), socket.MSG_DONTWAIT)
                child.signal(signal.SIGTERM)

    def _answer(self, number: int) -> None:
        with suppress(OSError):
            self._control.send(_NUMBER.pack(number))


def _fork() -> int:
    with warnings.catch_warnings():
        # Logged by `ProcessBackends`, with the remedy.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _serve(
    server: ForkServer, mask: set[int], main: Callable[[Connection, socket.socket], NoReturn]
) -> NoReturn:
    """Be the fork server, and then each of its children; ends the process."""
    try:
        born = server.run(mask)
        if born is not None:
            assert isinstance(born[0], _JobChild)
            server.children.clear()
            main(born[0].jobs, born[1])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            server.kill_children()
        finally:
            os._exit(1)


class JobProcess:
    """A child: runs the jobs that come through its channel, one at a time.

    It has one thread, and what the worker had when the fork server was forked, but none of its
    connections. A TERM means something only if the fork server has sent why: then it is raised in
    the running job, once. When the channel is closed, the process ends.
    """

    def __init__(
        self,
        channel: Connection,
        interrupts: socket.socket,
        runner: JobRunner,
        make_client: Callable[[], Client],
    ) -> None:
        self._channel = channel
        self._interrupts = interrupts
        self._runner = runner
        self._client = make_client()
        self._pid = os.getpid()
        self._number = 0
        self._interruptible = False

    def run(self) -> NoReturn:
        """Run jobs until the worker is gone."""
        os.register_at_fork(after_in_child=self._close_after_fork)
        signal.signal(signal.SIGTERM, self._on_term)
        while True:
            try:
                self._number, payload, late = pickle.loads(self._channel.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)
            reply = self._run_job(payload, late)
            with suppress(Exception):  # or what was printed would be lost with this process
                sys.stdout.flush()
                sys.stderr.flush()
            self._send(_REPLY, reply)

    def _run_job(self, payload: dict[str, Any], late: bytes | None) -> dict[str, Any]:
        """Run a job; return what the worker is to know of its failure, nothing if it is done."""
        done = False
        try:
            job = JobContext(payload, self._client)
            job.on_more_time = lambda ends: self._send(_MORE_TIME, {"ends": ends})
            task = self._runner.find(job.jobtype) if late is None else pickle.loads(late)
            self._interruptible = True
            self._on_term()  # the interrupt may have come earlier
            in_context(job, lambda: self._runner.call(task, job))
            done = True
            self._interruptible = False
        except BaseException as error:
            self._interruptible = False
            return {} if done else _describe(error, payload.get("backtrace") or 0)
        return {}

    def _on_term(self, *_: object) -> None:
        """Raise the interrupt that was sent, if one is there for this job."""
        if not self._interruptible or os.getpid() != self._pid:
            return
        with suppress(BlockingIOError):
            while order := self._interrupts.recv(_ORDER.size, socket.MSG_DONTWAIT):
                what, _, number = _ORDER.unpack(order)
                if number == self._number:
                    self._interruptible = False
                    raise _INTERRUPTS[what]

    def _send(self, what: bytes, body: dict[str, Any]) -> None:
        if os.getpid() == self._pid:
            head = what + _NUMBER.pack(self._number)
            self._channel.send_bytes(head + json.dumps(body).encode())

    def _close_after_fork(self) -> None:
        """In a process that a job forks: it must not hold the channel open when this one ends."""
        self._channel.close()
        self._interrupts.close()


def _describe(error: BaseException, backtrace: int) -> dict[str, Any]:
    report = failure.describe(error, backtrace=backtrace)
    try:
        lines = failure.describe(error, backtrace=MAX_BACKTRACE)[2]
    except BaseException:
        lines = []
    text = "".join(f"{line}\n" for line in lines)
    return {"report": report, "control": control_of(error), "traceback": text}


def _pickled(task: Runnable) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception as error:
        raise TypeError(
            f"{task.origin} was registered after run() began, and cannot be sent to a process "
            f"({error}): register it before."
        ) from None
