"""Act as many hosts that each run a worker, against a real or the embedded server.

    FAKTORY_URL=tcp://... python benchmarks/hosts.py --hosts 1000 --processes 4

Each host has what a worker of one thread has: a connection that sends HELLO and FETCHes in turns,
and one that beats every 15 seconds. It says how long all took to connect, what the server did
meanwhile, how long a pushed job waited for its host, and how connections beyond the limit end. Its
own processes are few: a host is two connections on an event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
from statistics import median, quantiles
from time import perf_counter, sleep, time
from typing import Any

import faktory
from faktory.exceptions import FaktoryError

QUEUE = "bench-hosts"
BEAT_INTERVAL = 15.0


class Host:
    """A worker of one thread, as the server sees it."""

    def __init__(self, number: int, url: str, waits: list[float]) -> None:
        wid = f"host-{os.getpid()}-{number}"
        self.beats, self.fetches = (
            faktory.AsyncClient(url, worker_id=wid, labels=["bench"], timeout=60) for _ in range(2)
        )
        self._waits = waits
        self.fetched = 0

    async def open(self) -> None:
        """Connect both, and beat once."""
        await self.beats.beat()
        await self.fetches.connect()

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_INTERVAL)
            await self.beats.beat()

    async def work(self) -> None:
        while True:
            job = await self.fetches.fetch(QUEUE)
            self.fetched += 1
            if job is not None:
                self._waits.append(time() - job["args"][0])
                await self.fetches.ack(job["jid"])


async def act(url: str, count: int, seconds: float, gate: Any) -> dict[str, Any]:
    """Be so many hosts for so many seconds; return what they saw."""
    waits: list[float] = []
    errors: list[str] = []
    hosts = [Host(number, url, waits) for number in range(count)]
    began = perf_counter()
    for first in range(0, count, 50):  # as many at once as machines that boot together
        opened = await asyncio.gather(
            *(host.open() for host in hosts[first : first + 50]), return_exceptions=True
        )
        errors += [str(each) for each in opened if isinstance(each, BaseException)]
    connected = perf_counter() - began
    await asyncio.to_thread(gate.wait)
    tasks = [asyncio.create_task(do()) for host in hosts for do in (host.beat, host.work)]
    await asyncio.sleep(seconds)
    ended = [task for task in tasks if task.done()]
    errors += [str(task.exception()) for task in ended]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    fetched = sum(host.fetched for host in hosts)
    return {"connected": connected, "errors": errors, "waits": waits, "fetches": fetched}


def run(url: str, count: int, seconds: float, gate: Any, results: Any) -> None:
    results.put(asyncio.run(act(url, count, seconds, gate)))
    results.close()
    results.join_thread()
    os._exit(0)  # without two thousand FETCHes to wait for


def server_cpu(pid: int | None) -> float:
    if pid is None:
        return 0.0
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Start the processes, push a few jobs a second, and print what happened as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--jobs", type=int, default=50, help="pushed a second")
    parser.add_argument("--server", type=int, help="the server's process, for its CPU time")
    options = parser.parse_args()
    url = os.environ["FAKTORY_URL"]
    context = multiprocessing.get_context("spawn")
    gate, results = context.Barrier(options.processes + 1), context.Queue()
    share = options.hosts // options.processes
    children = [
        context.Process(target=run, args=(url, share, options.seconds, gate, results))
        for _ in range(options.processes)
    ]
    with faktory.Client(url, timeout=60) as client:
        for child in children:
            child.start()
        gate.wait()
        there = client.info()["server"]["connections"]
        before, began = server_cpu(options.server), perf_counter()
        pushed = 0
        while perf_counter() - began < options.seconds - 3:
            client.push({"jobtype": "Bench", "args": [time()], "queue": QUEUE})
            pushed += 1
            until = began + pushed / options.jobs
            sleep(max(0.0, until - perf_counter()))
        used = (server_cpu(options.server) - before) / (perf_counter() - began)
        beyond = []
        for _ in range(3):
            try:
                with faktory.Client(url) as extra:
                    extra.info()
                    beyond.append("accepted")
            except FaktoryError as error:
                beyond.append(f"{type(error).__name__}: {error}")
        got = [results.get() for _ in children]
        for child in children:
            child.join()
        client.remove_queues(QUEUE)
    waits = sorted(wait for each in got for wait in each["waits"])
    errors = [error for each in got for error in each["errors"]]
    said = {
        "hosts": share * options.processes,
        "connections": there,
        "connected in s": round(max(each["connected"] for each in got), 2),
        "pushed": pushed,
        "fetched": len(waits),
        "wait in ms, median": round(median(waits) * 1000, 1),
        "wait in ms, 99 %": round(quantiles(waits, n=100)[98] * 1000, 1),
        "FETCHes a second": round(sum(each["fetches"] for each in got) / options.seconds),
        "server, % of a core": round(used * 100, 1),
        "one more connection": sorted({*beyond}),
        "errors": {text: errors.count(text) for text in sorted({*errors})[:5]},
        "number of errors": len(errors),
    }
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
