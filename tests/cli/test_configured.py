"""A program whose `faktory.configure` names the server, which no variable does."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faktory import Client
from faktory.cli.exits import Exit
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

from .support import WORKER, Run, WaitUntil, pids, push, ready, reports

PROGRAM = """
import json
import os
import ssl
import time

import faktory

faktory.configure(url={url!r}{more})

@faktory.job(retry=1)
def slow(path):
    open(path, "w").close()
    while not os.path.exists(path + ".go"):
        time.sleep(0.01)

@faktory.job
def again():
    slow.perform_async("nowhere/at/all")
    with faktory.Client() as client:
        client.push({{"jobtype": "other", "args": []}})
"""


@pytest.fixture
def configure(folder: Path) -> Callable[..., None]:
    """`configure(url)`: write the module program.py, which calls `faktory.configure`."""

    def configure(url: str, more: str = "") -> None:
        (folder / "program.py").write_text(PROGRAM.format(url=url, more=more))

    return configure


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[EmbeddedServer]:
    """A server whose certificate the program trusts, and nobody else."""
    cert, key = map(str, certificate)
    timing = Timing(fetch_wait=0.1)
    with EmbeddedServer(password="geheim", tls_cert=cert, tls_key=key, timing=timing) as server:
        yield server


def test_a_worker_works_for_the_server_of_its_program(
    server: EmbeddedServer, run: Run, configure: Callable[..., None], wait_until: WaitUntil
) -> None:
    configure(server.url)
    jid = push(server, "again")
    worker = run(WORKER, "-r", "program", "-c", "1")
    wait_until(lambda: reports(server, jid) == ["ACK"])
    pushes = [text for verb, text in server.commands if verb in ("PUSH", "PUSHB")]
    assert sum("nowhere/at/all" in text or "other" in text for text in pushes) == 2
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    place = server.url.removeprefix("tcp://")
    assert f"connected to Faktory 1.10.0 at {place} (tcp)" in worker.said


def kill(
    server: EmbeddedServer, client: Client, run: Run, folder: Path, wait_until: WaitUntil
) -> str:
    """Kill the one worker of a supervisor in the middle of a job; return what that logs."""
    supervisor = run(WORKER, "-r", "program", "--processes", "1", "-v")
    wait_until(lambda: ready(supervisor) == 1)
    jid = client.push({"jobtype": "slow", "args": [str(folder / "began")], "retry": 1})
    wait_until((folder / "began").exists)
    os.kill(pids(supervisor)[0], signal.SIGKILL)
    wait_until(lambda: server.retries)
    assert [(job["jid"], job["failure"]["errtype"]) for job in server.retries] == [
        (jid, "ProcessDied")
    ]
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == Exit.STOPPED
    return supervisor.said


def test_the_jobs_of_a_dead_worker_are_reported_to_the_server_of_its_program(
    server: EmbeddedServer,
    client: Client,
    run: Run,
    folder: Path,
    configure: Callable[..., None],
    wait_until: WaitUntil,
) -> None:
    configure(server.url)
    said = kill(server, client, run, folder, wait_until)
    place = server.url.removeprefix("tcp://")
    assert f"worker 1: connected to Faktory 1.10.0 at {place} (tcp)" in said


def test_a_report_uses_the_ssl_context_of_the_program(
    secure: EmbeddedServer,
    certificate: tuple[Path, Path],
    run: Run,
    folder: Path,
    configure: Callable[..., None],
    wait_until: WaitUntil,
) -> None:
    cafile = str(certificate[0])
    configure(secure.url, f", ssl_context=ssl.create_default_context(cafile={cafile!r})")
    with Client(secure.url, ssl_context=ssl.create_default_context(cafile=cafile)) as client:
        said = kill(secure, client, run, folder, wait_until)
    assert "geheim" not in said


def test_a_tool_that_loads_the_program_uses_its_server(
    server: EmbeddedServer, run: Run, configure: Callable[..., None]
) -> None:
    configure(server.url)
    jid = "tool-12345678"
    pushed = run("faktory", "push", "slow", "x", "--jid", jid, "-r", "program")
    assert (pushed.wait(), pushed.printed) == (Exit.DONE, f"{jid}\n")
    queues = run("faktory", "queues", "--json", "-r", "program")
    assert queues.wait() == Exit.DONE
    assert [queue["name"] for queue in json.loads(queues.printed)] == ["default"]
    other = run("faktory", "queues", "-r", "program", "--url", "tcp://127.0.0.1:1")
    assert other.wait() == Exit.UNREACHABLE


def test_a_tool_says_what_it_cannot_load(run: Run, folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0")
    for name, code in (("gone", Exit.MISSING), ("broken", Exit.IMPORT)):
        done = run("faktory", "info", "-r", name)
        assert done.wait() == code
        assert done.said.startswith(f"python -m faktory info: -r {name}: cannot be imported: ")
        assert done.said.count("\n") == 1


def test_doctor_finds_an_ssl_context_for_an_address_without_tls(
    server: EmbeddedServer, configure: Callable[..., None], run: Run
) -> None:
    configure(server.url, ", ssl_context=ssl.create_default_context()")
    done = run("faktory", "doctor", "-r", "program")
    assert done.wait() == Exit.USAGE
    assert re.search(r"error +address +faktory.configure has an ssl_context, and tcp", done.printed)


def test_doctor_examines_the_server_of_the_program(
    secure: EmbeddedServer, certificate: tuple[Path, Path], configure: Callable[..., None], run: Run
) -> None:
    cafile = str(certificate[0])
    configure(secure.url, f", ssl_context=ssl.create_default_context(cafile={cafile!r})")
    done = run("faktory", "doctor", "-r", "program")
    assert done.wait() == Exit.DONE, done.printed
    address = secure.url.replace("geheim", "***")
    assert f"{address} (faktory.configure)\n" in done.printed
