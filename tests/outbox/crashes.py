"""Writers and relays as processes of their own, which a test kills, and what became of the jobs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faktory import Client

from . import programs

PROGRAMS = str(Path(programs.__file__))


class Crashes:
    """A database with orders, their writers and relays."""

    def __init__(self, settings: dict[str, Any], url: str, folder: Path, seed: object) -> None:
        self.database = json.dumps(settings)
        self.connect = programs.connector(self.database)
        self.url = url
        self.rng = random.Random(str(seed))
        self.killed = 0
        self._log = folder / "programs.log"
        self.writers: list[subprocess.Popen[bytes]] = []
        self.relays: list[subprocess.Popen[bytes]] = []
        programs.create(self.connect)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen([sys.executable, PROGRAMS, *words], stdout=log, stderr=log)

    def start_writers(self, count: int, rows: int) -> None:
        for _ in range(count):
            seed = str(self.rng.random())
            self.writers.append(self._start("write", self.database, str(rows), seed))

    def start_relay(self) -> None:
        self.relays.append(self._start("relay", self.database, self.url))

    def kill_relay(self) -> None:
        """Kill one as by kill -9, and start another."""
        relay = self.relays.pop(self.rng.randrange(len(self.relays)))
        assert relay.poll() is None, self.log()
        relay.kill()
        relay.wait()
        self.killed += 1
        self.start_relay()

    def are_writing(self) -> bool:
        return any(writer.poll() is None for writer in self.writers)

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def end(self) -> None:
        for process in (*self.writers, *self.relays):
            process.kill()
            process.wait()

    def waiting(self) -> list[str]:
        return programs.orders(self.connect, "faktory_outbox")

    def check(self, wait_until: Callable[..., object], timeout: float) -> str:
        """Wait until all is relayed, run the jobs, and check them; return what happened."""
        wait_until(lambda: not self.waiting(), timeout=timeout)
        self.end()
        committed = Counter(programs.orders(self.connect))
        ran: Counter[str] = Counter()
        with Client(self.url) as client:
            while (job := client.fetch("default")) is not None:
                ran[job["jid"]] += 1
                client.ack(job["jid"])
        assert max(committed.values()) == 1
        lost, rolled_back = set(committed) - set(ran), set(ran) - set(committed)
        assert not lost, f"{len(lost)} never ran: {sorted(lost)[:5]}\n{self.log()}"
        assert not rolled_back, f"{len(rolled_back)} ran and were rolled back"
        more = sum(times > 1 for times in ran.values())
        return f"{len(committed)} rows, {self.killed} relays killed, {more} jobs ran again"
