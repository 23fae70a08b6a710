"""Namespaces with a server, a worker and programs that push, and a network between them.

    [near]  worker, pusher  --- Network ---  [far]  the server, and what asks it afterwards
                                   `------  [old]  a machine that has the server's old address

Everything is removed at the end, and is ended by the kernel if the tests are killed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

from ..worker.real import VARIABLE
from .network import Network, run

PROGRAMS = str(Path(__file__).parent / "programs.py")
NEAR, SERVER, OLD = "10.77.0.1", "10.77.0.2", "10.77.0.3"
PORT, WEB = 7419, 7420

GIVEN_UP = re.compile(
    r"^.*(?:WARNING|ERROR).*(?:waits out its reservation|could not be delivered).*$", re.M
)
"""What a worker logs for a FETCH or a report that it gives up."""

_numbers = count()


def why_not() -> str | None:
    """Return why this machine cannot run these tests, if it cannot."""
    if not sys.platform.startswith("linux"):
        return "needs Linux"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    for program, package in {"ip": "iproute2", "setpriv": "util-linux"}.items():
        if shutil.which(program) is None:
            return f"needs the program {program} ({package})"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    try:
        with namespaces("try") as (name,):
            Network({name: NEAR}, 0).stop()
    except OSError as error:
        return f"needs CAP_NET_ADMIN and CAP_SYS_ADMIN: {error}"
    return None


@contextmanager
def namespaces(*names: str) -> Iterator[list[str]]:
    """Make namespaces whose names nobody else uses; remove them, and those of killed tests."""
    for left in Path("/run/netns").glob("fk-*"):
        if not Path(f"/proc/{left.name.split('-')[1]}").exists():
            with suppress(OSError):
                run("ip", "netns", "delete", left.name)
            shutil.rmtree(Path("/etc/netns") / left.name, ignore_errors=True)
    made = []
    try:
        for name in names:
            unique = f"fk-{os.getpid()}-{next(_numbers)}-{name}"
            run("ip", "netns", "add", unique)
            made.append(unique)
        yield made
    finally:
        for unique in made:
            with suppress(OSError):
                run("ip", "netns", "delete", unique)


class Process:
    """A program inside a namespace, in a session of its own, whose output goes to a file."""

    def __init__(self, lab: Lab, place: str, name: str, command: Sequence[str]) -> None:
        self.output = lab.folder / f"{name}.out"
        self.log = lab.folder / f"{name}.log"
        with self.output.open("ab") as out, self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", place, "setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.PIPE if name == "probe" else subprocess.DEVNULL,
                stdout=subprocess.PIPE if name == "probe" else out,
                stderr=log,
                env={**lab.environment, "FAKTORY_URL": lab.url(place)},
                start_new_session=True,
            )

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def signal(self, number: int, *, group: bool = False) -> None:
        if group:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def wait(self, timeout: float) -> int | None:
        """Return the exit code; None if it is still there after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def close(self) -> None:
        for number in (signal.SIGCONT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Counts(NamedTuple):
    """What became of the jobs."""

    pushed: int  # that the pusher believes to be queued
    unknown: int  # pushes that ended as FaktoryOutcomeUnknown
    run: int  # jobs that began, once or more often
    doubled: int  # jobs that began more than once
    stranded: int  # reserved, and nobody works on them
    unreported: int  # jobs that ended, but their reservation did not
    lost: int  # pushed, and nowhere
    warned: int  # FETCHes and reports that were given up, by the worker's log
    stopping: float  # seconds that the worker took to stop
    exit_code: int | None

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._asdict().items())


class Lab:
    """A server of one kind, "embedded" or "real", in a namespace beyond a network."""

    def __init__(self, kind: str, folder: Path, seed: int, *, names: bool = False) -> None:
        self.kind = kind
        self.folder = folder
        self.seed = seed
        self._names = names
        self._exit = ExitStack()
        self.processes: dict[str, Process] = {}
        self.runs = folder / "runs"
        self.runs.touch()
        self.environment = {
            name: text for name, text in os.environ.items() if not name.startswith("FAKTORY_WOR")
        }
        self.environment |= {"SOAK_RUNS": str(self.runs), "PYTHONUNBUFFERED": "1"}
        self.environment.pop("FAKTORY_PROVIDER", None)

    def __enter__(self) -> Lab:
        with ExitStack() as undo:
            self.near, self.far, self.old = undo.enter_context(namespaces("near", "far", "old"))
            if self._names:
                hosts = Path("/etc/netns") / self.near
                hosts.mkdir(parents=True)
                undo.callback(shutil.rmtree, hosts)
                self._hosts = hosts / "hosts"
                self.name_server(SERVER)
            self.network = Network({self.near: NEAR, self.far: SERVER, self.old: OLD}, self.seed)
            undo.callback(self.network.stop)
            self.network.start()
            undo.callback(self._close_processes)
            self._start_server()
            self._exit = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _close_processes(self) -> None:
        for process in reversed(self.processes.values()):
            process.close()

    def url(self, place: str) -> str:
        """Return the server's address for the programs in a namespace."""
        host = "127.0.0.1" if place == self.far else "faktory.soak" if self._names else SERVER
        return f"tcp://{host}:{PORT}"

    def name_server(self, address: str) -> None:
        """Change the address of the server's name. The file is mounted, so it stays the same."""
        self._hosts.write_text(f"127.0.0.1 localhost\n{address} faktory.soak\n")

    def move_server(self, *, old: str | None) -> None:
        """Give the server another address; its old one becomes that of `old`, or nobody's."""
        new = "10.77.0.4"
        (device,) = (
            each["ifname"]
            for each in json.loads(
                subprocess.check_output(["ip", "-n", self.far, "-j", "link"], text=True)
            )
            if each["ifname"].startswith("fk")
        )
        run("ip", "-n", self.far, "address", "add", f"{new}/24", "dev", device)
        if old is not None:
            run("ip", "-n", old, "address", "add", f"{SERVER}/32", "dev", "lo")
        self.network.routes = {NEAR: self.near, OLD: self.old, new: self.far, SERVER: old}
        self.name_server(new)

    def _start_server(self) -> None:
        if self.kind == "embedded":
            bind = f"0.0.0.0:{PORT}"
            command = [
                sys.executable,
                "-m",
                "faktory",
                "server",
                "--no-web",
                "--bind",
                bind,
                "--insecure",
            ]
        else:
            command = real_command(self.folder / "data")
        server = self.start("server", command, self.far)
        script = [sys.executable, PROGRAMS, "probe"]
        deadline = time.monotonic() + 30
        while True:
            self.start("probe", script, self.far)
            with suppress(OSError, ValueError):
                self.info()
                break
            self.processes["probe"].close()
            if time.monotonic() > deadline or server.wait(0.2) is not None:
                pytest.fail(f"the server did not start: {server.log.read_text()}")

    def start(self, name: str, command: Sequence[str], place: str | None = None) -> Process:
        self.processes[name] = Process(self, place or self.near, name, command)
        return self.processes[name]

    def start_worker(
        self, grace: int = 10, *, threads: bool = True, name: str = "worker"
    ) -> Process:
        """Start a worker of 8 threads, or 8 processes; wait for its beginning."""
        module = [sys.executable, "-m", "faktory.cli.worker", "-r", PROGRAMS]
        if threads:
            return self.start(name, [*module, "-c", "8", "-t", "10"])
        return self.start(name, [sys.executable, PROGRAMS, "work", "10"])

    def start_pusher(self, rate: float, *lasting: float, far: bool = False) -> Process:
        """Start a program that pushes so many jobs a second, here or beside the server."""
        options = [f"{self.seed}{far}", str(rate), *map(str, lasting)]
        command = [sys.executable, PROGRAMS, "push", *options]
        if far:
            return self.start("pusher-far", command, self.far)
        return self.start("pusher", command)

    def ask(self, question: str) -> Any:
        asked, answers = self.processes["probe"].pipes
        asked.write(f"{question}\n".encode())
        asked.flush()
        return json.loads(answers.readline())

    def info(self) -> Any:
        return self.ask("info")

    def events(self, pattern: str) -> dict[str, Counter[str]]:
        """Return how often files say what of whom: {"begin": {jid: times}, ...}."""
        found: dict[str, Counter[str]] = {}
        for line in "".join(path.read_text() for path in self.folder.glob(pattern)).splitlines():
            what, jid = line.split(" ")[:2]
            found.setdefault(what, Counter())[jid] += 1
        return found

    def finish(self, timeout: float = 60) -> Counts:
        """End the pushers, wait until no job runs, and stop the worker."""
        pushers = [self.processes[name] for name in self.processes if name.startswith("pusher")]
        for pusher in pushers:
            pusher.signal(signal.SIGTERM)
        for pusher in pushers:
            assert pusher.wait(timeout + 60) == 0, pusher.log.read_text()
        self.wait_for_calm(timeout)
        stopping, code = self.stop_worker()
        return self.count(stopping, code)

    def wait_for_calm(self, timeout: float) -> None:
        """Wait until nothing is queued and no job runs, for three seconds."""
        deadline = time.monotonic() + timeout
        calm_since = time.monotonic()
        while time.monotonic() < min(deadline, calm_since + 3):
            time.sleep(0.2)
            runs = self.events("runs")
            ran = runs.get("begin") == runs.get("end")
            if not ran or self.info()["queues"].get("default"):
                calm_since = time.monotonic()

    def stop_worker(self, name: str = "worker") -> tuple[float, int | None]:
        """Send TERM; return the seconds until the end, and the exit code."""
        worker = self.processes[name]
        began = time.monotonic()
        worker.signal(signal.SIGTERM)
        code = worker.wait(90)
        return round(time.monotonic() - began, 1), code

    def count(self, stopping: float, code: int | None) -> Counts:
        pushed = self.events("pusher*.out")
        runs = self.events("runs").get("begin", Counter())
        ok, unknown = (set(pushed.get(what, ())) for what in ("ok", "unknown"))
        info = self.info()
        waiting = sum(info["queues"].values()) + sum(
            info["sets"][each] for each in ("retries", "scheduled", "dead")
        )
        # FAIL finds a job that is reserved, and ends its reservation.
        reserved = {jid for jid in pushed.get("try", ()) if self.ask(f"reserved {jid}")}
        missing = ok - set(runs) - reserved
        log = "".join(path.read_text() for path in self.folder.glob("worker*.log"))
        return Counts(
            pushed=len(ok),
            unknown=len(unknown),
            run=len(runs),
            doubled=sum(times > 1 for times in runs.values()),
            stranded=len(reserved - set(runs)),
            unreported=len(reserved & set(runs)),
            lost=max(0, len(missing) - waiting),
            warned=len(GIVEN_UP.findall(log)),
            stopping=stopping,
            exit_code=code,
        )


def real_command(folder: Path) -> list[str]:
    """Return the command of the real server, which listens on every address of its namespace."""
    command = os.environ.get(VARIABLE)
    if not command:
        pytest.skip(f"needs a real server to start: set {VARIABLE}")
    folder.mkdir(exist_ok=True)
    if "{host}" not in command:
        command = command.replace("127.0.0.1:{port}", "{host}:{port}")
    words = {"host": "0.0.0.0", "port": PORT, "web": WEB, "folder": folder}
    return [word.format(**words) for word in shlex.split(command)]
