"""Traffic against a server process that is killed, and what its file must have afterwards.

Each thread sends one command at a time and notes what was answered. Of the command that the kill
left without an answer nobody knows whether it was done; everything else must be as answered:

- a job that was pushed and not taken away is in the file, once; of a queue in the order in which
  its one pusher pushed;
- what was acknowledged or discarded is not there: nothing runs again that was reported;
- a pause is as it was last set; a batch counts the members that are left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any, Final

from faktory.server.disk.file import open_to_read

from .conftest import RawClient

Gone = (EOFError, OSError, ValueError)
"""What the client of a killed server gets; a reply that was cut is not a number."""

PUSHERS: Final = 3
WORKERS: Final = 3


class Server:
    """A server process on one file and one port, started again after each kill."""

    def __init__(self, path: Path, sync: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        address = f"127.0.0.1:{self.port}"
        tool = [
            sys.executable,
            "-m",
            "faktory",
            "server",
            "--quiet",
            "--no-web",
            "--enterprise",
            "--bind",
            address,
        ]
        self._command = [*tool, "--data", str(path), "--sync", sync]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        environ = {**os.environ, "FAKTORY_PASSWORD": ""}
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, env=environ
        )
        assert self._process.stdout is not None
        assert "FAKTORY_URL=" in self._process.stdout.readline()

    def end(self, number: int = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.communicate(timeout=30)
        return self._process.returncode

    def dial(self) -> RawClient:
        client = RawClient(socket.create_connection(("127.0.0.1", self.port), timeout=30))
        try:
            client.reply()
            client.call(b'HELLO {"v":2,"wid":"w1"}')
        except BaseException:
            client.close()
            raise
        return client


class Traffic:
    """What has been sent and answered, over all kills."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.numbers = count()
        self.there: dict[str, None] = {}
        """Jobs that must be in the file, in the order of their pushes."""
        self.maybe: set[str] = set()
        """Jobs of which nobody knows."""
        self.taken: set[str] = set()
        """Jobs about which a command was sent that takes them away."""
        self.gone: set[str] = set()
        """Jobs that must not be in the file."""
        self.paused = {False}
        """What the queue p may be."""
        self.batches: dict[str, set[str]] = {}
        self.answered = 0
        self.errors: list[str] = []

    def round(self, seconds: float) -> None:
        """Send from all threads; kill the server after so many seconds."""
        ways = [self.push] * PUSHERS + [self.bulk] + [self.work] * WORKERS
        ways += [self.change, self.pause, self.batch]
        threads = [
            Thread(target=self._until_killed, args=(way, number, self.random.random()))
            for number, way in enumerate(ways)
        ]
        for thread in threads:
            thread.start()
        sleep(seconds)
        self.server.end()
        for thread in threads:
            thread.join()

    def _until_killed(self, way: Any, number: int, seed: float) -> None:
        rng = random.Random(seed)
        try:
            client = self.server.dial()
        except Gone:
            return
        try:
            while True:
                way(client, number, rng)
        except Gone:
            pass
        except Exception as error:
            self.errors.append(f"{way.__name__}: {error!r}")
        finally:
            client.close()

    def _call(self, client: RawClient, line: str) -> Any:
        reply = client.call(line)
        self.answered += 1
        return reply

    def _job(self, queue: str, **fields: object) -> dict[str, object]:
        jid = f"{queue}-{next(self.numbers):08}"
        return {"jid": jid, "jobtype": "T", "args": [jid], "queue": queue, **fields}

    def _push(self, client: RawClient, *jobs: dict[str, Any]) -> None:
        jids = [job["jid"] for job in jobs]
        self.maybe.update(jids)
        if len(jobs) == 1:
            reply = self._call(client, f"PUSH {json.dumps(jobs[0])}")
            assert reply == b"+OK", reply
        else:
            reply = self._call(client, f"PUSHB {json.dumps(jobs)}")
            assert reply == b"{}", reply
        # A worker may have reported one before this thread has got its answer.
        mine = [jid for jid in jids if jid not in self.taken]
        self.there.update(dict.fromkeys(mine))
        self.maybe.difference_update(mine)

    def _take(self, client: RawClient, line: str, *jids: str) -> None:
        """Send a command after whose answer these jobs are gone."""
        self.taken.update(jids)
        for jid in jids:
            self.there.pop(jid, None)
            self.maybe.add(jid)
        reply = self._call(client, line)
        assert reply == b"+OK", reply
        self.gone.update(jids)
        self.maybe.difference_update(jids)

    # What the threads do, again and again.

    def push(self, client: RawClient, number: int, rng: random.Random) -> None:
        self._push(client, self._job(f"q{number}"))

    def bulk(self, client: RawClient, number: int, rng: random.Random) -> None:
        self._push(client, *[self._job(f"q{number}") for _ in range(rng.choice((2, 40, 300)))])

    def work(self, client: RawClient, number: int, rng: random.Random) -> None:
        reply = self._call(client, f"FETCH q{rng.randrange(PUSHERS + 1)} q3 b")
        if reply is None:
            return
        jid = json.loads(reply)["jid"]
        assert jid not in self.gone, f"{jid} was reported, and runs again"
        if rng.random() < 0.8:
            self._take(client, f'ACK {{"jid":"{jid}"}}', jid)
        elif rng.random() < 0.8:
            self._call(client, f'FAIL {{"jid":"{jid}","message":"boom"}}')  # to the retries

    def change(self, client: RawClient, number: int, rng: random.Random) -> None:
        jobs = [self._job("s", at="2099-01-01T00:00:00Z") for _ in range(5)]
        self._push(client, *jobs)
        one, two, three = (str(job["jid"]) for job in jobs[:3])
        for what, jid in (("kill", one), ("discard", two), ("requeue", three)):
            operation = {"cmd": what, "target": "scheduled", "filter": {"jids": [jid]}}
            line = "MUTATE " + json.dumps(operation, separators=(",", ":"))
            if what == "discard":
                self._take(client, line, jid)
            else:
                assert self._call(client, line) == b"+OK"

    def pause(self, client: RawClient, number: int, rng: random.Random) -> None:
        self._push(client, self._job("p"))
        paused = rng.random() < 0.5
        self.paused.add(paused)
        assert self._call(client, f"QUEUE {'PAUSE' if paused else 'RESUME'} p") == b"+OK"
        self.paused = {paused}

    def batch(self, client: RawClient, number: int, rng: random.Random) -> None:
        bid = self._call(client, 'BATCH NEW {"success":{"jobtype":"C","args":[],"queue":"c"}}')
        bid = bid.decode()
        members = [self._job("b", custom={"bid": bid}) for _ in range(3)]
        for job in members:
            self._push(client, job)
        assert self._call(client, f"BATCH COMMIT {bid}") == b"+OK"
        self.batches[bid] = {str(job["jid"]) for job in members}

    # After a kill.

    def check(self, path: Path) -> None:
        """Compare the file with what was answered."""
        assert self.errors == []
        with closing(open_to_read(str(path))) as connection:
            rows = connection.execute("SELECT place, job FROM jobs ORDER BY id").fetchall()
            entries = connection.execute("SELECT kind, key, value FROM entries").fetchall()
        jobs = [(place, json.loads(job)) for place, job in rows]
        found = Counter(job["jid"] for _, job in jobs if job["jobtype"] == "T")
        twice = [jid for jid, many in found.items() if many > 1]
        assert not twice, f"twice in the file: {twice[:5]}"
        missing = [jid for jid in self.there if jid not in found]
        assert not missing, f"answered with OK, and not in the file: {missing[:5]}"
        back = self.gone & found.keys()
        assert not back, f"reported, and in the file again: {sorted(back)[:5]}"
        unknown = found.keys() - self.there.keys() - self.maybe
        assert not unknown, f"never pushed: {sorted(unknown)[:5]}"
        for number in range(PUSHERS + 1):
            # A retry comes to the end of its queue.
            queued = [
                job["jid"]
                for place, job in jobs
                if place == "queue" and job["queue"] == f"q{number}" and "failure" not in job
            ]
            assert queued == sorted(queued), f"the order of q{number}"
        paused = {
            bytes(key).decode(): bool(value) for kind, key, value in entries if kind == "queue"
        }
        assert "p" not in paused or paused["p"] in self.paused
        members: dict[str, set[str]] = {}
        for kind, key, _ in entries:
            if kind == "member":
                bid, _, jid = bytes(key).decode().partition("\0")
                members.setdefault(bid, set()).add(jid)
        for bid, jids in self.batches.items():
            left = members.get(bid, set())
            assert left <= jids
            assert jids - left <= self.gone | self.maybe, f"members of {bid}"
        # What is in the file counts from now on.
        for jid in list(self.maybe):
            if jid in found:
                self.there[jid] = None
            else:
                self.gone.add(jid)
        self.maybe.clear()


def kill_again_and_again(folder: Path, kills: int, sync: str, seed: int) -> int:
    """Kill a server so many times; return how many commands were answered in between."""
    rng = random.Random(seed)
    done = 0
    answered = 0
    while done < kills:
        path = folder / f"jobs-{done}.db"
        server = Server(path, sync)
        traffic = Traffic(server, rng.randrange(1 << 30))
        for _ in range(min(25, kills - done)):
            server.start()
            traffic.round(rng.uniform(0.01, 0.35))
            traffic.check(path)
            done += 1
        # The last one serves what is there, and stops.
        server.start()
        client = server.dial()
        sizes = json.loads(client.call("INFO"))["faktory"]
        client.close()
        assert server.end(signal.SIGTERM) == 0
        total = sizes["total_enqueued"] + sum(sizes["sets"].values())
        assert total >= len(traffic.there)
        answered += traffic.answered
        for ending in ("", "-wal", "-shm", ".lock"):
            with suppress(FileNotFoundError):
                Path(f"{path}{ending}").unlink()
    return answered
