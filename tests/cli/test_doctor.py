"""Each finding, from a fault that is there: its text, its remedy and the exit code."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest

import faktory
from faktory import Client
from faktory.server import EmbeddedServer, dispatch

from .terminal import QUICK, examine, run, run_on_terminal, told


def without_core(folder):
    """Make a copy of the package that was built without its compiled core."""
    package = Path(faktory.__file__).parent
    shutil.copytree(package, folder / "faktory", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    return folder


def test_a_setup_in_order_has_nothing_wrong(server, folder):
    flags = ("doctor", "-r", "jobs")
    env = {"FAKTORY_IMPL": faktory.implementation}
    plain = run(*flags, url=server.url, cwd=folder, env=env)
    shown = run_on_terminal(*flags, url=server.url, cwd=folder, env=env)
    for done in (plain, shown):
        assert done.code == 0
        assert "ok       address    tcp://127.0.0.1:" in done.stdout
        assert "ok       program    job types: spin, stuck, touch; a worker for all" in done.stdout
        assert "ok       queues     no job waits in a queue\n" in done.stdout
        assert done.stdout.endswith("\nno errors, no warnings\n")
        assert "warning " not in done.stdout
    assert plain.stderr == ""


def test_all_that_is_looked_at_is_there_for_programs(server, folder):
    code, found, stderr = examine("-r", "jobs.py", url=server.url, cwd=folder)
    assert code == 0
    assert list(found) == [
        *("core", "packages", "program", "address", "server", "tls"),
        *("password", "version", "clock", "queues", "job types"),
    ]
    assert {finding["level"] for finding in found.values()} <= {"ok", "note"}
    assert stderr == ""


def test_a_remedy_stands_below_its_finding_and_long_ones_are_wrapped_on_a_terminal(server):
    with Client(server.url) as client:
        for n in range(9):
            client.push({"jobtype": "work", "args": [], "queue": f"queue-of-some-length-{n}"})
        server.travel(7200)
    plain = run("doctor", *QUICK, url=server.url).stdout
    shown = run_on_terminal("doctor", *QUICK, url=server.url).stdout
    assert "\n                    -> Start a worker with -q queue-of-some-length-" in plain
    assert max(map(len, plain.splitlines())) > 200
    assert max(map(len, shown.splitlines())) <= 200


def test_a_missing_core_is_a_warning(server, tmp_path):
    env = {"FAKTORY_IMPL": "auto"}
    code, found, _ = examine(url=server.url, cwd=without_core(tmp_path), env=env, site=False)
    level, text, remedy = told(found["core"])
    assert (code, level) == (0, "warning")
    assert text == "python: no compiled core: it was not built. Everything works, slower"
    assert remedy.startswith("Install a wheel for this platform, or build with a C compiler")


def test_a_pure_core_that_was_asked_for_is_no_warning(server):
    code, found, _ = examine(url=server.url, env={"FAKTORY_IMPL": "python"})
    level, text, remedy = told(found["core"])
    assert (code, level) == (0, "note")
    assert text == "python: FAKTORY_IMPL=python asks for it"
    assert remedy == "For the faster compiled core unset FAKTORY_IMPL."


def test_a_core_that_is_asked_for_and_missing_is_an_error(server, tmp_path):
    env = {"FAKTORY_IMPL": "cython"}
    code, found, _ = examine(url=server.url, cwd=without_core(tmp_path), env=env, site=False)
    level, text, remedy = told(found["core"])
    assert (code, level) == (2, "error")
    assert text.startswith("FAKTORY_IMPL=cython asks for the compiled core, but it was not built")
    assert remedy.startswith("Install a wheel")
    assert list(found) == ["core", "packages"]


def test_the_old_package_beside_ours_is_an_error(server, tmp_path):
    info = tmp_path / "faktory-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faktory\nVersion: 1.0.0\n")
    code, found, _ = examine(url=server.url, cwd=tmp_path)
    level, text, remedy = told(found["packages"])
    assert (code, level) == (1, "error")
    assert text.startswith("the package faktory 1.0.0 is installed beside faktory-worker.")
    assert remedy.startswith("pip uninstall faktory, then pip install --force-reinstall")
    assert found["server"]["level"] == "ok"


def test_a_module_that_is_missing_is_an_error_and_the_rest_is_still_looked_at(server, tmp_path):
    code, found, stderr = examine("-r", "app.jobs", url=server.url, cwd=tmp_path)
    level, text, remedy = told(found["program"])
    assert (code, level) == (7, "error")
    assert text == "-r app.jobs: cannot be imported: No module named 'app'"
    assert remedy == "Is it spelt right, and is this the folder that it is imported from?"
    assert found["server"]["level"] == "ok"
    assert "Traceback" not in stderr


def test_an_import_error_of_the_program_is_shown_with_its_own_traceback(server, tmp_path):
    (tmp_path / "app.py").write_text("print('begins')\nimport gone_too\n")
    code, found, stderr = examine("-r", "app", url=server.url, cwd=tmp_path)
    level, text, remedy = told(found["program"])
    assert (code, level) == (3, "error")
    assert text.startswith("-r app: cannot be imported: ModuleNotFoundError(")
    assert remedy == "The message, and a traceback if there is one above, say where."
    assert 'app.py", line 2, in <module>' in stderr
    assert "begins\n" in stderr  # not in what a program reads


def test_a_program_without_jobs_is_an_error(server, tmp_path):
    (tmp_path / "app.py").touch()
    code, found, _ = examine("-r", "app", url=server.url, cwd=tmp_path)
    level, text, remedy = told(found["program"])
    assert (code, level) == (2, "error")
    assert text == "no job type is registered, so every job would fail"
    assert remedy == "Name the module that defines jobs: -r app.jobs"


def test_an_address_that_cannot_be_is_an_error():
    code, found, _ = examine(url="localhost:7419")
    level, text, remedy = told(found["address"])
    assert (code, level) == (2, "error")
    assert text.startswith("'localhost:7419' is not a Faktory address")
    assert remedy == "Write it like tcp://localhost:7419."


def test_a_provider_that_names_nothing_is_a_warning(server):
    code, found, _ = examine(url=server.url, env={"FAKTORY_PROVIDER": "MY_FAKTORY"})
    level, text, remedy = told(found["address"])
    assert (code, level) == (0, "warning")
    assert text == (
        f"FAKTORY_PROVIDER names the variable MY_FAKTORY, which is not set, so {server.url} is "
        "used instead"
    )
    assert remedy == "Set MY_FAKTORY to the address, or unset FAKTORY_PROVIDER."


@pytest.mark.parametrize(
    ("flags", "env", "source"),
    [
        (lambda url: ["--url", url], lambda url: {}, "--url"),
        (lambda url: [], lambda url: {"FAKTORY_URL": url}, "FAKTORY_URL"),
        (lambda url: [], lambda url: {"FAKTORY_PROVIDER": "MINE", "MINE": url}, "MINE"),
    ],
)
def test_where_the_address_comes_from_is_told(server, flags, env, source):
    _, found, _ = examine(*flags(server.url), env=env(server.url))
    assert found["address"]["text"] == f"{server.url} ({source})"


def test_a_server_that_is_not_there_is_an_error():
    with EmbeddedServer() as server:
        url = server.url
    code, found, _ = examine(url=url)
    level, text, remedy = told(found["server"])
    assert (code, level) == (9, "error")
    assert text == f"nothing listens on {url[6:]} (connection refused)."
    assert remedy.startswith("Is the Faktory server running?")
    assert "version" not in found


def test_a_host_that_nobody_knows_is_an_error():
    code, found, _ = examine(url="tcp://no-such-host.invalid")
    level, text, remedy = told(found["server"])
    assert (code, level) == (9, "error")
    assert text.startswith("the host of no-such-host.invalid:7419 is not known")
    assert remedy == "Is it spelt right in FAKTORY_URL?"


def test_something_else_that_answers_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            with listener.accept()[0] as line:
                line.sendall(b"+PONG\r\n")

        threading.Thread(target=answer).start()
        code, found, _ = examine(url=f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    level, text, remedy = told(found["server"])
    assert (code, level) == (9, "error")
    assert "expected the greeting HI from a Faktory server" in text
    assert remedy == "Is the address right?"


@pytest.fixture
def secure(certificate):
    cert, key = map(str, certificate)
    with EmbeddedServer(tls_cert=cert, tls_key=key) as server:
        yield server


def test_a_certificate_that_nobody_trusts_is_an_error(secure, certificate):
    code, found, _ = examine(url=secure.url)
    level, text, remedy = told(found["tls"])
    assert (code, level) == (9, "error")
    assert "cannot be trusted" in text
    assert remedy == "Name the file of whoever signed it by the variable SSL_CERT_FILE."
    code, found, _ = examine(url=secure.url, env={"SSL_CERT_FILE": str(certificate[0])})
    assert code == 0
    assert told(found["tls"]) == ("ok", "the certificate is valid and for this host", "")


def test_trust_in_anybody_is_a_warning(secure):
    env = {"FAKTORY_DISABLE_HOSTNAME_VERIFICATION": "1"}
    code, found, _ = examine(url=secure.url, env=env)
    level, text, remedy = told(found["tls"])
    assert (code, level) == (0, "warning")
    assert text.startswith("FAKTORY_DISABLE_HOSTNAME_VERIFICATION is set")
    assert "SSL_CERT_FILE" in remedy


def test_tls_to_a_server_without_it_is_an_error(server):
    code, found, _ = examine(url=server.url.replace("tcp:", "tcp+tls:"))
    level, text, remedy = told(found["server"])
    assert (code, level) == (9, "error")
    assert text.startswith("no TLS with 127.0.0.1:")
    assert "tcp:// instead of tcp+tls://" in remedy


def test_a_way_that_others_may_share_without_tls_is_noted(server):
    # To be reached like this, though on this machine; doctor judges by the name.
    code, found, _ = examine(url=server.url.replace("127.0.0.1", "0.0.0.0"))
    level, text, remedy = told(found["tls"])
    assert (code, level) == (0, "note")
    assert text == "none: whoever is on the way to 0.0.0.0 may read all jobs"
    assert "tcp+tls://" in remedy
    level, text, remedy = told(found["password"])
    assert level == "warning"
    assert "asks for none, so whoever reaches it may read and delete all jobs" in text
    assert remedy == "Start the server with the variable FAKTORY_PASSWORD set."


@pytest.mark.parametrize(
    ("password", "fault", "todo"),
    [
        ("", "the server requires a password and none is configured.", "Put it into the address"),
        (":wrong@", "the server refused the password.", "A special character in an address"),
    ],
)
def test_a_password_that_is_missing_or_wrong_is_an_error(password, fault, todo):
    with EmbeddedServer(password="geheim") as server:
        code, found, _ = examine(url=server.url.replace(":geheim@", password))
        level, text, remedy = told(found["password"])
        assert (code, level, text) == (4, "error", fault)
        assert remedy.startswith(todo)
        code, found, _ = examine(url=server.url)
    assert code == 0
    assert told(found["password"]) == ("ok", "asked for, and ours is right", "")


def test_a_password_that_nobody_asks_for_is_a_warning(server):
    code, found, _ = examine(url=server.url.replace("//", "//:geheim@"))
    level, text, remedy = told(found["password"])
    assert (code, level) == (0, "warning")
    assert text.endswith("may read and delete all jobs, though the address here has one")
    assert "FAKTORY_PASSWORD" in remedy


def test_an_old_server_is_a_warning_that_says_what_it_lacks(server, monkeypatch):
    monkeypatch.setattr(dispatch, "VERSION", "1.6.0")
    code, found, _ = examine(url=server.url)
    level, text, remedy = told(found["version"])
    assert (code, level) == (0, "warning")
    assert text == (
        "Faktory 1.6.0 is old; it lacks: removing of queues, how long jobs wait, outliving a "
        "malformed command"
    )
    assert remedy == "Upgrade the server to 1.10.0 or newer."


@pytest.mark.parametrize(("version", "level"), [("1.10.0", "ok"), ("2.0", "ok"), ("", "note")])
def test_a_new_server_lacks_nothing(server, monkeypatch, version, level):
    monkeypatch.setattr(dispatch, "VERSION", version)
    assert examine(url=server.url)[1]["version"]["level"] == level


def test_clocks_that_differ_are_a_warning(server):
    server.travel(3605)
    code, found, _ = examine(url=server.url)
    level, text, remedy = told(found["clock"])
    assert (code, level) == (0, "warning")
    assert text.startswith("the server's is 1 h ahead of this machine's: jobs pushed from here ")
    assert text.endswith("come that much too early")
    assert "NTP" in remedy


def test_the_first_error_decides_the_exit_code(tmp_path):
    with EmbeddedServer() as server:
        url = server.url
    code, found, _ = examine("-r", "gone", url=url, cwd=tmp_path)
    assert [found["program"]["level"], found["server"]["level"]] == ["error", "error"]
    assert code == 7


def test_a_watch_that_cannot_be_is_wrong_usage():
    done = run("doctor", "--watch", "long")
    assert done.code == 2
    assert "'long' is no number of seconds, 0 or more" in done.stderr
