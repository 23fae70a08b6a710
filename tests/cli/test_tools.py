from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import faktory
from faktory import Client
from faktory.server import EmbeddedServer

from .support import Process, Run, WaitUntil, call, run_on_terminal
from .support import run as run_process

Started = Callable[..., tuple[Process, str]]


@pytest.fixture
def started(run: Run, wait_until: WaitUntil) -> Started:
    """`started("--enterprise")`: start the tool server, return its process and its URL."""

    def started(*flags: str) -> tuple[Process, str]:
        server = run("faktory", "server", "--no-web", "--bind", "127.0.0.1:0", *flags)
        wait_until(lambda: "\n" in server.printed)
        return server, server.printed.rpartition("FAKTORY_URL=")[2].strip()

    return started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_prints_its_address_and_serves_until_it_is_stopped(
    started: Started, number: signal.Signals
) -> None:
    server, url = started("--password", "geh/eim")
    assert "in memory, for development and tests only" in server.printed
    assert "Enterprise" not in server.printed
    assert url.startswith("tcp://:***@127.0.0.1:")
    assert "*** is the password, from --password. FAKTORY_URL=" in server.printed
    with Client(url.replace("***", "geh%2Feim")) as client:
        client.push({"jobtype": "work", "args": []})
        assert client.info()["faktory"]["queues"] == {"default": 1}
        server.send(number)
        assert server.wait() == 0
    assert server.said == ""
    assert server.printed.splitlines()[1:] == ["1 job is gone (1 queued)."]
    assert "geh" not in server.printed


def test_the_server_uses_tls_with_a_certificate(
    started: Started, certificate: tuple[Path, Path]
) -> None:
    cert, key = map(str, certificate)
    server, url = started("--tls-cert", cert, "--tls-key", key)
    assert url.startswith("tcp+tls://127.0.0.1:")
    with Client(url, ssl_context=ssl.create_default_context(cafile=cert)) as client:
        assert client.info()["server"]["description"] == "Faktory"
    server.send(signal.SIGTERM)
    assert server.wait() == 0


def test_the_server_has_enterprise_features_by_a_flag_and_calls_them_approximate(
    started: Started,
) -> None:
    server, url = started("--enterprise")
    assert "in memory, for development and tests only" in server.printed
    assert "Its Enterprise features are approximate." in server.printed
    with Client(url) as client:
        assert client.info()["server"]["description"] == "Faktory Enterprise"
    server.send(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", ":0"])
def test_a_server_for_other_machines_needs_a_password_or_consent(bind: str) -> None:
    done = call("server", "--no-web", "--bind", bind)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"python -m faktory server: --bind is {bind!r}: other machines")
    assert "--password" in done.stderr
    assert "--insecure" in done.stderr


def test_an_insecure_server_says_so(run: Run, wait_until: WaitUntil) -> None:
    server = run("faktory", "server", "--no-web", "--bind", "0.0.0.0:0", "--insecure")
    wait_until(lambda: "\n" in server.printed)
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert "without a password: other machines can push and take jobs" in server.said


@pytest.mark.parametrize("flag", [(), ("-q",), ("--quiet",)])
def test_the_server_logs_each_run_that_fails(
    started: Started, wait_until: WaitUntil, flag: tuple[str, ...]
) -> None:
    server, url = started(*flag)
    with Client(url) as client:
        for retry in (1, 0, -1):
            client.push({"jobtype": "resize", "args": [], "retry": retry, "jid": f"job-000{retry}"})
            job = client.fetch("default")
            assert job is not None
            client.fail(job["jid"], ValueError("no such cat\n\x1b[2J"))
        if not flag:
            wait_until(lambda: server.said.count("\n") == 3)
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert server.printed.splitlines()[1:] == ["2 jobs are gone (1 retries, 1 dead)."]
    lines = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in server.stderr]
    lines = [re.sub(r"again in \d\d s", "again in N s", line) for line in lines]
    failed = "ValueError: no such cat\\n\\x1b[2J\n"
    assert (
        lines == []
        if flag
        else [
            f"resize job-0001 from default: attempt 1 of 2 failed, runs again in N s: {failed}",
            f"resize job-0000 from default: attempt 1 of 1 failed, dropped (retry=0): {failed}",
            f"resize job-000-1 from default: attempt 1 of 1 failed, dead: {failed}",
        ]
    )


def test_the_memory_for_jobs_is_limited_by_a_flag(started: Started) -> None:
    server, url = started("--max-memory", "1")
    with Client(url) as client:
        client.push({"jobtype": "work", "args": ["x" * 300_000]})
        with pytest.raises(faktory.FaktoryServerError, match=r"limit of 1 MiB \(--max-memory\)"):
            client.push({"jobtype": "work", "args": ["x" * 300_000]})
    server.send(signal.SIGTERM)
    assert server.wait() == 0


def test_a_taken_port_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        done = call("server", "--no-web", "--bind", f"127.0.0.1:{port}")
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.startswith("python -m faktory server: ")
    assert done.stderr.partition("server: ")[2] == (
        f"--bind 127.0.0.1:{port}: another program listens there: Address already in use. "
        "--bind 127.0.0.1:0 takes a free port.\n"
    )


def test_the_password_of_the_server_may_be_in_a_variable(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKTORY_PASSWORD", "geheim")
    server, url = started()
    assert "*** is the password, from FAKTORY_PASSWORD. FAKTORY_URL=" in server.printed
    assert "geheim" not in server.printed
    with Client(url.replace("***", "geheim")) as client:
        assert client.info()["server"]["description"] == "Faktory"
    with pytest.raises(faktory.FaktoryAuthenticationError):
        Client(url.replace("***", "wrong")).info()


def test_help_names_the_variable_of_the_password_and_not_its_value() -> None:
    text = call("server", "-h", env={"FAKTORY_PASSWORD": "geheim"}).stdout
    assert "FAKTORY_PASSWORD" in text
    assert "geheim" not in text
    assert "--until-eof" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: TOOL"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (
            ["server", "--no-web", "--bind", "nonsense"],
            "python -m faktory server: bind is 'nonsense'",
        ),
        (["server", "--max-memory", "0"], "python -m faktory server: max_memory is 0: it must be"),
        (["server", "--tls-key", "x"], "python -m faktory server: TLS needs both"),
        (
            ["demo", "--jobs", "99"],
            "python -m faktory demo: --jobs is 99: the demo needs 100 or more",
        ),
        (["demo", "--jobs", "many"], "invalid int value: 'many'"),
    ],
)
def test_wrong_usage_has_its_own_exit_code(arguments: list[str], message: str) -> None:
    done = call(*arguments)
    assert done.code == 2
    assert message in done.stderr


def test_version() -> None:
    assert run_process("-V") == (0, f"faktory-worker {faktory.__version__}\n", "")


ON_A_SERVER = [
    ("info",),
    ("queues",),
    ("top", "-n", "1"),
    ("push", "work"),
    ("push", "-f", "-"),
    ("pause", "mail"),
    ("resume", "mail"),
    ("remove", "mail", "--yes"),
    ("mutate", "clear", "dead", "--yes"),
    ("flush", "--yes"),
]
"""Each tool that needs a server."""


@pytest.mark.parametrize("command", ON_A_SERVER, ids=lambda command: command[0])
def test_an_unreachable_server_ends_each_tool_with_one_line(
    command: tuple[str, ...], dead_url: str
) -> None:
    expected = (
        f"python -m faktory {command[0]}: nothing listens on {dead_url[6:]} (connection refused). "
        "Is the Faktory server running? For development: faktory-worker server.\n"
    )
    assert call(*command, url=dead_url) == (9, "", expected)


def test_the_line_is_the_same_as_a_process_with_and_without_a_terminal() -> None:
    expected = (
        "python -m faktory info: nothing listens on 127.0.0.1:1 (connection refused). "
        "Is the Faktory server running? For development: faktory-worker server.\n"
    )
    assert run_process("info", "--url", "tcp://127.0.0.1:1") == (9, "", expected)
    assert run_on_terminal("info", "--url", "tcp://127.0.0.1:1") == (9, expected, "")


@pytest.mark.parametrize("command", ON_A_SERVER, ids=lambda command: command[0])
def test_a_wrong_password_has_its_own_exit_code(command: tuple[str, ...]) -> None:
    with EmbeddedServer(password="geheim") as server:
        done = call(*command, url=server.url.replace("geheim", "wrong"))
    assert done.code == 4
    assert "the server refused the password" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("tool", [*(command[0] for command in ON_A_SERVER), "doctor", "demo"])
def test_an_unknown_flag_is_wrong_usage(tool: str) -> None:
    done = call(tool, "--nonsense")
    assert done.code == 2
    assert "unrecognized arguments: --nonsense. See " in done.stderr or (
        tool == "mutate" and "the following arguments are required" in done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ON_A_SERVER, ids=lambda command: command[0])
def test_an_invalid_address_is_wrong_usage(command: tuple[str, ...]) -> None:
    done = call(*command, "--url", "http://:geheim@localhost")
    assert done.code == 2
    assert "use tcp:// or, for TLS, tcp+tls://" in done.stderr
    assert "geheim" not in done.stderr


def test_a_core_that_was_not_built_ends_a_tool_with_one_line(tmp_path: Path) -> None:
    package = Path(faktory.__file__).parent
    shutil.copytree(package, tmp_path / "faktory", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    done = run_process("info", cwd=tmp_path, env={"FAKTORY_IMPL": "cython"}, site=False)
    assert done.code == 2
    assert done.stderr.startswith(
        "python -m faktory info: FAKTORY_IMPL=cython asks for the compiled core, but it was not "
    )
    assert done.stderr.count("\n") == 1
    assert run_process("--help", cwd=tmp_path, env={"FAKTORY_IMPL": "cython"}, site=False).code == 0


def test_a_closed_output_causes_no_traceback(server: EmbeddedServer) -> None:
    with Client(server.url) as client:
        client.push_bulk({"jobtype": "w", "args": [], "queue": f"queue-{n}"} for n in range(9000))
    command = [sys.executable, "-m", "faktory", "queues", "--url", server.url]
    reader, writer = os.pipe()
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        os.close(reader)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_help_has_the_tools_examples_and_exit_codes() -> None:
    text = call("--help").stdout
    for tool in (*(command[0] for command in ON_A_SERVER), "doctor", "server", "demo"):
        assert f"\n  {tool} " in text
    for part in ("FAKTORY_URL", "examples:", "exit codes of the tools:", "faktory-worker"):
        assert part in text
