"""The pages of `faktory-worker server`: where they are, and why not."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import (
    HTTPBasicAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    build_opener,
    urlopen,
)

import pytest

from faktory import Client
from faktory.cli.tools import page

from .support import Process, Run, WaitUntil, call

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("uvicorn", reason="needs the extra web")
pytest.importorskip("jinja2", reason="needs the extra web")

Started = Callable[..., tuple[Process, str, str]]


@pytest.fixture
def started(run: Run, wait_until: WaitUntil) -> Started:
    """`started("--web", ...)`: the server, its URL, and its line about the pages."""

    def started(*flags: str) -> tuple[Process, str, str]:
        server = run("faktory", "server", "--bind", "127.0.0.1:0", *flags)
        wait_until(lambda: server.printed.count("\n") > 1 or server.process.poll() is not None)
        first, second = server.printed.splitlines()[:2]
        return server, first.rpartition("FAKTORY_URL=")[2], second

    return started


def address(line: str) -> str:
    """Return the address in a line about the pages."""
    found = re.fullmatch(r"In a browser: (https?://127\.0\.0\.1:\d+/)", line)
    assert found is not None, line
    return found[1]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_pages_are_there_until_the_server_is_stopped(
    started: Started, number: signal.Signals
) -> None:
    server, url, line = started("--web", "127.0.0.1:0")
    page = address(line)
    with Client(url) as client:
        client.push({"jobtype": "SendReceipt", "args": []})
    with urlopen(f"{page}queues", timeout=20) as answer:
        assert "default" in answer.read().decode()
    server.send(number)
    assert server.wait() == 0
    assert server.said == ""
    assert server.printed.splitlines()[2:] == ["1 job is gone (1 queued)."]


def test_a_server_with_an_open_page_ends_at_once(started: Started) -> None:
    server, _, line = started("--web", "127.0.0.1:0")
    port = int(address(line).rpartition(":")[2][:-1])
    streams = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    for sock in streams[:6]:
        request = "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        sock.sendall(request.encode())
        data = b""
        while b"</main>" not in data:
            data += sock.recv(65536)
    streams[6].sendall(b"GET / HTTP/1.1\r\nHost: loc")  # and one in the middle of a request
    server.send(signal.SIGTERM)
    assert server.wait(8) == 0
    assert server.said == ""
    for sock in streams:
        sock.close()


def test_read_only_by_a_flag(started: Started) -> None:
    _, url, line = started("--web", "127.0.0.1:0", "--web-read-only")
    with Client(url) as client:
        client.push({"jobtype": "SendReceipt", "args": []})
    with urlopen(f"{address(line)}queues", timeout=20) as answer:
        text = answer.read().decode()
    assert "default" in text
    assert 'method="post"' not in text


def test_the_password_of_the_server_is_that_of_its_pages(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKTORY_PASSWORD", "geheim")
    _, _, line = started("--web", "127.0.0.1:0")
    passwords = HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, address(line), "any", "geheim")
    with build_opener(HTTPBasicAuthHandler(passwords)).open(address(line), timeout=20) as answer:
        assert answer.status == 200
    assert "geheim" not in line


def test_with_a_certificate_the_pages_use_tls(
    started: Started, certificate: tuple[Path, Path]
) -> None:
    cert, key = map(str, certificate)
    flags = ("--tls-cert", cert, "--tls-key", key)
    server, _, line = started("--web", "127.0.0.1:0", *flags)
    assert address(line).startswith("https://")
    context = ssl.create_default_context(cafile=cert)
    with urlopen(address(line), timeout=20, context=context) as answer:
        assert answer.status == 200
    port = int(address(line).rpartition(":")[2][:-1])
    with socket.create_connection(("127.0.0.1", port)) as sock:  # no TLS
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP" not in sock.recv(100)
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert server.said == ""


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:7420"])
def test_pages_for_other_machines_need_a_password_or_consent(bind: str) -> None:
    done = call("server", "--bind", "127.0.0.1:0", "--web", bind)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"python -m faktory server: --web is {bind!r}: other machines")
    assert "--password" in done.stderr
    assert "--insecure" in done.stderr


@pytest.mark.parametrize("flag", [("--insecure",), ("--password", "geheim")])
def test_with_either_they_are_shown(started: Started, flag: tuple[str, ...]) -> None:
    _, _, line = started("--web", "0.0.0.0:0", *flag)
    assert address(line)


@pytest.mark.parametrize("bind", ["nonsense", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", ""])
def test_a_wrong_address_is_wrong_usage(bind: str) -> None:
    done = call("server", "--bind", "127.0.0.1:0", "--web", bind)
    assert (done.code, done.stdout) == (2, "")
    assert f"--web is {bind!r}" in done.stderr


def test_pages_and_none_of_them_cannot_both_be_asked_for() -> None:
    assert call("server", "--web", "127.0.0.1:0", "--no-web").code == 2


def test_a_taken_port_that_was_asked_for_ends_the_command(taken: int, tmp_path: Path) -> None:
    data = tmp_path / "jobs.db"
    done = call(
        "server", "--bind", "127.0.0.1:0", "--data", str(data), "--web", f"127.0.0.1:{taken}"
    )
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert str(taken) in done.stderr
    assert "--web 127.0.0.1:0 takes a free port" in done.stderr
    assert "--bind 127.0.0.1:0" not in done.stderr
    assert not data.exists()


def test_a_server_whose_own_port_is_taken_leaves_no_page(taken: int) -> None:
    done = call("server", "--bind", f"127.0.0.1:{taken}", "--web", "127.0.0.1:0")
    assert (done.code, done.stdout) == (1, "")
    assert "--bind 127.0.0.1:0 takes a free port" in done.stderr


DRIVER = """
import sys
from faktory.cli.tools import main, page
page._DEFAULT = sys.argv.pop(1)
{before}
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture
def with_default(
    folder: Path, run: Run, wait_until: WaitUntil
) -> Callable[..., tuple[Process, str]]:
    """`with_default(address, before, *flags)`: a server whose pages have another default."""

    def start(default: str, before: str, *flags: str) -> tuple[Process, str]:
        (folder / "driver.py").write_text(DRIVER.format(before=before))
        server = run("driver", default, "server", "--bind", "127.0.0.1:0", *flags)
        wait_until(lambda: server.printed.count("\n") > 1 or server.process.poll() is not None)
        return server, server.printed.splitlines()[1]

    return start


def serves(server: Process) -> bool:
    """Push a job, and stop the server."""
    url = server.printed.splitlines()[0].rpartition("FAKTORY_URL=")[2]
    with Client(url) as client:
        client.push({"jobtype": "work", "args": []})
    server.send(signal.SIGTERM)
    return server.wait() == 0 and server.said == ""


def test_pages_are_shown_by_default(with_default: Callable[..., tuple[Process, str]]) -> None:
    assert page._DEFAULT == "127.0.0.1:7420"
    server, line = with_default("127.0.0.1:0", "")
    with urlopen(f"{address(line)}health", timeout=20) as answer:
        assert answer.status == 200
    assert serves(server)


def test_where_the_default_port_is_taken_the_server_goes_on(
    with_default: Callable[..., tuple[Process, str]], taken: int
) -> None:
    server, line = with_default(f"127.0.0.1:{taken}", "")
    assert line.startswith(f"No pages in a browser: 127.0.0.1:{taken} cannot be bound")
    assert "--web 127.0.0.1:0" in line
    assert serves(server)


@pytest.mark.parametrize("flags", [(), ("--web", "127.0.0.1:0")])
@pytest.mark.parametrize(
    "before",
    [
        "page.find_spec = lambda name: None",
        "sys.modules['starlette'] = None",
        "sys.modules['jinja2'] = None",
        "sys.modules['uvicorn'] = None",
    ],
)
def test_without_the_extra_one_line_says_how_to_get_it(
    with_default: Callable[..., tuple[Process, str]], before: str, flags: tuple[str, ...]
) -> None:
    server, line = with_default("127.0.0.1:0", before, *flags)
    assert "pip install 'faktory-worker[web]'" in line
    assert len(server.printed.splitlines()) == 2
    assert serves(server)


def test_without_pages_nothing_of_them_is_imported() -> None:
    code = (
        "import sys\n"
        "from faktory.cli.tools.main import main\n"
        "assert main(['server', '--bind', '127.0.0.1:0', '--no-web', '--until-eof']) == 0\n"
        "heavy = ('starlette', 'uvicorn', 'jinja2', 'anyio', 'h11', 'faktory.server.web')\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input="", capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_job_port_answers_before_the_pages_are_imported(
    with_default: Callable[..., tuple[Process, str]], folder: Path, run: Run, wait_until: WaitUntil
) -> None:
    # An import that waits for a file stands for one that takes long.
    (folder / "driver.py").write_text(
        DRIVER.format(
            before="""
import os, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        while name == "starlette" and not os.path.exists("go-on"):
            time.sleep(0.01)
page.find_spec = lambda name: True
sys.meta_path.insert(0, Slow())
"""
        )
    )
    server = run("driver", "127.0.0.1:0", "server", "--bind", "127.0.0.1:0")
    wait_until(lambda: "\n" in server.printed)
    with Client(server.printed.rpartition("FAKTORY_URL=")[2].strip()) as client:
        client.push({"jobtype": "work", "args": []})
    assert server.printed.count("\n") == 1
    (folder / "go-on").touch()
    wait_until(lambda: server.printed.count("\n") == 2)
    assert address(server.printed.splitlines()[1])


def test_a_server_that_is_stopped_while_it_imports_the_pages_ends(
    started: Started, run: Run, wait_until: WaitUntil
) -> None:
    server = run("faktory", "server", "--bind", "127.0.0.1:0", "--web", "127.0.0.1:0")
    wait_until(lambda: "\n" in server.printed)
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert server.said == ""


# The demo.


def test_the_demo_says_how_to_see_jobs(run: Run) -> None:
    demo = run("faktory", "demo", "--jobs", "100")
    assert demo.wait(30) == 0
    last = demo.printed.splitlines()[-1]
    assert "http://127.0.0.1:7420/" in last
    assert "DEMO_WEB=1 make demo" in last


def test_with_another_server_the_demo_names_the_pages_of_that(
    run: Run, server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMO_WEB", "1")
    demo = run("faktory", "demo", "--jobs", "100", url=server.url)  # type: ignore[attr-defined]
    assert demo.wait(30) == 0
    assert "of that server" in demo.printed.splitlines()[-1]


def test_the_demo_goes_on_with_jobs_to_look_at(wait_until: WaitUntil, tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "FAKTORY_URL"}
    with subprocess.Popen(
        [sys.executable, "-m", "faktory", "demo", "--jobs", "100"],
        env={**environment, "DEMO_WEB": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        try:
            assert demo.stdout is not None
            line = next(line for line in demo.stdout if "In a browser" in line)
            site = address(line.strip())

            def text_of(path: str) -> str:
                with urlopen(f"{site}{path}", timeout=20) as answer:
                    return str(answer.read().decode())

            wait_until(lambda: "smtp.example.com" in text_of("retries"))
            wait_until(lambda: "ValueError" in text_of("morgue"))
            wait_until(lambda: "YearlyReport" in text_of("busy"))
            assert "SendReceipt" in text_of("scheduled")
            demo.send_signal(signal.SIGINT)
            assert demo.wait(20) == 0
            assert demo.stderr is not None
            assert demo.stderr.read() == ""
        finally:
            demo.kill()
