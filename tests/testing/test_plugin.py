"""The fixtures, each in its own run of pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import RunPytest

FIXTURES = """
import os
import socket

import faktory
import pytest
from faktory import testing
from faktory.client import network, settings

ran = []


@faktory.job(retry=2)
def work(what):
    ran.append(what)
    if what == "bad":
        raise ValueError("no")


@pytest.fixture(autouse=True)
def nothing_is_left():
    def state():
        return network.current, dict(os.environ, PYTEST_CURRENT_TEST=""), settings.current

    before = state()
    ran.clear()
    yield
    assert state() == before


@pytest.mark.parametrize("time", range(2))
def test_fake(faktory_fake, time, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", None)
    assert testing.mode == "fake"
    assert faktory_fake.jobs == []
    work.perform_async(1)
    assert len(work.jobs) == 1 and ran == []
    assert faktory_fake.drain() == 1 and ran == [1]
    work.perform_async(2)


@pytest.mark.parametrize("time", range(2))
def test_inline(faktory_inline, time, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", None)
    assert testing.mode == "inline"
    work.perform_async(1)
    assert ran == [1] and faktory_inline.jobs == []


@pytest.mark.parametrize("time", range(3))
def test_server_is_empty(faktory_server, faktory_worker, faktory_clock, time):
    assert testing.mode is None
    assert os.environ["FAKTORY_URL"] == faktory_server.url
    assert not any(faktory_server.queues.values())
    assert faktory_server.retries == faktory_server.dead == faktory_server.scheduled == []
    assert faktory_server.working == [] and faktory_server.commands == []
    assert faktory_server.processed == faktory_server.failures == 0
    assert faktory_worker.errors == []
    work.perform_async(1)
    work.perform_in(60, 2)
    assert faktory_worker.drain() == 1 and ran == [1]
    faktory_clock.travel(61)
    assert faktory_worker.drain() == 1 and ran == [1, 2]
    work.perform_async("bad")
    faktory_worker.drain()
    assert str(faktory_worker.errors[0]) == "no" and len(faktory_server.retries) == 1
    work.perform_async("left")
    work.perform_in(60, "left")
    client = faktory.Client()
    assert client.fetch("default")["args"] == ["left"]
    client.pause_queues("default")
    work.perform_async("paused")
    client.close()
    faktory_server.drop_before("PUSH", 5)
    faktory_server.answer_error("INFO", "no")
    faktory_server.hold("FETCH")
    faktory_server.limit_connections(0)
    faktory_server.begin_shutdown()
    faktory_clock.travel(86400 * 365)
    faktory.configure(url="tcp://nowhere:1", pool_size=1)
    os.environ["FAKTORY_URL"] = "tcp://nowhere:2"


def test_clock_of_fake(faktory_fake, faktory_clock):
    work.perform_in(60, 1)
    faktory_clock.travel(61)
    assert faktory_fake.jobs[0]["enqueued_at"]


def test_clock_of_inline(faktory_clock, faktory_inline):
    with pytest.raises(ValueError):
        work.perform_async("bad")
    with pytest.raises(ValueError):
        faktory_clock.travel(3600)
    assert ran == ["bad", "bad"]


def test_clock_alone_moves_the_server(faktory_clock):
    assert os.environ["FAKTORY_URL"]
    work.perform_in(60, 1)
    faktory_clock.travel(61)
    assert faktory.Client().info()["faktory"]["queues"]["default"] == 1


def test_clock_of_worker(faktory_worker, faktory_clock):
    work.perform_in(60, 1)
    assert faktory_worker.drain() == 0
    faktory_clock.travel(61)
    assert faktory_worker.drain() == 1


@pytest.mark.xfail(strict=True, raises=ZeroDivisionError)
@pytest.mark.parametrize("fixture", ["faktory_fake", "faktory_inline", "faktory_server"])
def test_that_fails(fixture, request):
    request.getfixturevalue(fixture)
    1 / 0
"""


@pytest.mark.parametrize(
    "options",
    [["-p", "no:randomly"], ["-p", "randomly"], ["-n", "2"]],
    ids=["in order", "in random order", "on two processes"],
)
def test_tests_do_not_affect_one_another(
    tmp_path: Path, run_pytest: RunPytest, options: list[str]
) -> None:
    (tmp_path / "test_fixtures.py").write_text(FIXTURES)
    assert "11 passed, 3 xfailed" in run_pytest(tmp_path, *options)


def test_one_server_with_the_overridden_options_serves_the_session(
    tmp_path: Path, run_pytest: RunPytest
) -> None:
    (tmp_path / "test_session.py").write_text(
        """
import faktory
import pytest

urls = []


@pytest.fixture(scope="session")
def faktory_server_options():
    return {"enterprise": True, "password": "p@ss"}


@pytest.mark.parametrize("time", range(2))
def test_it(faktory_server, faktory_worker, time):
    urls.append(faktory_server.url)
    assert len(set(urls)) == 1 and "p%40ss" in urls[0]
    faktory.job(name="work")(lambda: None).set(unique_for=60).perform_async()
    assert faktory_worker.drain() == 1
"""
    )
    assert "2 passed" in run_pytest(tmp_path)


def test_nothing_is_imported_or_switched_until_a_fixture_is_requested(
    tmp_path: Path, run_pytest: RunPytest
) -> None:
    (tmp_path / "test_nothing.py").write_text(
        """
import sys


def test_it():
    names = [name for name in sys.modules if name.split(".")[0] == "faktory"]
    assert sorted(names) == ["faktory", "faktory.testing", "faktory.testing.plugin"]
"""
    )
    assert "1 passed" in run_pytest(tmp_path)


def test_the_fixtures_are_listed_with_their_docstrings(
    tmp_path: Path, run_pytest: RunPytest
) -> None:
    (tmp_path / "test_none.py").write_text("def test_it(): pass")
    output = run_pytest(tmp_path, "--fixtures")
    for name in ("fake", "inline", "server", "server_options", "worker", "clock"):
        assert re.search(rf"^faktory_{name}\b.*\n +\w+", output, re.M)


def test_the_plugin_loads_in_less_than_five_milliseconds() -> None:
    code = (
        "import pytest, time; began = time.process_time(); import faktory.testing.plugin; "
        "print(time.process_time() - began)"
    )
    spent = [
        float(subprocess.run([sys.executable, "-c", code], stdout=-1, check=True).stdout)
        for _ in range(3)
    ]
    assert min(spent) < 0.005
