from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

import faktory
from faktory.client import Client, defaults
from faktory.client.defaults import configure, default_pool
from faktory.server import EmbeddedServer

VARIABLES = ("PROVIDER", "URL", "POOL_SIZE", "POOL_TIMEOUT", "TIMEOUT")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A process that has configured nothing."""
    for name in VARIABLES:
        monkeypatch.delenv(f"FAKTORY_{name}", raising=False)
    with defaults.configured():
        yield


def acquired() -> Client:
    """Return a client of the default pool."""
    with default_pool().client() as client:
        return client


def test_by_default_pushes_go_to_localhost_through_twenty_clients():
    pool = default_pool()
    assert (pool.size, pool.timeout) == (20, 5.0)
    assert acquired().faktory.url == "tcp://localhost:7419"
    assert acquired().timeout == 10.0


def test_there_is_one_default_pool():
    assert default_pool() is default_pool()


def test_threads_that_push_first_at_the_same_time_get_the_same_pool(monkeypatch):
    start = threading.Barrier(8)

    def first(_):
        start.wait()
        return default_pool()

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(first, range(8)))) == 1


def test_the_variables_are_read_once_with_the_first_push(monkeypatch):
    monkeypatch.setenv("FAKTORY_URL", "tcp://a:1")
    monkeypatch.setenv("FAKTORY_POOL_SIZE", "3")
    monkeypatch.setenv("FAKTORY_POOL_TIMEOUT", "0.5")
    monkeypatch.setenv("FAKTORY_TIMEOUT", "7")
    pool = default_pool()
    assert (pool.size, pool.timeout) == (3, 0.5)
    monkeypatch.setenv("FAKTORY_URL", "tcp://b:2")
    assert acquired().faktory.url == "tcp://a:1"
    assert acquired().timeout == 7


def test_the_provider_comes_before_the_url(monkeypatch):
    monkeypatch.setenv("FAKTORY_PROVIDER", "SOME_ADDON_URL")
    monkeypatch.setenv("SOME_ADDON_URL", "tcp://addon:1")
    monkeypatch.setenv("FAKTORY_URL", "tcp://a:1")
    assert acquired().faktory.host == "addon"


def test_configured_values_come_before_the_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(f"FAKTORY_{name}", "nonsense")
    context = object()
    configure(
        url="tcp+tls://c:3", pool_size=4, pool_timeout=1, timeout=timedelta(minutes=1),
        ssl_context=context,
    )  # fmt: skip
    pool = default_pool()
    assert (pool.size, pool.timeout) == (4, 1)
    assert acquired().faktory.url == "tcp+tls://c:3"
    assert acquired().timeout == 60
    assert acquired()._connection._endpoint.ssl_context is context


def test_an_empty_variable_is_ignored(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(f"FAKTORY_{name}", "")
    assert default_pool().size == 20
    assert acquired().faktory.url == "tcp://localhost:7419"


@pytest.mark.parametrize("name", ["POOL_SIZE", "POOL_TIMEOUT", "TIMEOUT"])
@pytest.mark.parametrize("value", ["many", "1,5", "5s"])
def test_a_variable_that_is_not_a_number_is_named(monkeypatch, name, value):
    monkeypatch.setenv(f"FAKTORY_{name}", value)
    with pytest.raises(ValueError, match=f"FAKTORY_{name} is '{value}': it must be a number"):
        default_pool()
    monkeypatch.delenv(f"FAKTORY_{name}")
    assert acquired()  # the error leaves nothing behind


@pytest.mark.parametrize(
    ("name", "value"),
    [("POOL_SIZE", "0"), ("POOL_TIMEOUT", "nan"), ("TIMEOUT", "inf"), ("TIMEOUT", "-1")],
)
def test_a_number_out_of_range_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"FAKTORY_{name}", value)
    with pytest.raises(ValueError, match=r"must be|pass seconds"):
        acquired()


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"timeout": -1}, {"pool_timeout": -1}])
def test_a_duration_out_of_range_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match=r"timeout is .*: it must be"):
        configure(**wrong)


@pytest.mark.parametrize("wrong", [{"timeout": "5"}, {"pool_timeout": True}])
def test_a_bad_duration_is_refused_at_once_and_changes_nothing(wrong):
    with pytest.raises(ValueError, match="pass seconds or a timedelta"):
        configure(url="tcp://c:3", **wrong)
    assert acquired().faktory.host == "localhost"


def test_settings_that_are_not_passed_stay():
    configure(url="tcp://c:3", pool_size=4)
    configure(pool_size=5)
    assert default_pool().size == 5
    assert acquired().faktory.host == "c"


def test_a_changed_address_drops_the_pool_and_its_connections(scripted):
    old = scripted([":greet", "PUSH", b"+OK\r\n", "END"])
    new = scripted([":greet", "PUSH", b"+OK\r\n", "END"])
    job = {"jobtype": "Resize", "args": []}
    configure(url=old.url)
    with default_pool().client() as client:
        client.push(job)
    before = default_pool()
    configure(url=new.url)
    assert not client.is_connected
    assert default_pool() is not before
    with default_pool().client() as client:
        client.push(job)
    default_pool().close()


def test_a_push_in_progress_ends_on_the_old_pool(scripted):
    old = scripted([":greet", "PUSH", b"+OK\r\n", "END"])
    configure(url=old.url)
    with default_pool().client() as client:
        configure(url="tcp://127.0.0.1:1")
        client.push({"jobtype": "Resize", "args": []})
        assert client.is_connected
    assert not client.is_connected


def test_the_package_exports_configure():
    assert faktory.configure is configure


def test_a_forked_child_pushes_to_its_parents_server(scripted, in_child):
    server = scripted([":greet", ":echo"], [":greet", ":echo"])
    configure(url=server.url)

    def ask():
        with default_pool().client() as client:
            return client.command("ECHO", "x")

    def act():
        answer = ask()
        default_pool().close()
        return [answer, os.getpid()]

    assert ask() == "x"
    assert in_child(act)[0] == "x"
    assert ask() == "x"
    default_pool().close()
    assert server.ended[0].wait(20)
    assert server.verbs(0) == ["HELLO", "ECHO", "ECHO", "END"]


def test_a_child_is_not_blocked_by_a_thread_that_configures_in_the_parent(in_child):
    configure(url="tcp://c:3")
    with defaults._lock:
        assert in_child(lambda: acquired().faktory.host) == "c"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("POOL_SIZE", "0"),
        ("POOL_SIZE", "-1"),
        ("TIMEOUT", "0"),
        ("TIMEOUT", "nan"),
        ("TIMEOUT", "inf"),
    ],
)
def test_a_variable_out_of_range_is_named(monkeypatch, variable, value):
    monkeypatch.setenv(f"FAKTORY_{variable}", value)
    with pytest.raises(ValueError, match=f"FAKTORY_{variable} is '{value}'"):
        defaults.default_pool()


@pytest.mark.parametrize(
    "wrong", [{"url": "xx"}, {"url": 3}, {"pool_size": 0}, {"pool_size": "3"}, {"pool_size": 1.5}]
)
def test_a_bad_setting_is_refused_by_configure(wrong):
    with pytest.raises(ValueError, match=r"not a Faktory|address is of type|pool's size is"):
        defaults.configure(**wrong)


@pytest.mark.parametrize("wrong", [3, True, "ca.pem", Path("ca.pem")])
def test_what_cannot_be_an_ssl_context_is_refused_with_the_remedy(wrong):
    for refuse in (defaults.configure, lambda **given: Client("tcp+tls://a", **given)):
        with pytest.raises(ValueError, match=r"ssl_context is .*: pass an ssl\.SSLContext, like"):
            refuse(ssl_context=wrong)


def test_the_default_pool_is_closed_when_the_interpreter_exits():
    with EmbeddedServer() as server:
        script = "import faktory\n@faktory.job\ndef work(): ...\nwork.perform_async()\n"
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", script],
            env={**os.environ, "FAKTORY_URL": server.url},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert [verb for verb, _ in server.commands] == ["HELLO", "PUSH", "END"]
