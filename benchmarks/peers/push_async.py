"""Push with our clients on an event loop. push_async.py QUEUE asyncio|uvloop"""

import asyncio
import sys

from turns import ARGS, JOBTYPE, take_turns

import faktory

TASKS = 20

queue, kind = sys.argv[1:]
job = {"jobtype": JOBTYPE, "args": ARGS, "queue": queue}
client = faktory.AsyncClient()
blocking = faktory.Client()
pool = faktory.Pool(size=TASKS)


def new_loop():
    if kind == "asyncio":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


async def push(count):
    for _ in range(count):
        await client.push(job)


async def together(count, push=push):
    async with asyncio.TaskGroup() as tasks:
        for _ in range(TASKS):
            tasks.create_task(push(count // TASKS))


async def to_thread(count):
    for _ in range(count):
        await asyncio.to_thread(blocking.push, job)


def push_over_pool():
    with pool.client() as one:
        one.push(job)


async def to_thread_over_pool(count):
    for _ in range(count):
        await asyncio.to_thread(push_over_pool)


async def pool_together(count):
    await together(count, to_thread_over_pool)


with asyncio.Runner(loop_factory=new_loop) as runner:
    works = (push, together, to_thread, pool_together)
    take_turns({work.__name__: lambda count, work=work: runner.run(work(count)) for work in works})
    runner.run(client.aclose())
