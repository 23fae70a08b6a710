"""`faktory-worker --health` and `faktory-worker health`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from faktory.cli import health_address
from faktory.cli.exits import Exit
from faktory.cli.worker import config, logs
from faktory.cli.worker.main import main
from faktory.cli.worker.writer import MAX_ENTRIES, Writer
from faktory.server import EmbeddedServer
from faktory.worker import counts

from . import support
from .support import WORKER, Process, Run, WaitUntil, call, pids, push, ready, reports
from .test_processes import SLOW

QUICK = """
import sys
from functools import partial
from faktory.cli.worker import health
from faktory.cli.worker.main import main

health.Probes = partial(health.Probes, stuck_after=2.5)
sys.exit(main())
"""
"""The command whose clocks may be late for a short time only."""

HASTY = """
import sys
from faktory.cli.worker.main import main
from faktory.worker import health

health.REQUEST_TIMEOUT = 1.0
sys.exit(main())
"""
"""The command that waits a short time only for a request."""

Get = Callable[[str], tuple[int, Any]]


@pytest.fixture(autouse=True)
def programs(folder: Path) -> None:
    (folder / "slow.py").write_text(SLOW)
    (folder / "quick.py").write_text(QUICK)
    (folder / "hasty.py").write_text(HASTY)


@pytest.fixture
def get(wait_until: WaitUntil) -> Get:
    """`get(worker)("/readyz")`: the status and the JSON, or the text, of a worker's answer."""

    def of(worker: Process) -> Callable[[str], tuple[int, Any]]:
        found = wait_until(lambda: re.search(r"health: (http://\S+) has ", worker.said))

        def get(path: str) -> tuple[int, Any]:
            try:
                with urllib.request.urlopen(f"{found[1]}{path}", timeout=10) as answer:
                    status, body = answer.status, answer.read()
            except HTTPError as error:
                with error:
                    status, body = error.code, error.read()
            return status, body.decode() if body.startswith(b"#") else json.loads(body)

        return get

    return of  # type: ignore[return-value]


def numbers(text: str) -> dict[str, float]:
    """Return the samples of /metrics that are not 0, without the buckets."""
    samples = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
    return {name: float(n) for name, _, n in samples if float(n) and "_bucket" not in name}


def outcomes(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, number in numbers(text).items():
        if match := re.search(r'^faktory_jobs_total.*outcome="(\w+)"', name):
            found[match[1]] = found.get(match[1], 0) + number
    return found


def test_a_worker_answers_probes_through_an_outage_quiet_and_a_stop_with_a_long_job(
    server: EmbeddedServer, run: Run, folder: Path, get: Any, wait_until: WaitUntil
) -> None:
    worker = run(WORKER, "-r", "slow", "-c", "1", "--health", "0", url=server.url)
    ask = get(worker)
    wait_until(lambda: ask("/readyz") == (200, {"reason": "ready"}))
    jid = push(server, "slow", str(folder / "began"))
    wait_until((folder / "began").exists)
    assert ask("/readyz") == (200, {"reason": "ready"})  # all threads are busy
    wait_until(lambda: numbers(ask("/metrics")[1])["faktory_jobs_running"] == 1)
    server.refuse_connections()
    server.disconnect()
    (folder / "began.go").touch()
    wait_until(lambda: ask("/readyz") == (503, {"reason": "outage"}))
    assert ask("/livez") == (200, {"reason": "alive"})
    server.accept_connections()
    wait_until(lambda: ask("/readyz")[0] == 200)
    assert reports(server, jid)
    push(server, "slow", str(folder / "second"))
    wait_until((folder / "second").exists)
    worker.send(signal.SIGTSTP)
    wait_until(lambda: ask("/readyz") == (503, {"reason": "quiet"}))
    assert ask("/livez")[0] == 200
    worker.send(signal.SIGTERM)
    wait_until(lambda: ask("/readyz") == (503, {"reason": "stopping"}))
    assert ask("/livez")[0] == 200
    assert numbers(ask("/metrics")[1])["faktory_jobs_running"] == 1
    (folder / "second.go").touch()
    assert worker.wait() == Exit.STOPPED


def test_a_supervisor_answers_for_its_workers_and_keeps_what_a_dead_one_counted(
    server: EmbeddedServer, run: Run, folder: Path, get: Any, wait_until: WaitUntil
) -> None:
    flags = ["-r", "slow", "-c", "2", "--processes", "2", "-v", "--health", "0"]
    supervisor = run(WORKER, *flags, url=server.url)
    ask = get(supervisor)
    wait_until(lambda: ready(supervisor) == 2)
    wait_until(lambda: [w["reason"] for w in ask("/readyz")[1]["workers"]] == ["ready"] * 2)
    for _ in range(100):
        push(server, "note_pid", str(folder / "notes"))
    for _ in range(3):
        push(server, "again")
    wait_until(lambda: outcomes(ask("/metrics")[1]) == {"done": 100, "retried": 3})
    held = [push(server, "slow", str(folder / "began"), retry=0) for _ in range(4)]
    wait_until(lambda: numbers(ask("/metrics")[1])["faktory_jobs_running"] == 4)
    os.kill(pids(supervisor)[0], signal.SIGKILL)
    wait_until(lambda: server.failures == 2)
    wait_until(lambda: outcomes(ask("/metrics")[1]) == {"done": 100, "retried": 3, "exhausted": 2})
    assert numbers(ask("/metrics")[1])["faktory_jobs_running"] == 2
    assert ask("/readyz")[0] == ask("/livez")[0] == 200
    (folder / "began.go").touch()
    wait_until(lambda: outcomes(ask("/metrics")[1]) == {"done": 102, "retried": 3, "exhausted": 2})
    assert server.processed == 107
    wait_until(lambda: ready(supervisor) == 3)
    supervisor.send(signal.SIGTSTP)
    wait_until(lambda: ask("/readyz")[1]["reason"] == "quiet")
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == Exit.STOPPED
    assert len(held) == 4


@pytest.mark.parametrize("flags", [[], ["--processes", "1"]])
def test_a_client_that_sends_no_whole_request_is_closed(
    server: EmbeddedServer, run: Run, wait_until: WaitUntil, flags: list[str]
) -> None:
    worker = run("hasty", "-r", "slow", "-c", "1", "--health", "0", *flags, url=server.url)
    found = wait_until(lambda: re.search(r"health: http://127.0.0.1:(\d+) has ", worker.said))
    with socket.create_connection(("127.0.0.1", int(found[1])), 20) as slow:
        slow.sendall(b"GET /livez")
        assert slow.recv(1) == b""


def test_a_worker_whose_process_stands_still_is_not_alive(
    server: EmbeddedServer, run: Run, get: Any, wait_until: WaitUntil
) -> None:
    flags = ["-r", "slow", "-c", "1", "--processes", "2", "-v", "--health", "0"]
    supervisor = run("quick", *flags, url=server.url)
    ask = get(supervisor)
    wait_until(lambda: ready(supervisor) == 2)
    wait_until(lambda: all(w["reason"] == "ready" for w in ask("/readyz")[1]["workers"]))
    assert ask("/livez")[0] == 200
    os.kill(pids(supervisor)[1], signal.SIGSTOP)
    wait_until(lambda: ask("/livez")[0] == 503)
    answer = ask("/livez")[1]
    assert answer["reason"] == "stuck"
    assert re.match("worker 2: the thread that manages it has not gone on for", answer["text"])
    os.kill(pids(supervisor)[1], signal.SIGCONT)
    wait_until(lambda: ask("/livez")[0] == 200)


@pytest.mark.parametrize("flags", [[], ["--processes", "2"]])
def test_a_port_that_is_taken_is_an_error_at_the_start(
    server: EmbeddedServer, run: Run, flags: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = run(WORKER, "-r", "slow", "--health", str(port), *flags, url=server.url)
        assert worker.wait() == Exit.CANNOT_START
    assert worker.said.splitlines()[-1] == (
        f"faktory-worker: --health: it cannot listen on 127.0.0.1:{port}: Address already in use. "
        "--health 0 takes a free port"
    )


def test_it_answers_while_the_program_is_imported_and_nothing_is_left_open_in_children(
    server: EmbeddedServer, run: Run, folder: Path, get: Any, wait_until: WaitUntil
) -> None:
    (folder / "late.py").write_text(
        "import os, time\nfrom slow import *\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "@faktory.job\n"
        "def forks(path):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        listening = []\n"
        "        for name in os.listdir('/proc/self/fd'):\n"
        "            try: listening.append(os.readlink(f'/proc/self/fd/{name}'))\n"
        "            except OSError: pass\n"
        "        with open(path, 'w') as file: file.write(' '.join(listening))\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )
    worker = run(WORKER, "-r", "late", "-c", "1", "--health", "0", url=server.url)
    ask = get(worker)
    assert ask("/readyz") == (503, {"reason": "starting"})
    assert ask("/livez") == (200, {"reason": "alive"})
    (folder / "go").touch()
    wait_until(lambda: ask("/readyz")[0] == 200)
    if not Path("/proc/net/tcp").exists():
        return
    push(server, "forks", str(folder / "open"))
    wait_until(lambda: server.processed == 1)
    port = int(re.search(r"health: http://127.0.0.1:(\d+)", worker.said)[1])  # type: ignore[index]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [each[9] for each in lines if each[1].endswith(f":{port:04X}") and each[3] == "0A"]
    assert f"socket:[{inode}]" not in (folder / "open").read_text()


def test_without_the_library_metrics_are_501_and_probes_go_on(
    server: EmbeddedServer, run: Run, folder: Path, get: Any, wait_until: WaitUntil
) -> None:
    (folder / "prometheus_client.py").write_text("raise ImportError('not here')\n")
    worker = run(WORKER, "-r", "slow", "--health", "0", url=server.url)
    ask = get(worker)
    status, body = ask("/metrics")
    assert status == 501
    assert "pip install 'faktory-worker[metrics]'" in body["text"]
    wait_until(lambda: ask("/readyz")[0] == 200)


def test_nothing_is_counted_and_http_is_not_imported_without_it(
    server: EmbeddedServer, run: Run, folder: Path
) -> None:
    (folder / "look.py").write_text(
        "import sys\nfrom slow import *\n"
        "@faktory.job\n"
        "def look(path):\n"
        "    from faktory.client import pushes\n"
        "    from faktory.worker import counts\n"
        "    names = {'http.server', 'prometheus_client'} & {*sys.modules}\n"
        "    with open(path, 'w') as file:\n"
        "        print(counts.current, pushes.current, names, file=file)\n"
    )
    push(server, "look", str(folder / "seen"))
    assert run(WORKER, "-r", "look", "--burst", url=server.url).wait() == Exit.STOPPED
    assert (folder / "seen").read_text() == "None None set()\n"


# The flag


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("7431", ("127.0.0.1", 7431)),
        (":7431", ("127.0.0.1", 7431)),
        ("0", ("127.0.0.1", 0)),
        ("host:1", ("host", 1)),
        ("0.0.0.0:7431", ("0.0.0.0", 7431)),
        ("[::1]:7431", ("::1", 7431)),
        ("[::]:65535", ("::", 65535)),
    ],
)
def test_an_address_is_a_port_or_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert config.load(["--health", text], {}).health == address


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", "::1:7431", "http://host:1", "65536", "-1", "1.5", "a b:1", "x@h:1", "²"],
)
def test_another_address_is_an_error_with_examples(text: str) -> None:
    with pytest.raises(config.ConfigError, match=r"\[::1\]:7431"):
        config.load([f"--health={text}"], {})


def test_the_file_may_have_a_number_or_text(folder: Path) -> None:
    for value, address in (("7431", ("127.0.0.1", 7431)), ('"h:1"', ("h", 1))):
        (folder / "worker.toml").write_text(f"health = {value}\n")
        options = config.load(["-C", str(folder / "worker.toml")], {})
        assert options.health == address
    (folder / "worker.toml").write_text("health = true\n")
    with pytest.raises(config.ConfigError, match="neither a port nor an address"):
        config.load(["-C", str(folder / "worker.toml")], {})


def test_the_command_in_this_process_leaves_nothing_open(server: EmbeddedServer) -> None:
    try:
        done = call(
            *("-r", "slow.py", "--health", "0", "--burst"),
            main=main,
            url=server.url,
            cwd=Path.cwd(),
        )
        assert done.code in (Exit.STOPPED, Exit.MISSING)
    finally:
        counts.disable()


# faktory-worker health


class Answering:
    """Answers each connection by some bytes."""

    def __init__(self, data: bytes) -> None:
        from threading import Thread

        self._listener = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.received: list[bytes] = []
        self._data = data
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                with sock:
                    self.received.append(sock.recv(65536))
                    sock.sendall(self._data)
        except OSError:
            return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], Answering]]:
    made: list[Answering] = []

    def make(data: bytes) -> Answering:
        made.append(Answering(data))
        return made[-1]

    yield make
    for each in made:
        each.close()


OK = b'HTTP/1.0 200 OK\r\n\r\n{"reason": "ready"}'
STUCK = b'HTTP/1.0 503 No\r\n\r\n{"reason": "stuck", "text": "its heartbeat is 20 s late"}'


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (OK, 0, "ready\n"),
        (STUCK, 1, "stuck: its heartbeat is 20 s late\n"),
        (b"HTTP/1.1 204 \r\n\r\n", 1, "HTTP 204\n"),
        (b'HTTP/1.1 503 \r\n\r\n["list"]', 1, "HTTP 503\n"),
        (b'HTTP/1.1 200 \r\n\r\n{"reason": "r\xc3\xa4\xc3\xb6\\u202e"}', 0, "r\\xe4\\xf6\\u202e\n"),
    ],
)
def test_the_tool_prints_the_reason_and_exits_by_the_status(
    answering: Callable[[bytes], Answering], answer: bytes, code: int, said: str
) -> None:
    done = call("health", "--url", f"http://{answering(answer).place}")
    assert (done.code, done.stdout) == (code, said)


@pytest.mark.parametrize(
    ("path", "flags", "asked"),
    [
        ("", [], "/readyz"),
        ("/", [], "/readyz"),
        ("", ["--live"], "/livez"),
        ("/own?x=1", ["--live"], "/own?x=1"),
    ],
)
def test_it_asks_whether_the_worker_is_ready_or_alive_or_what_the_url_says(
    answering: Callable[[bytes], Answering], path: str, flags: list[str], asked: str
) -> None:
    server = answering(OK)
    assert call("health", "--url", f"http://{server.place}{path}", *flags).code == 0
    assert server.received[0].split()[1].decode() == asked


def test_the_variable_of_the_worker_says_where(answering: Callable[[bytes], Answering]) -> None:
    server = answering(OK)
    port = server.place.rpartition(":")[2]
    for address in (port, f":{port}", server.place, f"0.0.0.0:{port}"):
        done = call("health", env={health_address.VARIABLE: address})
        assert (done.code, done.stdout) == (0, "ready\n")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--url or the variable FAKTORY_WORKER_HEALTH must say where"),
        (["--url", "7431"], "is not an URL like http://127.0.0.1:7431/readyz"),
        (["--url", "https://h"], "is not an URL like"),
        (["--url", "http://::1:7431"], "is not an address"),
        (["--url", "http://127.0.0.1:99999"], "has no port from 0 to 65535"),
        (["--url", "http://127.0.0.1:0"], "--url with the port that the worker's log names"),
        (["--url", "http://127.0.0.1:1", "--timeout", "0"], "--timeout is 0: seconds above 0"),
        (["--url", "http://127.0.0.1:1", "--timeout", "nan"], "--timeout is nan: seconds above 0"),
    ],
)
def test_a_wrong_address_is_1_with_the_remedy(flags: list[str], said: str) -> None:
    done = call("health", *flags, env={health_address.VARIABLE: ""})
    assert done.code == 1
    assert said in done.stdout


def test_a_worker_that_does_not_answer_is_1(
    closed_port: int, answering: Callable[[bytes], Answering]
) -> None:
    done = call("health", "--url", f"http://127.0.0.1:{closed_port}")
    assert (done.code, done.stdout) == (
        1,
        f"http://127.0.0.1:{closed_port}/readyz: Connection refused\n",
    )
    done = call("health", "--url", f"http://{answering(b'+HI').place}")
    assert (done.code, "does not answer by HTTP: b'+HI'" in done.stdout) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        done = call("health", "--url", f"http://{place}", "--timeout", "0.1")
    assert (done.code, done.stdout) == (1, f"http://{place}/readyz: no answer within 0.1 s\n")


def test_the_tool_imports_neither_the_program_nor_what_is_heavy(
    answering: Callable[[bytes], Answering], folder: Path
) -> None:
    url = f"http://{answering(OK).place}"
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['faktory', 'health', '--url', {url!r}]\n"
        "try: runpy.run_module('faktory', run_name='__main__')\n"
        "except SystemExit as error: print(error.code)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('faktory.')))\n"
        "print({'asyncio', 'http', 'http.client', 'logging', 'ssl', 'email', 'typing_extensions',\n"
        "    'subprocess', 'importlib.metadata', 'prometheus_client'} & {*sys.modules})\n"
    )
    places = f"import sys; sys.path[:0] = {[path for path in sys.path if path]}\n"
    said = subprocess.run(
        [sys.executable, "-S", "-c", places + code],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert said.stdout.splitlines() == [
        "ready",
        "0",
        "faktory.cli faktory.cli.health_address faktory.cli.names faktory.cli.parser "
        "faktory.cli.program faktory.cli.tools faktory.cli.tools.health",
        "set()",
    ], said.stderr


def test_it_is_listed_among_the_tools_and_has_help() -> None:
    assert "health" in call("--help").stdout
    assert "--live" in support.run("health", "--help").stdout


def test_lines_that_are_dropped_are_counted(
    monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil
) -> None:
    reader, descriptor = os.pipe()
    os.set_blocking(descriptor, False)
    try:
        writer = Writer(descriptor, lambda count, why: f"{count} lines")
        monkeypatch.setattr(logs, "writer_of", lambda descriptor: writer)
        monkeypatch.setattr("faktory.cli.worker.writer.MAX_WAIT", 0.0)
        assert logs.dropped() == 0
        for _ in range(MAX_ENTRIES + 2000):
            writer.put("x" * 100)
        dropped = logs.dropped()
        assert dropped > 0
        assert logs.dropped() == dropped
    finally:
        os.close(reader)
        os.close(descriptor)
