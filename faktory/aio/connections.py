"""An async client's connection to a server, which reconnects after a break.

Rules: `wire.recovery` decides whether a command is sent again after a break, at most once. Any
number of tasks of one loop share the connection, and wait together while it is opened. A connection
belongs to the loop that has used it first, until it is closed. A forked child leaves the parent's
connection alone and opens its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import time
from typing import Any

from ..client import fork, network
from ..client.settings import Endpoint
from ..exceptions import FaktoryConnectionError, FaktoryError
from ..wire import commands, recovery
from ..wire.commands import Command
from ..wire.session import Answer
from ..wire.trace import CommandLog
from ..wire.types import FetchedJob
from ..wire.validate import clip
from .opening import open_transport
from .transport import Transport

_of_parents: list[object] = []
"""Transports of the parent, in a forked child: whose end would touch the parent's loop."""


class Connection:
    """A connection that opens when first needed, and again after a break."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        at_least_once: bool = False,
        log: logging.Logger,
        log_payloads: bool = False,
    ) -> None:
        self.kept: deque[FetchedJob] = deque()
        """Jobs that were fetched for tasks that are cancelled."""
        self._endpoint = endpoint
        self._at_least_once = at_least_once
        self._log = CommandLog(log, log_payloads)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: Transport | None = None
        self._opening: asyncio.Task[Transport] | None = None
        fork.register(self)
        fork.preload(tls=False, password=endpoint.address.password is not None)

    @property
    def is_open(self) -> bool:
        """Whether there is a connection; it may be broken without having been noticed."""
        transport = self._transport
        return (transport is not None and transport.cause is None) or network.current.in_process

    async def open(self) -> None:
        """Connect now, if not connected."""
        self._check_loop()
        if not self.is_open:
            await self._open()

    async def exchange(self, *sent: Command[Any]) -> list[Answer]:
        """Send commands in one piece; return an answer for each, errors of the server included.

        If the connection breaks, the commands without an answer are sent again on a new one, once,
        if all of them may be; else FaktoryOutcomeUnknown or the connection's own error.
        """
        if (using := network.current).in_process:
            if isinstance(using, network.MemoryNetwork):
                return await using.exchange_on_loop(sent)
            to = self._endpoint
            memory = using.connect(to.address, to.hello(), to.timeout, to.ssl_context, to.keepalive)
            return memory.exchange(sent)
        if asyncio.get_running_loop() is not self._loop:
            self._check_loop()
        logged = self._log.isEnabledFor(logging.DEBUG)
        if logged:
            self._log.sent(sent)
        transport = self._transport
        if (
            transport is None
            or transport.cause is not None
            or (transport.is_idle and not sent[-1].skip_check and transport.can_read())
        ):
            transport = await self._usable(transport)
        try:
            answers = await self._send(transport, sent)
        except recovery.ConnectionBroken as broken:
            answers = await self._exchange_again(sent, broken)
        if logged:
            self._log.answered(answers)
        return answers

    async def fetch(self, command: Command[FetchedJob | None]) -> FetchedJob | None:
        """Fetch a job, or return one that was fetched for a task that is cancelled."""
        self._check_loop()
        if self.kept:
            return self.kept.popleft()
        answer = (await self.exchange(command))[0]
        if answer.error is not None:
            raise answer.error
        return answer.value  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Wait for what is unanswered, FAIL the jobs that are kept, send END and close.

        If this is cancelled, it closes at once.
        """
        if self._loop is None:
            return
        self._check_loop()
        try:
            if self._opening is not None:
                with suppress(FaktoryError):
                    await asyncio.shield(self._opening)
            while True:
                if self._transport is not None:
                    await self._transport.drain()
                if not self.kept:
                    break
                await self._fail_oldest()
        except FaktoryConnectionError as error:
            self._log.warning("the connection is closed with jobs unreported: %s", error)
        finally:
            for job in self.kept:
                self._log.warning(
                    "the job %s, whose fetch was cancelled, is not reported: the server waits "
                    "until its reserve_for is over",
                    job.get("jid"),
                )
            self.kept.clear()
            transport, self._transport = self._transport, None
            if self._opening is None:
                self._loop = None
            if transport is not None:
                await transport.close()

    def reset_after_fork(self) -> None:
        """Leave the connection to the parent: for `fork`, in the child."""
        transport, self._transport = self._transport, None
        _of_parents.extend((transport, self._opening, self._loop))
        self._opening = self._loop = None
        self.kept.clear()
        if transport is not None:
            transport.release()

    async def _usable(self, transport: Transport | None) -> Transport:
        """Return the connection once it is known to be open, or a new one."""
        if transport is not None and transport.cause is None:
            await transport.look()
            transport = self._transport
        if transport is None or transport.cause is not None:
            transport = await self._open()
        return transport

    async def _send(self, transport: Transport, sent: Sequence[Command[Any]]) -> list[Answer]:
        exchange = transport.adopt(sent) if transport.abandoned else None
        if exchange is None:
            exchange = transport.exchange(sent)
        try:
            return await exchange.future
        except recovery.ConnectionBroken:
            raise
        except BaseException:  # cancelled
            transport.abandon(exchange)
            if exchange.written:
                self._warn(sent)
            raise

    def _warn(self, sent: Sequence[Command[Any]]) -> None:
        """Say which jobs were pushed for a task that was cancelled."""
        for command in sent:
            if command.name in ("PUSH", "PUSHB"):
                first = clip(command.jids[0])
                more = f" and {len(command.jids) - 1} more" if len(command.jids) > 1 else ""
                self._log.warning(
                    "%s of %s%s was sent before its task was cancelled: it may or may not have "
                    "happened, and its answer is dropped",
                    command.name,
                    first,
                    more,
                )

    async def _exchange_again(
        self, sent: Sequence[Command[Any]], broken: recovery.ConnectionBroken
    ) -> list[Answer]:
        steps = recovery.exchange_again(sent, broken, time, self._at_least_once)
        asked = next(steps)
        self._log.debug("once more, over a new connection: %s", broken.cause)
        answers: list[Answer] = []
        opened: Transport | None = None
        try:
            while True:
                try:
                    if opened is None:
                        opened = await self._reopened(sent, broken)
                    else:
                        answers = await self._send(opened, asked)
                except (recovery.ConnectionBroken, FaktoryConnectionError) as error:
                    asked = steps.throw(error)
                else:
                    asked = steps.send(answers)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    async def _reopened(
        self, sent: Sequence[Command[Any]], broken: recovery.ConnectionBroken
    ) -> Transport:
        """Return the new connection, which another task may have opened already."""
        transport = self._transport
        if transport is not None and transport.cause is None:
            return transport
        try:
            return await self._open()
        except asyncio.CancelledError:
            rest = sent[len(broken.answers) :]
            self._warn(rest[: recovery.count_sent(rest, broken.sent)])
            raise

    async def _open(self) -> Transport:
        """Wait for the connection that one task opens for all."""
        opening = self._opening
        if opening is None:
            assert self._loop is not None
            opening = self._opening = self._loop.create_task(
                open_transport(self._endpoint, self._keep), name="faktory-connect"
            )
            opening.add_done_callback(self._opened)
        return await asyncio.shield(opening)

    def _opened(self, opening: asyncio.Task[Transport]) -> None:
        if opening is not self._opening:  # in a forked child
            return
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._transport = opening.result()

    def _keep(self, job: FetchedJob) -> None:
        self.kept.append(job)

    async def _fail_oldest(self) -> None:
        """Report the oldest job that is kept as failed; FaktoryConnectionError if that fails."""
        job = self.kept.popleft()
        jid = job.get("jid", "")
        message = "its fetch was cancelled, and the client was closed before the next one"
        try:
            error = (await self.exchange(commands.fail(jid, "Cancelled", message, None)))[0].error
        except BaseException:
            self.kept.appendleft(job)
            raise
        if error is not None:
            self._log.warning("the job %s, whose fetch was cancelled, is gone: %s", jid, error)

    def _check_loop(self) -> None:
        """Take the running loop; RuntimeError where the client is another loop's."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(
                "this AsyncClient belongs to another event loop, that of another thread or of an "
                "earlier asyncio.run: make one in each loop, and aclose() it before the loop ends."
            )
