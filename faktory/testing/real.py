"""The real protocol in tests: an embedded server, and a worker that runs until nothing is left.

Rules: while a server serves a test, everything in this process pushes to it, whatever
`faktory.configure` or the environment said before; that is restored afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..client import Client, defaults
from ..jobs.context import JobContext
from ..server import EmbeddedServer
from ..worker import Worker
from ..worker.executor import Slot, with_middleware
from .memory import MOST_JOBS
from .modes import disable


class DrainingWorker(Worker):
    """A worker that runs in the test's own thread, when asked to.

    `errors` holds what jobs raised, which the server got as FAIL.
    """

    def __init__(self, server: EmbeddedServer, **options: Any) -> None:
        super().__init__(server.url, **options)
        self.errors: list[BaseException] = []

    def drain(self) -> int:
        """Run what waits in any queue, and what that pushes, until nothing does; return how many.

        Jobs that are scheduled, or wait to be retried, wait for the clock to be moved.
        """
        slot = Slot(self.log, self._failed, lambda: None)
        done = 0
        with Client(self.faktory.url) as client:
            most = MOST_JOBS + sum(_sizes(client).values())
            while (names := [*_sizes(client)]) and (payload := client.fetch(*names)) is not None:
                if done == most:
                    raise RuntimeError(
                        f"{most} jobs were run, and there are more: do jobs push each other "
                        "without end?"
                    )
                done += 1
                report = slot.run(
                    JobContext(dict(payload), client),
                    lambda job: with_middleware(self._find(job.jobtype).run)(job),
                )
                assert report is not None
                client.call(report)
        return done

    def _failed(self, job: JobContext, error: BaseException) -> None:
        self.errors.append(error)
        super()._failed(job, error)


class RealServer:
    """An embedded server that serves one test, and its worker."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.worker = DrainingWorker(server)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.server.url

    def drain(self) -> int:
        """Run what waits; see `DrainingWorker.drain`."""
        return self.worker.drain()

    def travel(self, seconds: float) -> None:
        """Move the server's clock forward."""
        self.server.travel(seconds)


def _sizes(client: Client) -> dict[str, int]:
    """Sizes of the queues that have jobs: a FETCH from others would wait."""
    sizes: dict[str, int] = client.info()["faktory"]["queues"]
    return {name: size for name, size in sizes.items() if size}


@contextmanager
def pushed_to(server: EmbeddedServer) -> Iterator[None]:
    """Let everything in this process push to this server, and nowhere else."""
    variables = ("FAKTORY_PROVIDER", "FAKTORY_URL")
    before = {name: os.environ.pop(name, None) for name in variables}
    os.environ["FAKTORY_URL"] = server.url
    try:
        with disable(), defaults.configured(url=server.url):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def served(*, enterprise: bool = False) -> Iterator[RealServer]:
    """Start an embedded server for a test, which everything in this process pushes to."""
    with EmbeddedServer(enterprise=enterprise) as server, pushed_to(server):
        yield RealServer(server)
