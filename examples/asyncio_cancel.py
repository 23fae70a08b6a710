"""A fetch that is cancelled loses no job: the next one gets it. It brings its server."""

import asyncio

import faktory
from faktory.server import EmbeddedServer


async def main() -> None:
    # A FETCH holds up what stands behind it: it has a client of its own.
    async with faktory.AsyncClient() as producer, faktory.AsyncClient() as consumer:
        try:
            async with asyncio.timeout(0.1):
                await consumer.fetch("slow")
        except TimeoutError:
            print("no job within 0.1 s")

        await producer.push({"jobtype": "work", "args": [1], "queue": "slow"})  # for that FETCH
        job = await consumer.fetch("slow")
        assert job is not None
        print(f"fetched: {job['jobtype']} {job['args']}")
        await consumer.ack(job["jid"])


with EmbeddedServer() as server:
    faktory.configure(url=server.url)
    asyncio.run(main())
