"""What a worker says: at its start, of its jobs and at its end, word by word, and as JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import faktory
from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer

from .support import WORKER, Run, WaitUntil, push

SCHEMA = Path(__file__).parents[2] / "docs" / "log-schema.json"

HEAD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ (\d+ )?\S+ ")


def texts(said: str) -> list[str]:
    """Return the messages of the lines that were logged."""
    return [HEAD.sub("", line) for line in said.splitlines() if HEAD.match(line)]


def find(said: str, part: str) -> str:
    """Return the one message that contains a text."""
    (found,) = [text for text in texts(said) if part in text]
    return found


class OnTerminal:
    """A worker whose three streams are a terminal, and what is shown there."""

    def __init__(self, url: str, folder: Path, *flags: str) -> None:
        self._ours, theirs = pty.openpty()
        env = {**os.environ, "FAKTORY_URL": url, "TERM": "dumb", "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", WORKER, *flags],
            cwd=folder,
            env=env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self._ours, 65536):
                self._shown.extend(piece)
        except OSError:  # the other end is closed
            return

    @property
    def said(self) -> str:
        return self._shown.decode().replace("\r\n", "\n")

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(15)
        self._reader.join(15)
        os.close(self._ours)


@pytest.fixture
def on_terminal(server: EmbeddedServer, folder: Path) -> Iterator[Callable[..., OnTerminal]]:
    """`on_terminal("-r", "jobs")`: run a worker on a terminal."""
    started: list[OnTerminal] = []

    def start(*flags: str) -> OnTerminal:
        started.append(OnTerminal(server.url, folder, *flags))
        return started[-1]

    yield start
    for each in started:
        each.close()


@contextmanager
def silent_peer() -> Iterator[tuple[str, Callable[[int], None]]]:
    """Yield the address of a peer that accepts and never answers, as a Redis, and what accepts."""
    peers: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield (
            f"127.0.0.1:{listener.getsockname()[1]}",
            lambda count: peers.extend(listener.accept()[0] for _ in range(count)),
        )
    for peer in peers:
        peer.close()


# The start


def place(server: EmbeddedServer) -> str:
    return server.url.removeprefix("tcp://")


MANY = "import faktory\nfor n in range(13):\n    faktory.job(name=f'job{n:02}')(lambda: None)\n"


def test_three_lines_and_then_the_log(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil, folder: Path
) -> None:
    jid = push(server, "touch", str(folder / "touched"))
    worker = run(WORKER, "-r", "jobs", url=server.url)
    wait_until(lambda: server.processed == 1)
    wait_until(lambda: "done in" in worker.said)
    assert texts(worker.said)[:4] == [
        f"connected to Faktory 1.10.0 at {place(server)} (tcp)",
        "Queues: default (no -q: default and every queue that the jobs declare)",
        "runs 3 job types, 10 jobs at a time: spin, stuck, touch",
        f"touch {jid} start",
    ]


def test_the_versions_are_shown_by_v(run: Run, server: EmbeddedServer) -> None:
    shown = run(WORKER, "-V")
    assert shown.wait() == 0
    start = f"faktory-worker {faktory.__version__} on Python {sys.version_info[0]}."
    assert shown.printed.startswith(start)
    assert f", core: {faktory.implementation} (" in shown.printed
    worker = run(WORKER, "-r", "jobs", "-v", "-l", "blue", "--burst", url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert texts(worker.said)[0] == f"{shown.printed.strip()}, labels: blue"


@pytest.mark.parametrize(
    ("flags", "env", "file", "source"),
    [
        (["-q", "mail"], {}, "", "from -q"),
        (["-q", "mail"], {"FAKTORY_WORKER_QUEUE": "other"}, "", "from -q"),
        ([], {"FAKTORY_WORKER_QUEUE": "mail"}, "", "from FAKTORY_WORKER_QUEUE"),
        (["-C", "worker.toml"], {}, "queue = ['mail']", "from worker.toml"),
    ],
)
def test_where_the_queues_come_from(
    server: EmbeddedServer,
    run: Run,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    env: dict[str, str],
    file: str,
    source: str,
) -> None:
    (folder / "worker.toml").write_text(file)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    worker = run(WORKER, "-r", "jobs", "--burst", "-c", "1", *flags, url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert find(worker.said, "Queues: ") == f"Queues: mail ({source})"


def test_ten_job_types_are_named(server: EmbeddedServer, run: Run, folder: Path) -> None:
    (folder / "many.py").write_text(MANY)
    worker = run(WORKER, "-r", "many", "--burst", "-c", "1", url=server.url)
    assert worker.wait() == Exit.STOPPED
    ten = ", ".join(f"job{number:02}" for number in range(10))
    assert (
        find(worker.said, " at a time: ") == f"runs 13 job types, 1 job at a time: {ten} and 3 more"
    )


def test_of_several_workers_the_first_one_says_what_all_do(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    supervisor = run(WORKER, "-r", "jobs", "-c", "2", "--processes", "2", url=server.url)
    wait_until(lambda: supervisor.said.count(": connected to") == 2)
    wait_until(lambda: "runs 3 job types" in supervisor.said)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == Exit.STOPPED
    said = texts(supervisor.said)
    assert said[0] == "starts 2 workers, each for 2 jobs at a time"
    for number in (1, 2):
        line = f"worker {number}: connected to Faktory 1.10.0 at {place(server)} (tcp)"
        assert said.count(line) == 1
    assert find(supervisor.said, "Queues: ").startswith("Queues: default (no -q")
    assert find(supervisor.said, " at a time: ").startswith(
        "runs 3 job types, 2 jobs at a time: spin"
    )


def test_a_server_that_cannot_be_reached_was_not_lost(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    server.stop()
    worker = run(WORKER, "-r", "jobs", url=server.url)
    wait_until(lambda: "runs 3 job types" in worker.said)
    server.start()
    wait_until(lambda: "connected to" in worker.said)
    server.stop()
    wait_until(lambda: "lost the connection" in worker.said)
    server.start()
    wait_until(lambda: "the server is back" in worker.said)
    remedy = "Is the Faktory server running? For development: "
    reason = f"nothing listens there (connection refused); trying again. {remedy}"
    said = texts(worker.said)
    assert said[0].startswith(f"cannot reach {place(server)}: {reason}")
    assert said[3] == f"connected to Faktory 1.10.0 at {place(server)} (tcp)"
    assert said[4].startswith(f"lost the connection to {place(server)}: ")
    assert "; trying again" in said[4]
    assert re.fullmatch(r"the server is back after \d+\.\d s", said[5])


def test_a_peer_that_never_answers_is_named_and_a_stop_does_not_wait_for_it(
    run: Run, wait_until: WaitUntil
) -> None:
    with silent_peer() as (where, accept):
        worker = run(WORKER, "-r", "jobs", url=f"tcp://{where}")
        accept(11)
        wait_until(lambda: "runs 3 job types" in worker.said)
        began = time.monotonic()
        worker.send(signal.SIGINT)
        worker.send(signal.SIGINT)
        assert worker.wait() == Exit.STOPPED
        assert time.monotonic() - began < 8  # the handshake has 10 s
    assert texts(worker.said) == [
        f"connecting to {where} (tcp): no answer yet",
        "Queues: default (no -q: default and every queue that the jobs declare)",
        "runs 3 job types, 10 jobs at a time: spin, stuck, touch",
        "stopping",
        "stopped, every job answered",
    ]


def test_a_wrong_password_is_all_that_is_said(run: Run) -> None:
    with EmbeddedServer(password="geheim") as locked:
        worker = run(WORKER, "-r", "jobs", url=locked.url.replace("geheim", "wrong"))
        assert worker.wait() == Exit.REFUSED
    assert worker.said == (
        "faktory-worker: the server refused the password. A special character in an address must "
        "be percent-encoded.\n"
    )


# The end


def test_ctrl_c_says_what_a_second_one_does(
    server: EmbeddedServer, on_terminal: Callable[..., OnTerminal], wait_until: WaitUntil
) -> None:
    worker = on_terminal("-r", "jobs", "-c", "2")
    wait_until(lambda: "runs 3 job types" in worker.said)
    assert find(worker.said, " at a time: ").endswith(": spin, stuck, touch; Ctrl-C stops it")
    jid = push(server, "spin")
    wait_until(lambda: "start" in worker.said)
    os.killpg(worker.process.pid, signal.SIGINT)
    wait_until(lambda: "Shutdown: " in worker.said)
    assert re.fullmatch(
        rf"Shutdown: waiting up to 25 seconds for 1 job to finish: spin {jid} \(\d s\); "
        "Ctrl-C again interrupts it",
        find(worker.said, "Shutdown: "),
    )
    os.killpg(worker.process.pid, signal.SIGINT)
    assert worker.process.wait(15) == Exit.STOPPED
    assert find(worker.said, "the grace period is").startswith(
        "the grace period is over, cut short: interrupting 1 job, which fails by that and uses up "
        f"an attempt (one with retry 0 is dropped): spin {jid} ("
    )


def test_ctrl_c_of_a_supervisor_says_it_once(
    server: EmbeddedServer, on_terminal: Callable[..., OnTerminal], wait_until: WaitUntil
) -> None:
    supervisor = on_terminal("-r", "jobs", "-c", "1", "--processes", "2")
    wait_until(lambda: supervisor.said.count("connected to") == 2)
    assert find(supervisor.said, "starts ").endswith("1 job at a time; Ctrl-C stops them")
    for _ in range(2):
        push(server, "spin")
    wait_until(lambda: supervisor.said.count("start\n") == 2)
    os.killpg(supervisor.process.pid, signal.SIGINT)
    wait_until(lambda: supervisor.said.count("Shutdown: ") == 2)
    assert supervisor.said.count("Ctrl-C again") == 1
    line = "stopping 2 workers; Ctrl-C again interrupts their jobs"
    assert find(supervisor.said, "stopping ") == line
    os.killpg(supervisor.process.pid, signal.SIGINT)
    assert supervisor.process.wait(15) == Exit.STOPPED


def test_a_supervisor_of_one_worker_speaks_of_one(
    server: EmbeddedServer, on_terminal: Callable[..., OnTerminal], wait_until: WaitUntil
) -> None:
    supervisor = on_terminal("-r", "jobs", "-c", "1", "--processes", "1")
    wait_until(lambda: "runs 3 job types" in supervisor.said)
    line = "starts 1 worker for 1 job at a time; Ctrl-C stops it"
    assert find(supervisor.said, "starts ") == line
    os.killpg(supervisor.process.pid, signal.SIGINT)
    assert supervisor.process.wait(15) == Exit.STOPPED
    line = "stopping 1 worker; Ctrl-C again interrupts its jobs"
    assert find(supervisor.said, "stopping 1") == line


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGINT"])
def test_each_signal_to_stop_ends_with_0_and_names_the_jobs(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil, folder: Path, name: str
) -> None:
    (folder / "short.py").write_text(
        "import time, faktory\n@faktory.job\ndef short():\n"
        "    while not faktory.current_job().stopping:\n        time.sleep(0.01)\n"
    )
    jids = [push(server, "short") for _ in range(7)]
    worker = run(WORKER, "-r", "short", url=server.url)
    wait_until(lambda: worker.said.count("start\n") == 7)
    worker.send(getattr(signal, name))
    assert worker.wait() == Exit.STOPPED
    line = find(worker.said, "Shutdown: ")
    assert re.fullmatch(
        r"Shutdown: waiting up to 25 seconds for 7 jobs to finish: "
        r"(short \w+ \(\d+ s\), ){4}short \w+ \(\d+ s\) and 2 more",
        line,
    )
    assert sum(jid in line for jid in jids) == 5
    assert texts(worker.said)[-1] == "stopped, every job answered"


def test_a_quiet_worker_says_how_to_go_on(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", "jobs", url=server.url)
    wait_until(lambda: "runs 3 job types" in worker.said)
    worker.send(signal.SIGTSTP)
    wait_until(lambda: "quiet: " in worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert texts(worker.said)[3:] == [
        "SIGTSTP (Ctrl-Z) makes a worker quiet, and does not suspend it",
        "quiet: fetches no more jobs; running jobs go on, TERM or Ctrl-C stops it; it does not "
        "fetch again: start another for that",
        "stopping",
        "stopped, every job answered",
    ]


# Failures

FAILING = """
import faktory

@faktory.job
def fails():
    raise ValueError("away")

@faktory.job(backoff=faktory.backoff.constant(60))
def waits():
    raise ValueError("away")

@faktory.job(retry_on=(KeyError,))
def buried():
    raise ValueError("away")

@faktory.job
def asks():
    raise faktory.Retry("rate limited")

@faktory.job
def asks_later():
    raise faktory.Retry("rate limited", after=90)

@faktory.job
def drops():
    raise faktory.Discard("no use")
"""


@pytest.mark.parametrize(
    ("jobtype", "fields", "expected"),
    [
        ("fails", {"retry": 5}, r"(attempt 1 of 6, runs again in about 30 s): ValueError: away"),
        (
            "fails",
            {"retry": 5, "failure": {"retry_count": 0, "remaining": 4}},
            r"(attempt 2 of 6, runs again in about 45 s): ValueError: away",
        ),
        (
            "fails",
            {"retry": 25, "failure": {"retry_count": 9, "remaining": 15}},
            r"(attempt 11 of 26, runs again in about 3 h): ValueError: away",
        ),
        (
            "fails",
            {"retry": 5, "failure": {"retry_count": 4, "remaining": 0}},
            r"(attempt 6 of 6, dead): ValueError: away",
        ),
        ("fails", {"retry": 0}, r"(attempt 1 of 1, dropped (retry=0)): ValueError: away"),
        ("fails", {"retry": -1}, r"(attempt 1 of 1, dead): ValueError: away"),
        ("waits", {"retry": 5}, r"(attempt 1 of 6, runs again in 60 s): ValueError: away"),
        ("buried", {"retry": 5}, r"(attempt 1 of 6, dead): ValueError: away"),
    ],
)
def test_a_failure_says_which_attempt_it_was_and_what_follows(
    server: EmbeddedServer,
    run: Run,
    folder: Path,
    jobtype: str,
    fields: dict[str, Any],
    expected: str,
) -> None:
    (folder / "failing.py").write_text(FAILING)
    jid = push(server, jobtype, **fields)
    worker = run(WORKER, "-r", "failing", "-c", "1", "--burst", url=server.url)
    assert worker.wait() == Exit.STOPPED
    line = find(worker.said, " fail in ")
    assert re.sub(r"\d+\.\d{3} s", "0.001 s", line) == f"{jobtype} {jid} fail in 0.001 s {expected}"


def test_a_job_that_asks_for_a_retry_says_when(
    server: EmbeddedServer, run: Run, folder: Path
) -> None:
    (folder / "failing.py").write_text(FAILING)
    soon, later = push(server, "asks"), push(server, "asks_later")
    worker = run(WORKER, "-r", "failing", "-c", "1", "--burst", url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert f"asks {soon} again in about 30 s: rate limited" in texts(worker.said)
    assert re.fullmatch(
        rf"asks_later {later} again at \d\d:\d\d:\d\d: rate limited",
        find(worker.said, f"{later} again"),
    )
    assert " fail in " not in worker.said


# JSON


def faults(schema: dict[str, Any], value: Any, where: str = "") -> list[str]:
    """Return what is wrong with a value by a JSON schema, of which this knows what ours uses."""
    known = {
        *("$schema", "title", "description", "examples", "type", "required", "properties"),
        *("dependentRequired", "if", "then", "allOf", "enum", "const", "pattern", "minimum"),
    }
    assert schema.keys() <= known
    found = []
    kinds = {"object": dict, "string": str, "integer": int, "number": (int, float)}
    if not isinstance(value, kinds.get(schema.get("type", ""), object)) or value is True:
        found.append(f"{where}: {value!r} is not of type {schema['type']}")
        return found
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is not one of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: {value!r} is not {schema['const']!r}")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{where}: {value!r} does not match {schema['pattern']}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{where}: {value!r} is too low")
    if isinstance(value, dict):
        needed = set(schema.get("required", ()))
        for name, others in schema.get("dependentRequired", {}).items():
            needed |= set(others) if name in value else set()
        found += [f"{where}: it has no {name}" for name in sorted(needed - value.keys())]
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                found += faults(inner, value[name], f"{where}.{name}")
    for inner in schema.get("allOf", ()):
        found += faults(inner, value, where)
    if "if" in schema and not faults(schema["if"], value, where):
        found += faults(schema["then"], value, where)
    return found


def read(*outputs: str) -> list[dict[str, Any]]:
    """Return the objects of all lines; each one must be valid by the schema of the docs."""
    schema = json.loads(SCHEMA.read_text())
    objects = [json.loads(line) for output in outputs for line in output.splitlines()]
    for each in objects:
        assert faults(schema, each) == [], each
    return objects


def only(lines: list[dict[str, Any]], event: str, jid: str | None = None) -> dict[str, Any]:
    (found,) = [
        each for each in lines if each.get("event") == event and jid in (None, each.get("jid"))
    ]
    return found


def numbers(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["queue"], line["attempt"], line["retries_remaining"]


LOUD = """
import logging, sys, threading, warnings

@faktory.job
def loud():
    logging.getLogger("app").info("hello", extra={"event": "mine", "seconds": "three"})
    faktory.current_job().logger.info("mine")
    print("printed")
    warnings.warn("careful")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

@faktory.job
def spins(path):
    open(path, "w").close()
    while True:
        pass
"""


def test_each_line_of_json_has_its_event_and_is_valid(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    (folder / "app.py").write_text(FAILING + LOUD)
    fields = {"retry": 5, "failure": {"retry_count": 0, "remaining": 4}}
    loud = push(server, "loud")
    failed = push(server, "fails", **fields)
    waits, asks, asks_later, drops, buried, dead = (
        push(server, "waits"),
        push(server, "asks"),
        push(server, "asks_later"),
        push(server, "drops"),
        push(server, "buried"),
        push(server, "fails", retry=-1),
    )
    worker = run(WORKER, "-r", "app", "--log-format=json", "-v", "-c", "2", url=server.url)
    wait_until(lambda: not server.queues.get("default") and not server.working)
    server.stop()
    wait_until(lambda: "lost the connection" in worker.said)
    server.start()
    wait_until(lambda: "the server is back" in worker.said)
    spins = push(server, "spins", str(folder / "began"), retry=3)
    wait_until((folder / "began").exists)
    worker.send(signal.SIGTSTP)
    wait_until(lambda: "quiet: " in worker.said)
    worker.send(signal.SIGTERM)
    wait_until(lambda: "Shutdown: " in worker.said)
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    lines = read(worker.said, worker.printed)

    assert numbers(only(lines, "start", loud)) == ("default", 1, 25)
    done = only(lines, "done", loud)
    assert numbers(done) == ("default", 1, 25)
    assert isinstance(done["seconds"], float)
    assert f"done in {done['seconds']:.3f} s" in done["message"]
    line = only(lines, "failed", failed)
    assert numbers(line) == ("default", 2, 4)
    assert f"fail in {line['seconds']:.3f} s (attempt 2 of 6, " in line["message"]
    for jid in (waits, asks, asks_later):
        assert numbers(only(lines, "retried", jid)) == ("default", 1, 25)
    assert only(lines, "failed", waits)["message"].endswith("ValueError: away")
    assert only(lines, "discarded", drops)["seconds"] >= 0
    for jid in (buried, dead):
        assert "dead" in only(lines, "exhausted", jid)["message"]
    assert only(lines, "failed", spins)["retries_remaining"] == 3
    assert only(lines, "outage")["level"] == "WARNING"
    assert only(lines, "back")["message"].startswith("the server is back")
    assert only(lines, "quiet")["message"].startswith("quiet: fetches no more jobs")
    stops = [each["message"].partition(":")[0] for each in lines if each.get("event") == "stop"]
    assert stops == [
        "Shutdown",
        "the grace period is over, cut short",
        "stopped, every job answered",
    ]
    mine = only(lines, "mine")
    assert (mine["logger"], mine["seconds"], mine["jid"]) == ("app", "three", loud)
    without = {each["logger"] for each in lines if "event" not in each}
    assert without == {"stdout", "py.warnings", "faktory.job.loud"}


def test_a_line_about_dropped_ones_and_an_error_are_valid(run: Run, folder: Path) -> None:
    dropped = (
        "from faktory.cli.worker import logs\nlogs.configure('json')\n"
        "print(logs._say_dropped(1, 'full'))\nlogs.close()\n"
    )
    (folder / "dropped.py").write_text(dropped)
    process = run("dropped")
    assert process.wait() == 0
    (line,) = read(process.printed)
    assert (line["event"], line["message"]) == (
        "dropped_lines",
        "1 line of the log was dropped: full",
    )
    worker = run(WORKER, "-r", "gone", "--log-format=json")
    assert worker.wait() == Exit.MISSING
    (line,) = read(worker.said)
    assert line["event"] == "other"


def test_a_program_whose_records_have_our_names_loses_no_line(
    server: EmbeddedServer, run: Run, folder: Path
) -> None:
    (folder / "app.py").write_text(
        "import logging\nmake = logging.getLogRecordFactory()\n"
        "def mine(*args, **names):\n    record = make(*args, **names)\n"
        "    record.queue = record.event = 'mine'\n    return record\n"
        "logging.setLogRecordFactory(mine)\n" + FAILING
    )
    jid = push(server, "fails")
    worker = run(WORKER, "-r", "app", "-c", "1", "--burst", url=server.url)
    assert worker.wait() == Exit.STOPPED
    assert f"fails {jid} start" in worker.said
    assert "attempt 1 of 26" in find(worker.said, f"fails {jid} fail in")
    assert "connected to Faktory" in worker.said
