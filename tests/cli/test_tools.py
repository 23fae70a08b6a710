from __future__ import annotations

import os
import re
import shlex
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
from faktory.cli.tools import main as tools
from faktory.cli.tools.main import main
from faktory.server import EmbeddedServer

from .conftest import Process
from .terminal import run as run_plain
from .terminal import run_on_terminal

Run = Callable[..., Process]
WaitUntil = Callable[..., object]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_says_where_it_is_and_serves_until_it_is_told_to_stop(
    run: Run, wait_until: WaitUntil, number: signal.Signals
) -> None:
    server = run("faktory", "server", "--bind", "127.0.0.1:0", "--password", "geh/eim")
    wait_until(lambda: "\n" in server.printed)
    assert "in memory, for development and tests only" in server.printed
    assert "Enterprise" not in server.printed
    url = server.printed.rpartition("FAKTORY_URL=")[2].strip()
    assert url.startswith("tcp://:geh%2Feim@127.0.0.1:")
    with Client(url) as client:
        client.push({"jobtype": "work", "args": []})
        assert client.info()["faktory"]["queues"] == {"default": 1}
        server.send(number)
        assert server.wait() == 0
    assert server.said == ""
    assert server.printed.count("\n") == 1


def test_the_server_speaks_tls_with_a_certificate(
    run: Run, wait_until: WaitUntil, certificate: tuple[Path, Path]
) -> None:
    cert, key = map(str, certificate)
    server = run("faktory", "server", "--bind", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key)
    wait_until(lambda: "\n" in server.printed)
    url = server.printed.rpartition("FAKTORY_URL=")[2].strip()
    assert url.startswith("tcp+tls://127.0.0.1:")
    with Client(url, ssl_context=ssl.create_default_context(cafile=cert)) as client:
        assert client.info()["server"]["description"] == "Faktory"
    server.send(signal.SIGTERM)
    assert server.wait() == 0


def test_the_server_knows_what_enterprise_does_when_told_and_calls_that_approximate(
    run: Run, wait_until: WaitUntil
) -> None:
    server = run("faktory", "server", "--bind", "127.0.0.1:0", "--enterprise")
    wait_until(lambda: "\n" in server.printed)
    assert "in memory, for development and tests only" in server.printed
    assert "Its Enterprise features are approximate." in server.printed
    url = server.printed.rpartition("FAKTORY_URL=")[2].strip()
    with Client(url) as client:
        assert client.info()["server"]["description"] == "Faktory Enterprise"
    server.send(signal.SIGTERM)
    assert server.wait() == 0


def test_a_port_that_is_taken_is_told_in_one_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        place = f"127.0.0.1:{sock.getsockname()[1]}"
        server = run("faktory", "server", "--bind", place)
        assert server.wait() == 1
    assert server.said.startswith("python -m faktory server: ")
    assert place.rpartition(":")[2] in server.said
    assert server.said.endswith(". --bind 127.0.0.1:0 takes a free port.\n")
    assert server.said.count("\n") == 1
    assert server.printed == ""


def test_the_password_may_come_from_a_variable_which_the_list_of_processes_does_not_show(
    run: Run, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKTORY_PASSWORD", "geheim")
    server = run("faktory", "server", "--bind", "127.0.0.1:0")
    wait_until(lambda: "\n" in server.printed)
    url = server.printed.rpartition("FAKTORY_URL=")[2].strip()
    assert url.startswith("tcp://:geheim@127.0.0.1:")
    with pytest.raises(faktory.FaktoryAuthenticationError):
        Client(url.replace("geheim", "wrong")).info()


def test_help_names_the_variable_of_the_password_and_not_its_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKTORY_PASSWORD", "geheim")
    with pytest.raises(SystemExit):
        main(["server", "-h"])
    told = capsys.readouterr().out
    assert "FAKTORY_PASSWORD" in told
    assert "geheim" not in told
    assert "--until-eof" not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: TOOL"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["server", "--bind", "nonsense"], "python -m faktory server: bind is 'nonsense'"),
        (["server", "--tls-key", "x"], "python -m faktory server: TLS needs both"),
        (
            ["demo", "--jobs", "99"],
            "python -m faktory demo: --jobs is 99: the demo needs 100 or more",
        ),
        (["demo", "--jobs", "many"], "invalid int value: 'many'"),
    ],
)
def test_wrong_usage_has_its_own_exit_code(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(arguments)
    except SystemExit as error:  # argparse's own way
        code = int(error.code or 0)
    assert code == 2
    assert told in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["-V"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"faktory-worker {faktory.__version__}\n"


ON_A_SERVER = [
    ("info",),
    ("queues",),
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
def test_a_server_that_is_not_there_ends_each_tool_with_one_line(command: tuple[str, ...]) -> None:
    with EmbeddedServer() as server:
        url = server.url
    expected = (
        f"python -m faktory {command[0]}: nothing listens on {url[6:]} (connection refused). "
        "Is the Faktory server running? For development: python -m faktory server.\n"
    )
    assert run_plain(*command, url=url) == (9, "", expected)


def test_on_a_terminal_the_line_is_the_same() -> None:
    done = run_on_terminal("info", "--url", "tcp://127.0.0.1:1")
    assert done.code == 9
    assert done.stdout.startswith("python -m faktory info: nothing listens on 127.0.0.1:1 ")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("command", ON_A_SERVER, ids=lambda command: command[0])
def test_a_password_that_is_wrong_has_its_own_exit_code(command: tuple[str, ...]) -> None:
    with EmbeddedServer(password="geheim") as server:
        done = run_plain(*command, url=server.url.replace("geheim", "wrong"))
    assert done.code == 4
    assert "the server refused the password" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("tool", [*(command[0] for command in ON_A_SERVER), "doctor", "demo"])
def test_a_flag_that_is_not_there_is_wrong_usage(tool: str) -> None:
    done = run_plain(tool, "--nonsense")
    assert done.code == 2
    assert done.stderr.endswith("error: unrecognized arguments: --nonsense\n") or (
        tool == "mutate" and "the following arguments are required" in done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ON_A_SERVER, ids=lambda command: command[0])
def test_an_address_that_cannot_be_is_wrong_usage(command: tuple[str, ...]) -> None:
    done = run_plain(*command, "--url", "http://:geheim@localhost")
    assert done.code == 2
    assert "use tcp:// or, for TLS, tcp+tls://" in done.stderr
    assert "geheim" not in done.stderr


def test_a_core_that_was_not_built_ends_a_tool_with_one_line(tmp_path: Path) -> None:
    package = Path(faktory.__file__).parent
    shutil.copytree(package, tmp_path / "faktory", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    done = run_plain("info", cwd=tmp_path, env={"FAKTORY_IMPL": "cython"}, site=False)
    assert done.code == 2
    assert done.stderr.startswith(
        "python -m faktory info: FAKTORY_IMPL=cython asks for the compiled core, but it was not "
    )
    assert done.stderr.count("\n") == 1
    assert run_plain("--help", cwd=tmp_path, env={"FAKTORY_IMPL": "cython"}, site=False).code == 0


def test_who_reads_no_further_sees_no_traceback(server: EmbeddedServer) -> None:
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


def test_help_leads_from_the_tools_to_examples_and_exit_codes() -> None:
    told = run_plain("--help").stdout
    for tool in (*(command[0] for command in ON_A_SERVER), "doctor", "server", "demo"):
        assert f"\n    {tool} " in told
    for part in ("FAKTORY_URL", "examples:", "exit codes:", "faktory-worker"):
        assert part in told


def test_each_example_of_the_help_can_be_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    examples = []
    for tool in ([], *([command[0]] for command in ON_A_SERVER), ["doctor"]):
        with pytest.raises(SystemExit):
            main([*tool, "--help"])
        told = capsys.readouterr().out.partition("example")[2]
        examples += re.findall(r"^(?:s:\n)?.*?python -m faktory ([a-z]+(?: \S+)*)", told, re.M)
    assert len(examples) == 4 + len(ON_A_SERVER) + 1
    for example in examples:
        assert tools._parser().parse_args(shlex.split(example)).run
