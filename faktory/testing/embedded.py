"""An embedded server for a test, over the real protocol, and a worker that drains its queues.

Rules: while a server serves a test, everything in this process pushes to it, whatever
`faktory.configure` or the environment say. Both are restored afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from ..client import Client, defaults
from ..jobs import registry
from ..jobs.context import JobContext
from ..server import EmbeddedServer
from ..server.clock import check_travel
from ..worker import Worker
from ..worker.delivery import deliver
from ..worker.processor import Processor
from .memory import DRAIN_LIMIT
from .modes import disable
from .periodic import ticks


class DrainingWorker(Worker):
    """A worker that runs jobs in the thread of the test, by `drain`.

    `errors` has the exceptions that jobs raised, each of which was reported by FAIL.
    """

    drain_limit = DRAIN_LIMIT

    def __init__(self, server: EmbeddedServer, **options: Any) -> None:
        super().__init__(server.url, **options)
        self.errors: list[BaseException] = []
        self.error_handlers.append(lambda error, _: self.errors.append(error))

    def drain(self) -> int:
        """Run the jobs of all queues, and those that they push, until none is left.

        Returns how many were run. Scheduled jobs and retries wait for `travel`.
        """
        self._manager.async_jobs = self._make_async_jobs()
        processor = self._manager.make_processor("drain")
        try:
            return self._drain(processor)
        finally:
            self._end_async_jobs()

    def _drain(self, processor: Processor) -> int:
        done = 0
        with Client(self.faktory.url) as client:
            most = self.drain_limit + sum(_sizes(client).values())
            while (names := [*_sizes(client)]) and (payload := client.fetch(*names)) is not None:
                if done == most:
                    raise RuntimeError(
                        f"{most} jobs were run, and there are more: do jobs push each other "
                        "without end?"
                    )
                done += 1
                delivery = processor.run_job(JobContext(dict(payload), client))
                assert delivery is not None
                (undelivered,) = deliver(client, [delivery], self._log)
                if undelivered is not None:
                    raise undelivered[1]
        return done


class EmbeddedTestServer:
    """The embedded server of one test, and a worker that drains it. It is not a real Faktory."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.worker = DrainingWorker(server)

    @property
    def url(self) -> str:
        """The address that the server listens on."""
        return self.server.url

    def drain(self) -> int:
        """Run the waiting jobs; see `DrainingWorker.drain`."""
        return self.worker.drain()

    def travel(self, seconds: float, *, periodic: bool = True) -> None:
        """Move the server's clock forward; ticks of periodic jobs on the way are pushed.

        At most 10,000 of them, or ValueError; none with `periodic=False`.
        """
        travel(self.server, seconds, periodic)


def travel(server: EmbeddedServer, seconds: float, periodic: bool = True) -> None:
    """Move a server's clock forward, see `EmbeddedTestServer.travel`."""
    if periodic and registry.schedules:
        with Client(server.url) as client:
            now = datetime.fromisoformat(client.info()["now"])
            check_travel(seconds, int(now.timestamp()) * 10**9)
            found = ticks(now, now + timedelta(seconds=seconds))
            client.push_bulk([tick.job for tick in found])
    server.travel(seconds)


def _sizes(client: Client) -> dict[str, int]:
    """Return the sizes of the queues that have jobs: a FETCH from others would block."""
    sizes: dict[str, int] = client.info()["faktory"]["queues"]
    return {name: size for name, size in sizes.items() if size}


@contextmanager
def pushed_to(server: EmbeddedServer) -> Iterator[None]:
    """Have everything in this process push to this server only."""
    variables = ("FAKTORY_PROVIDER", "FAKTORY_URL")
    before = {name: os.environ.pop(name, None) for name in variables}
    os.environ["FAKTORY_URL"] = server.url
    try:
        with disable(), defaults.configured(url=server.url, enterprise=False):  # it is asked
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def served(*, enterprise: bool = False) -> Iterator[EmbeddedTestServer]:
    """Start an embedded server for a test; everything in this process pushes to it."""
    with EmbeddedServer(enterprise=enterprise) as server, pushed_to(server):
        yield EmbeddedTestServer(server)
