from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

import faktory
from faktory import Client
from faktory.cli.tools import main

from .conftest import Process

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
