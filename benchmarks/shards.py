"""Push by key to several servers, and run the jobs of each by workers of its own.

    python benchmarks/shards.py tcp://host:1 tcp://host:2 tcp://host:3 --kill PID

Prints as JSON: the rate of pushes one by one and of empty jobs run with the first server alone and
with all, and the pushes before and after the process PID, the last server's, is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from statistics import median
from tempfile import NamedTemporaryFile
from threading import Event, Thread
from time import perf_counter, sleep

import faktory
from faktory.exceptions import FaktoryError

PROGRAM = """
import faktory

@faktory.job(name="Empty", queue="bench-shards")
def empty() -> None:
    pass
"""
THREADS = 6
SECONDS = 3.0
PAUSE = 0.01
JOBS = 12_000

empty = faktory.external("Empty", queue="bench-shards")


def shard_of(key: str, names: Sequence[str]) -> str:
    """Return the server of a key: with one server more, only that one's share moves."""
    return max(names, key=lambda name: blake2b(f"{name} {key}".encode()).digest())


class Producers:
    """Threads that push one by one, each key to its server, with a pause after each push."""

    def __init__(self, pools: dict[str, faktory.Pool], pause: float = 0.0) -> None:
        self.pushed: Counter[str] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()
        self._pools = pools
        self._pause = pause
        self._end = Event()
        self._threads = [Thread(target=self._push, args=(number,)) for number in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def _push(self, thread: int) -> None:
        number, names = 0, list(self._pools)
        while not self._end.is_set():
            number += 1
            name = shard_of(f"{thread}-{number}", names)
            try:
                empty.set(pool=self._pools[name]).perform_async()
                self.pushed[name] += 1
            except FaktoryError as error:
                self.failed[name, f"{type(error).__name__}: {error}"] += 1
            if self._pause:
                sleep(self._pause)

    def count(self, seconds: float) -> dict[str, float]:
        """Return the pushes a second to each server, for so many seconds from now."""
        before, began = self.pushed.copy(), perf_counter()
        sleep(seconds)
        took = perf_counter() - began
        return {name: (self.pushed[name] - before[name]) / took for name in self._pools}

    def end(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def run(urls: Sequence[str], program: str) -> float:
    """Return how many empty jobs a second the workers of these servers run, one for each."""
    clients = [faktory.Client(url) for url in urls]
    before = [connections(client) for client in clients]  # those of the pools stay
    command = [sys.executable, "-m", "faktory.cli.worker", "-r", program, "-c", "10"]
    workers = [
        subprocess.Popen([*command, "-q", "bench-shards"], env={**os.environ, "FAKTORY_URL": url})
        for url in urls
    ]
    share = JOBS // len(urls)
    try:
        while any(
            connections(client) < 11 + idle for client, idle in zip(clients, before, strict=True)
        ):
            sleep(0.02)
        for worker in workers:
            worker.send_signal(signal.SIGSTOP)
        ends = []
        for client in clients:
            ends.append(client.info()["faktory"]["total_processed"] + share)
            client.push_bulk(empty.message().to_dict() for _ in range(share))
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
        began = perf_counter()
        while any(left(client, end) > 0 for client, end in zip(clients, ends, strict=True)):
            sleep(0.02)
        return share * len(urls) / (perf_counter() - began)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        for client in clients:
            client.remove_queues("bench-shards")
            client.close()


def connections(client: faktory.Client) -> int:
    return int(client.info()["server"]["connections"])


def left(client: faktory.Client, end: int) -> int:
    return int(end - client.info()["faktory"]["total_processed"])


def main() -> None:
    """Try it, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--kill", type=int, required=True)
    options = parser.parse_args()
    urls = {f"server {number + 1}": url for number, url in enumerate(options.urls)}
    pools = {name: faktory.Pool(url, size=THREADS) for name, url in urls.items()}
    rates: dict[str, list[float]] = {"one": [], "all": []}
    runs: dict[str, list[float]] = {"one": [], "all": []}
    with NamedTemporaryFile("w", suffix=".py") as file:
        file.write(PROGRAM)
        file.flush()
        for _ in range(3):
            for which, names in (("one", list(urls)[:1]), ("all", list(urls))):
                producers = Producers({name: pools[name] for name in names})
                rates[which].append(sum(producers.count(SECONDS).values()))
                producers.end()
                for name in names:
                    with pools[name].client() as client:
                        client.remove_queues("bench-shards")
                runs[which].append(run([urls[name] for name in names], file.name))
    producers = Producers(pools, PAUSE)  # as requests come, not as fast as they fail
    before = producers.count(SECONDS)
    os.kill(options.kill, signal.SIGKILL)
    sleep(0.5)
    after = producers.count(SECONDS)
    producers.end()
    print(
        json.dumps(
            {
                "pushed a second": {which: round(median(each)) for which, each in rates.items()},
                "run a second": {which: round(median(each)) for which, each in runs.items()},
                "before the kill": {name: round(rate) for name, rate in before.items()},
                "after it": {name: round(rate) for name, rate in after.items()},
                "failed": {
                    f"{name}: {text}": count
                    for (name, text), count in producers.failed.most_common(4)
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
