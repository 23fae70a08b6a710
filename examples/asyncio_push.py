"""Push from an event loop: many tasks, one connection, an async generator. It brings its server."""

import asyncio

import faktory
from faktory.server import EmbeddedServer


@faktory.job(queue="mail")
def greet(name: str) -> None:
    print(f"hello {name}")


async def guests():
    """Stand for a cursor of a database: many rows, which come by and by."""
    for number in range(2000):
        yield {"jobtype": "greet", "args": [f"guest {number}"], "queue": "mail"}


async def main() -> None:
    jids = await asyncio.gather(*[greet.aperform(name) for name in ("Ada", "Blaise", "Grace")])
    print(f"pushed by tasks: {len(jids)}")

    async with faktory.AsyncClient() as client:
        refused = await client.push_bulk(guests())
        print(f"pushed by a generator, refused: {len(refused)}")
        queues = (await client.info())["faktory"]["queues"]
        print(f"in the queue: {queues['mail']}")


with EmbeddedServer() as server:
    faktory.configure(url=server.url)
    asyncio.run(main())
