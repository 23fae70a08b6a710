"""Jobs that run at their times, pushed by a worker: python examples/periodic.py

This starts the embedded server, whose clock is moved forward to the next minute.
"""

import threading
from datetime import datetime, timedelta

import faktory
from faktory.server import EmbeddedServer

ran = threading.Semaphore(0)


@faktory.periodic(every=timedelta(seconds=20))
@faktory.job
def sweep() -> None:
    tick = faktory.current_job().tick
    assert tick is not None
    print(f"swept at {tick:%H:%M:%S}", flush=True)
    ran.release()


@faktory.job
def report(minute: str) -> None:
    print(f"the report of {minute}", flush=True)
    ran.release()


def last_minute(tick: datetime) -> list[str]:
    return [f"{tick - timedelta(minutes=1):%H:%M}"]


# With the extra "cron" it may also be an expression: periodic("* * * * *", report, ...).
faktory.periodic(every=60, job=report, tz="Europe/Berlin", args=last_minute)


with EmbeddedServer() as server, faktory.Client(server.url) as client:
    worker = faktory.Worker(server.url, concurrency=1, periodic=True)
    thread = threading.Thread(target=worker.run)
    thread.start()
    while not client.info()["faktory"]["sets"]["scheduled"]:
        thread.join(0.05)  # the worker pushes the ticks of the next 90 seconds
    server.travel(70)
    for _ in range(4):
        ran.acquire(timeout=10)
    worker.stop()
    thread.join()
