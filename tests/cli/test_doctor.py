"""Each result of `doctor`, from a real problem: its text, its remedy and the exit code."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest

import faktory
from faktory import Client
from faktory.server import EmbeddedServer, administration

from .support import WATCH, call, call_on_terminal, examine, parts, run, run_on_terminal


def examine_without_core(folder, implementation, url):
    """Run doctor with a copy of the package that has no compiled core."""
    package = Path(faktory.__file__).parent
    shutil.copytree(package, folder / "faktory", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    env = {"FAKTORY_IMPL": implementation}
    return examine(start=run, url=url, cwd=folder, env=env, site=False)


def test_a_setup_in_order_has_no_warnings(server, folder):
    flags = ("doctor", "-r", "jobs")
    env = {"FAKTORY_IMPL": faktory.implementation}
    plain = run(*flags, url=server.url, cwd=folder, env=env)
    shown = run_on_terminal(*flags, url=server.url, cwd=folder, env=env)
    for done in (plain, shown):
        assert done.code == 0
        assert "ok       address    tcp://127.0.0.1:" in done.stdout
        assert (
            "ok       program    job types: spin, stuck, touch; a worker without -q" in done.stdout
        )
        assert "ok       queues     no job waits in a queue\n" in done.stdout
        assert done.stdout.endswith("\nno errors, no warnings\n")
        assert "warning " not in done.stdout
    assert plain.stderr == ""


def test_json_has_the_results_of_all_checks(server, folder):
    code, found, stderr = examine("-r", "jobs.py", start=run, url=server.url, cwd=folder)
    assert code == 0
    assert list(found) == [
        *("core", "packages", "program", "address", "server", "tls"),
        *("password", "version", "clock", "queues", "job types"),
    ]
    assert {result["level"] for result in found.values()} <= {"ok", "note"}
    assert stderr == ""


def test_a_remedy_is_below_its_problem_and_wrapped_on_a_terminal(server):
    with Client(server.url) as client:
        for n in range(9):
            client.push({"jobtype": "work", "args": [], "queue": f"queue-of-some-length-{n}"})
        server.travel(7200)
    plain = call("doctor", *WATCH, url=server.url).stdout
    shown = call_on_terminal("doctor", *WATCH, url=server.url).stdout
    assert "\n                    -> Start a worker with -q queue-of-some-length-" in plain
    assert max(map(len, plain.splitlines())) > 200
    assert max(map(len, shown.splitlines())) <= 200


def test_a_missing_core_is_a_warning(server, tmp_path):
    code, found, _ = examine_without_core(tmp_path, "auto", server.url)
    level, text, remedy = parts(found["core"])
    assert (code, level) == (0, "warning")
    assert text == "python: no compiled core: it was not built. Everything works, slower"
    assert remedy.startswith("Install a wheel for this platform, or build with a C compiler")


def test_a_pure_core_by_choice_is_not_a_warning(server):
    code, found, _ = examine(start=run, url=server.url, env={"FAKTORY_IMPL": "python"})
    level, text, remedy = parts(found["core"])
    assert (code, level) == (0, "note")
    assert text == "python: FAKTORY_IMPL=python asks for it"
    assert remedy == "For the faster compiled core unset FAKTORY_IMPL."


def test_a_required_core_that_is_missing_is_an_error(server, tmp_path):
    code, found, _ = examine_without_core(tmp_path, "cython", server.url)
    level, text, remedy = parts(found["core"])
    assert (code, level) == (2, "error")
    assert text.startswith("FAKTORY_IMPL=cython asks for the compiled core, but it was not built")
    assert remedy.startswith("Install a wheel")
    assert list(found) == ["core", "packages"]


def test_the_old_package_beside_ours_is_an_error(server, tmp_path):
    info = tmp_path / "faktory-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faktory\nVersion: 1.0.0\n")
    code, found, _ = examine(start=run, url=server.url, cwd=tmp_path)
    level, text, remedy = parts(found["packages"])
    assert (code, level) == (1, "error")
    assert text.startswith("the package faktory 1.0.0 is installed beside faktory-worker.")
    assert remedy.startswith("pip uninstall faktory, then pip install --force-reinstall")
    assert found["server"]["level"] == "ok"


def test_a_missing_module_is_an_error_and_the_other_checks_still_run(server, tmp_path):
    code, found, stderr = examine("-r", "app.jobs", url=server.url, cwd=tmp_path)
    level, text, remedy = parts(found["program"])
    assert (code, level) == (7, "error")
    assert text.startswith("-r app.jobs: cannot be imported: No module named 'app'. Searched: /")
    assert remedy == "Is the name right, and is this the folder to import it from?"
    assert found["server"]["level"] == "ok"
    assert "Traceback" not in stderr


def test_an_import_error_of_the_program_is_shown_with_its_own_traceback(server, tmp_path):
    (tmp_path / "app.py").write_text("print('begins')\nimport gone_too\n")
    code, found, stderr = examine("-r", "app", start=run, url=server.url, cwd=tmp_path)
    level, text, remedy = parts(found["program"])
    assert (code, level) == (3, "error")
    assert text.startswith("-r app: cannot be imported: ModuleNotFoundError: ")
    assert remedy == "See the message, and the traceback above if there is one."
    assert 'app.py", line 2, in <module>' in stderr
    assert "begins\n" in stderr  # and not on standard output


def test_a_program_without_jobs_is_an_error(server, tmp_path):
    (tmp_path / "app.py").touch()
    code, found, _ = examine("-r", "app", start=run, url=server.url, cwd=tmp_path)
    level, text, remedy = parts(found["program"])
    assert (code, level) == (2, "error")
    assert text == (
        "no job type is registered, so every job would fail: "
        f"-r app is the module app ({tmp_path / 'app.py'}), without a job"
    )
    assert remedy == "Put @faktory.job above a function, or name another module: -r app.jobs"


def test_an_invalid_address_is_an_error():
    code, found, _ = examine(url="localhost:7419")
    level, text, remedy = parts(found["address"])
    assert (code, level) == (2, "error")
    assert text.startswith("'localhost:7419' is not a Faktory address")
    assert remedy == "Write it like tcp://localhost:7419."


def test_a_provider_that_names_a_missing_variable_is_an_error(server):
    code, found, _ = examine(url=server.url, env={"FAKTORY_PROVIDER": "MY_FAKTORY"})
    level, text, remedy = parts(found["address"])
    assert (code, level) == (2, "error")
    assert text == "FAKTORY_PROVIDER names the variable 'MY_FAKTORY', which is not set."
    assert remedy == "Set that to the address, or unset FAKTORY_PROVIDER."


@pytest.mark.parametrize(
    ("flags", "env", "source"),
    [
        (lambda url: ["--url", url], lambda url: {}, "--url"),
        (lambda url: [], lambda url: {"FAKTORY_URL": url}, "FAKTORY_URL"),
        (lambda url: [], lambda url: {"FAKTORY_PROVIDER": "MINE", "MINE": url}, "MINE"),
    ],
)
def test_the_source_of_the_address_is_shown(server, flags, env, source):
    _, found, _ = examine(*flags(server.url), env=env(server.url))
    assert found["address"]["text"] == f"{server.url} ({source})"


def test_an_unreachable_server_is_an_error(dead_url):
    code, found, _ = examine(url=dead_url)
    level, text, remedy = parts(found["server"])
    assert (code, level) == (9, "error")
    assert text == f"nothing listens on {dead_url[6:]} (connection refused)."
    assert remedy.startswith("Is the Faktory server running?")
    assert "version" not in found


def test_an_unknown_host_is_an_error():
    code, found, _ = examine(url="tcp://no-such-host.invalid")
    level, text, remedy = parts(found["server"])
    assert (code, level) == (9, "error")
    assert text.startswith("the host of no-such-host.invalid:7419 is not known")
    assert remedy == "Is it spelt right in FAKTORY_URL?"


def test_another_kind_of_server_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            with listener.accept()[0] as connection:
                connection.sendall(b"+PONG\r\n")

        threading.Thread(target=answer).start()
        code, found, _ = examine(url=f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    level, text, remedy = parts(found["server"])
    assert (code, level) == (9, "error")
    assert "expected the greeting HI from a Faktory server" in text
    assert remedy == "Is the address right?"


@pytest.fixture
def secure(certificate):
    cert, key = map(str, certificate)
    with EmbeddedServer(tls_cert=cert, tls_key=key) as server:
        yield server


def test_an_untrusted_certificate_is_an_error(secure, certificate):
    code, found, _ = examine(url=secure.url)
    level, text, remedy = parts(found["tls"])
    assert (code, level) == (9, "error")
    assert "cannot be trusted" in text
    assert remedy == "Set the variable SSL_CERT_FILE to the file of its authority's certificate."
    code, found, _ = examine(start=run, url=secure.url, env={"SSL_CERT_FILE": str(certificate[0])})
    assert code == 0
    assert parts(found["tls"]) == ("ok", "the certificate is valid for this host", "")


def test_trust_in_every_server_is_a_warning(secure):
    env = {"FAKTORY_DISABLE_HOSTNAME_VERIFICATION": "1"}
    code, found, _ = examine(start=run, url=secure.url, env=env)
    level, text, remedy = parts(found["tls"])
    assert (code, level) == (0, "warning")
    assert text.startswith("FAKTORY_DISABLE_HOSTNAME_VERIFICATION is set")
    assert "SSL_CERT_FILE" in remedy


def test_tls_to_a_server_without_tls_is_an_error(server):
    code, found, _ = examine(url=server.url.replace("tcp:", "tcp+tls:"))
    level, text, remedy = parts(found["server"])
    assert (code, level) == (9, "error")
    assert text.startswith("no TLS with 127.0.0.1:")
    assert "tcp:// instead of tcp+tls://" in remedy


def test_another_host_without_tls_or_password_is_reported(server):
    # It is this machine, too, but doctor judges by the name.
    code, found, _ = examine(url=server.url.replace("127.0.0.1", "0.0.0.0"))
    level, text, remedy = parts(found["tls"])
    assert (code, level) == (0, "note")
    assert text == "none: others on the network to 0.0.0.0 can read all jobs"
    assert "tcp+tls://" in remedy
    level, text, remedy = parts(found["password"])
    assert level == "warning"
    assert "requires none, so anyone who reaches it can read and delete all jobs" in text
    assert remedy == "Start the server with the variable FAKTORY_PASSWORD set."


@pytest.mark.parametrize(
    ("password", "problem", "todo"),
    [
        ("", "the server requires a password and none is configured.", "Put it into the address"),
        (":wrong@", "the server refused the password.", "A special character in an address"),
    ],
)
def test_a_missing_or_wrong_password_is_an_error(password, problem, todo):
    with EmbeddedServer(password="geheim") as server:
        code, found, _ = examine(url=server.url.replace(":geheim@", password))
        level, text, remedy = parts(found["password"])
        assert (code, level, text) == (4, "error", problem)
        assert remedy.startswith(todo)
        code, found, _ = examine(url=server.url)
    assert code == 0
    assert parts(found["password"]) == ("ok", "required, and the one in the address is right", "")


def test_a_password_that_the_server_does_not_require_is_a_warning(server):
    code, found, _ = examine(url=server.url.replace("//", "//:geheim@"))
    level, text, remedy = parts(found["password"])
    assert (code, level) == (0, "warning")
    assert text.endswith("can read and delete all jobs, though the address has one")
    assert "FAKTORY_PASSWORD" in remedy


def test_an_old_server_is_a_warning_with_the_features_that_it_lacks(server, monkeypatch):
    monkeypatch.setattr(administration, "VERSION", "1.6.0")
    code, found, _ = examine(url=server.url)
    level, text, remedy = parts(found["version"])
    assert (code, level) == (0, "warning")
    assert text == (
        "Faktory 1.6.0 is old; it lacks: removing queues, how long jobs wait, surviving a "
        "malformed command"
    )
    assert remedy == "Upgrade the server to 1.10.0 or newer."


@pytest.mark.parametrize(("version", "level"), [("1.10.0", "ok"), ("2.0", "ok"), ("", "note")])
def test_a_new_server_lacks_nothing(server, monkeypatch, version, level):
    monkeypatch.setattr(administration, "VERSION", version)
    assert examine(url=server.url)[1]["version"]["level"] == level


def test_clocks_that_differ_are_a_warning(server):
    server.travel(3605)
    code, found, _ = examine(url=server.url)
    level, text, remedy = parts(found["clock"])
    assert (code, level) == (0, "warning")
    assert text.startswith("the server's is 1 h ahead of this machine's: jobs scheduled here ")
    assert text.endswith("run that much too early")
    assert "NTP" in remedy


def test_the_first_error_decides_the_exit_code(tmp_path, dead_url):
    code, found, _ = examine("-r", "gone", url=dead_url, cwd=tmp_path)
    assert [found["program"]["level"], found["server"]["level"]] == ["error", "error"]
    assert code == 7


def test_an_invalid_watch_is_wrong_usage():
    done = call("doctor", "--watch", "long")
    assert done.code == 2
    assert "'long' is not a number of seconds, 0 or more" in done.stderr


@pytest.mark.parametrize("codec", ["cp1252", "ascii", "ascii:surrogateescape", "utf-8"])
@pytest.mark.parametrize("tool", ["doctor", "queues", "info", "periodic"])
def test_no_encoding_ends_a_tool(server, folder, codec, tool):
    (folder / "russian.py").write_text(
        "import faktory\n@faktory.job(name='отчёт', queue='mail')\ndef report(): pass\n"
        "faktory.periodic(every=60, job=report)\n",
        "utf-8",
    )
    required = () if tool in ("queues", "info") else ("-r", "russian")
    watch = WATCH if tool == "doctor" else ()
    env = {"PYTHONIOENCODING": codec}
    done = run(tool, *required, *watch, url=server.url, cwd=folder, env=env)
    assert (done.code, "Error" in done.stderr) == (0, False)
    if tool == "doctor":
        name = "отчёт" if codec == "utf-8" else "\\u043e\\u0442\\u0447\\u0451\\u0442"
        assert name in done.stdout


def test_levels_have_a_colour_on_a_terminal(server, folder):
    pytest.importorskip("rich")
    env = {"NO_COLOR": ""}
    done = call_on_terminal("doctor", "-r", "gone", url=server.url, cwd=folder, env=env)
    assert "\n\x1b[1;31merror\x1b[0m    program " in done.stdout
    assert "\x1b[32mok\x1b[0m       address " in done.stdout
    assert done.stdout.endswith("\n\x1b[1;31m1 error\x1b[0m, \x1b[32mno warnings\x1b[0m\n")
    plain = call("doctor", "-r", "gone", url=server.url, cwd=folder, env=env)
    assert "\x1b" not in plain.stdout
