"""The programs inside the namespaces: this file is the module of a worker, and a script.

faktory-worker -r programs.py
            runs `work`, and writes each begin and end to the file in SOAK_RUNS
work        the same in a program of its own, on processes: use_threads=False
push SEED RATE SECONDS...
            pushes with a Client and a Producer until TERM, and writes what became of each job; the
            jobs take so many seconds, or some of DURATIONS
burst SEED JOBS
            pushes so many jobs of 1 kB at once by a Producer, and 20 more by a Client
probe       answers questions about the server, one a line, as JSON
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import faktory
from faktory.exceptions import FaktoryConnectionError, FaktoryError, FaktoryOutcomeUnknown

CONCURRENCY = 8
DURATIONS = (0.0, 0.05, 0.3, 1.0)
"""Seconds that jobs take: some end and some begin in each fault."""


def note(path: str | int, *words: object) -> None:
    """Append a line in one write, which threads and processes may do at the same time."""
    line = (" ".join(map(str, words)) + "\n").encode()
    if isinstance(path, int):
        os.write(path, line)
        return
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)
    finally:
        os.close(file)


@faktory.job
def work(seconds: float, text: str = "") -> None:
    runs = os.environ["SOAK_RUNS"]
    jid = faktory.current_job().jid
    note(runs, "begin", jid)
    time.sleep(seconds)
    note(runs, "end", jid)


def new_job(
    rng: random.Random, lasting: Sequence[float] = DURATIONS, size: int = 0
) -> dict[str, Any]:
    """Return a job that is gone after its first failure in one case of two."""
    retry = rng.choice((0, 5))
    jid = f"soak{rng.getrandbits(64):016x}"
    return {
        "jid": jid,
        "jobtype": "work",
        "args": [rng.choice(DURATIONS), "x" * size],
        "retry": retry,
    }


def say(*words: object) -> None:
    note(1, *words)


def push_with_client(client: faktory.Client, job: dict[str, Any], stopped: Event) -> None:
    """Push a job until it is queued or unknown; "not sent" is taken at its word."""
    say("try", job["jid"])
    while True:
        try:
            client.push(dict(job))
        except FaktoryOutcomeUnknown as error:
            return say("unknown", job["jid"], error)
        except FaktoryConnectionError as error:
            say("again", job["jid"], error)
            if stopped.wait(0.5):
                return say("unsent", job["jid"], error)
        except FaktoryError as error:
            return say("refused", job["jid"], repr(error))
        else:
            return say("ok", job["jid"])


def push_with_producer(producer: faktory.Producer, job: dict[str, Any]) -> None:
    jid = job["jid"]
    say("try", jid)

    def ended(future: Any) -> None:
        error = future.exception()
        if error is None:
            say("ok", jid)
        elif isinstance(error, FaktoryOutcomeUnknown):
            say("unknown", jid, error)
        elif isinstance(error, FaktoryConnectionError):
            say("unsent", jid, error)
        else:
            say("refused", jid, repr(error))

    producer.push(job).add_done_callback(ended)


def push(seed: str, rate: float, lasting: Sequence[float]) -> None:
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    client, producer = faktory.Client(), faktory.Producer()

    def by(name: str) -> None:
        rng = random.Random(f"{seed} {name}")
        while not stopped.wait(rng.uniform(0.9, 1.1) * 2 / rate):
            if name == "client":
                push_with_client(client, new_job(rng, lasting), stopped)
            else:
                push_with_producer(producer, new_job(rng, lasting))

    threads = [Thread(target=by, args=(name,)) for name in ("client", "producer")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with suppress(FaktoryError):
        producer.close(60)


def burst(seed: int, jobs: int) -> None:
    rng = random.Random(seed)
    client, producer = faktory.Client(), faktory.Producer()
    for _ in range(jobs):
        push_with_producer(producer, new_job(rng, size=1000))
    for _ in range(20):
        push_with_client(client, new_job(rng, size=1000), Event())
    with suppress(FaktoryError):
        producer.close(300)


def probe() -> None:
    """Answer `info`, and `reserved JID`: whether the job was reserved, which it is not any more."""
    with faktory.Client() as client:
        for line in sys.stdin:
            question, _, jid = line.strip().partition(" ")
            answer: object
            if question == "info":
                answer = client.info()["faktory"]
            else:
                try:
                    answer = client.fail(jid, errtype="Probe", message="was reserved") or True
                except FaktoryError:  # Job not found
                    answer = False
            print(json.dumps(answer), flush=True)


def main() -> None:
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s", level=logging.INFO)
    match sys.argv[1:]:
        case ["push", seed, rate, *lasting]:
            push(seed, float(rate), [float(seconds) for seconds in lasting] or DURATIONS)
        case ["burst", seed, jobs]:
            burst(int(seed), int(jobs))
        case ["probe"]:
            probe()
        case ["work", grace]:
            grace_period = int(grace)
            faktory.Worker(
                concurrency=CONCURRENCY, use_threads=False, disconnect_wait=grace_period
            ).run()
        case _:
            sys.exit(f"unknown: {sys.argv}")


if __name__ == "__main__":
    main()
