"""Async jobs on one event loop, with a session for all of them: python examples/async_jobs.py

This starts an embedded server and a worker; the session stands for that of an HTTP library.
"""

import asyncio

import faktory
from faktory.server import EmbeddedServer


class Session:
    """Counts what it has fetched; it belongs to one event loop, as real ones do."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.fetched = 0

    async def get(self, url: str) -> str:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0.01)
        self.fetched += 1
        return f"{url} is fetched"

    async def close(self) -> None:
        print(f"closed after {self.fetched} pages")


session: Session


@faktory.aio.on_startup
async def open_session() -> None:
    global session
    session = Session()


@faktory.aio.on_shutdown
async def close_session() -> None:
    await session.close()


@faktory.job
async def fetch(url: str) -> None:
    print(await session.get(url))


@faktory.job(time_limit=0.2)
async def fetch_slowly(url: str) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        print(f"{url} takes too long")


with EmbeddedServer() as server:
    faktory.configure(url=server.url)
    fetch.perform_bulk([(f"/page/{number}",) for number in range(20)])
    fetch_slowly.perform_async("/slow")
    faktory.Worker(server.url, concurrency=10, burst=True).run()
    print(f"failed: {server.retries[0]['failure']['errtype']}")
