"""`faktory-worker server --data FILE`: served, checked, moved to another server."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from faktory import Client
from faktory.server import EmbeddedServer

from .support import Run, WaitUntil, call


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def fill(path: Path, *, enterprise: bool = False) -> list[str]:
    """Make a file with jobs in each place; return the jids of the queue `big`, in order."""
    with EmbeddedServer(data=path, sync="normal", enterprise=enterprise) as server:
        with Client(server.url) as client:
            client.push_bulk([_job(f"big-{n:05}", "big", args=[n]) for n in range(600)])
            for number in range(3):
                client.push(_job(f"paused-{number}", "paused"))
                client.push(_job(f"later-00{number}", at=f"2099-01-0{number + 1}T00:00:00.5Z"))
            client.pause_queues("paused")
            for queue, retry in (("dead", -1), ("retried", 5)):
                for number in range(2):
                    client.push(_job(f"{queue}-000{number}", queue, retry=retry))
                    client.fetch(queue)
                    client.fail(f"{queue}-000{number}", ValueError("boom"))
            client.fetch("big")
            if enterprise:
                client.push(_job("unique-01", "u", custom={"unique_for": 1000, "track": 1}))
                client.command("BATCH", "NEW", json={"success": {"jobtype": "C", "args": []}})
        return [job["jid"] for job in server.queues["big"]]


def _job(jid: str, queue: str = "default", **fields: object) -> dict[str, object]:
    return {"jid": jid, "jobtype": "T", "args": [], "queue": queue, "retry": 25, **fields}


# Served.


def test_a_server_with_a_file_has_its_jobs_after_a_kill(
    path: Path, run: Run, wait_until: WaitUntil
) -> None:
    command = ("faktory", "server", "--no-web", "--bind", "127.0.0.1:0", "--data", str(path))
    server = run(*command)
    wait_until(lambda: "\n" in server.printed)
    assert f"with its jobs in {path}, for development and one small machine" in server.printed
    with Client(server.printed.rpartition("FAKTORY_URL=")[2].strip()) as client:
        client.push(_job("job-0001"))
    second = call(*command[1:])
    assert second.code == 1
    assert f"in use by another server, pid {server.process.pid}: " in second.stderr
    assert f"by the server with the pid {server.process.pid}" in _check(path)
    server.send(signal.SIGKILL)
    server.wait()
    again = run(*command, "--sync", "normal")
    wait_until(lambda: "\n" in again.printed)
    with Client(again.printed.rpartition("FAKTORY_URL=")[2].strip()) as client:
        assert client.info()["faktory"]["queues"] == {"default": 1}
    again.send(signal.SIGTERM)
    assert again.wait() == 0
    assert "gone" not in again.printed
    assert again.said == ""


def test_a_server_in_memory_says_how_many_jobs_are_gone(run: Run, wait_until: WaitUntil) -> None:
    server = run("faktory", "server", "--no-web", "--bind", "127.0.0.1:0")
    wait_until(lambda: "\n" in server.printed)
    assert "its jobs are gone when it stops (--data FILE keeps them" in server.printed
    with Client(server.printed.rpartition("FAKTORY_URL=")[2].strip()) as client:
        client.push_bulk([_job(f"job-{n:04}") for n in range(5)])
        client.push(_job("later-01", at="2099-01-01T00:00:00Z"))
        client.fetch("default")
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    last = server.printed.splitlines()[-1]
    assert last == "6 jobs are gone (4 queued, 1 scheduled, 1 working)."


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--check"], "--check and --export are about a file: name it with --data FILE."),
        (["--export", "tcp://localhost"], "are about a file"),
    ],
)
def test_a_file_must_be_named(flags: list[str], text: str) -> None:
    done = call("server", *flags)
    assert done.code == 2
    assert text in done.stderr


# Checked.


def _check(path: Path) -> str:
    done = call("server", "--data", str(path), "--check")
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_check_shows_what_is_in_a_file(path: Path) -> None:
    fill(path, enterprise=True)
    before = path.read_bytes()
    shown = _check(path)
    for text in (
        f"{path}, version 2, not in use",
        "4 processed, 4 failures",
        "queue big: 599 jobs, the oldest waits for ",
        "queue dead: 0 jobs",
        "scheduled: 3 jobs, the first is due at 2099-01-01T00:00:00Z",
        "to be retried: 2 jobs, the first is due at ",
        "dead: 2 jobs, the first is forgotten at ",
        "reserved by workers: 1 job, the first is due at ",
        "batches: 1",
        "locks of unique jobs: 1",
        "tracked jobs: 1",
        "the file is sound",
    ):
        assert text in shown
    paused = [line for line in shown.splitlines() if line.endswith(", paused")]
    assert [line.partition(":")[0] for line in paused] == ["queue paused"]
    assert path.read_bytes() == before


def test_check_reads_what_a_killed_server_has_left(path: Path, tmp_path: Path) -> None:
    with EmbeddedServer(data=path) as server, Client(server.url) as client:
        client.push(_job("job-0001"))
        for ending in ("", "-wal"):
            (tmp_path / f"left.db{ending}").write_bytes(Path(f"{path}{ending}").read_bytes())
    assert "queue default: 1 job," in _check(tmp_path / "left.db")


def test_check_ends_with_1_for_what_is_not_sound(path: Path, tmp_path: Path) -> None:
    fill(path)
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 6] = b"\xff" * (4096 * 3)
    path.write_bytes(data)
    newer, text, blank = tmp_path / "newer.db", tmp_path / "text.db", tmp_path / "blank.db"
    fill(newer)
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 3")
    text.write_text("my diary\n" * 100)
    blank.write_bytes(b"")
    for each, reason in (
        (path, "is damaged: "),
        (newer, "has version 3, written by a newer faktory-worker"),
        (text, "is not a database"),
        (blank, "is empty"),
        (tmp_path / "nowhere.db", "there is no such file"),
    ):
        done = call("server", "--data", str(each), "--check")
        assert (done.code, reason in done.stderr) == (1, True), (each, done.stderr)
        assert "sound" not in done.stdout


# Moved.


@pytest.fixture(params=["embedded", "real"])
def target(request: pytest.FixtureRequest) -> str:
    """The address of an empty server."""
    if request.param == "real":
        url = request.getfixturevalue("real_server_url")
        if not os.environ.get("FAKTORY_FLUSH_OK"):
            pytest.skip("flushes the real server: set FAKTORY_FLUSH_OK=1 to let it")
        with Client(url) as client:
            client.flush()
            for name in client.info()["faktory"]["queues"]:
                client.remove_queues(name)
        return str(url)
    return str(request.getfixturevalue("server").url)


def _export(path: Path, url: str) -> tuple[int, str]:
    done = call("server", "--data", str(path), "--export", url)
    assert done.stderr == ""
    return done.code, done.stdout


def test_export_moves_everything_in_order(path: Path, target: str) -> None:
    big = fill(path)
    code, shown = _export(path, target)
    assert code == 0
    assert shown.splitlines() == [
        "moved: 2 jobs dead",
        "moved: 602 jobs in queues",
        "moved: 3 jobs scheduled",
        "moved: 2 jobs to be retried, now scheduled for that time",
        "moved: 1 job that workers had, now scheduled for the end of their reservations",
        "cannot be moved: the counts of processed and failed jobs",
    ]
    assert _export(path, target) == (0, "nothing was moved\n")
    with Client(target) as client:
        info = client.info()["faktory"]
        assert {name: size for name, size in info["queues"].items() if size} == {
            "big": 599,
            "paused": 3,
        }
        assert (info["sets"]["dead"], info["sets"]["scheduled"]) == (2, 6)
        for jid in big:
            job = client.fetch("big")
            assert job is not None
            assert job["jid"] == jid
            assert job["args"] == [int(jid[4:])]
            client.ack(jid)
        assert client.fetch("paused") is None
        client.requeue("dead")
        dead = client.fetch("dead")
        assert dead is not None
        assert dead["failure"]["message"] == "boom"
        client.requeue("scheduled", jids=["later-002"])
        later = client.fetch("default")
        assert later is not None
        assert later["at"] == "2099-01-03T00:00:00.5Z"


def test_export_goes_on_where_it_was_interrupted(path: Path, server: EmbeddedServer) -> None:
    big = fill(path)
    # So many commands are done before one that the server does not get. (A scheduled job is sent
    # again by the client.)
    for times in (0, 2, 1):
        server.delay("PUSHB", 0, times=times)
        server.drop_before("PUSHB")
        done = call("server", "--data", str(path), "--export", server.url)
        assert done.code == 1, (times, done.stdout)
        assert "broke" in done.stderr
    # The dead are among the scheduled for a moment.
    server.answer_error("MUTATE", "context deadline exceeded")
    with EmbeddedServer(data=path) as source, Client(source.url) as client:
        client.push(_job("dead-0002", "dead", retry=-1))
        client.fetch("dead")
        client.fail("dead-0002", ValueError("boom"))
    done = call("server", "--data", str(path), "--export", server.url)
    assert (done.code, "context deadline exceeded" in done.stderr) == (1, True)
    code, _ = _export(path, server.url)
    assert code == 0
    assert [job["jid"] for job in server.queues["big"]] == big
    assert server.sizes == {"queued": 602, "scheduled": 6, "retries": 0, "dead": 3, "working": 0}


def test_export_names_what_may_be_there_twice(path: Path, server: EmbeddedServer) -> None:
    with EmbeddedServer(data=path) as source, Client(source.url) as client:
        client.push_bulk([_job(f"big-{n:05}", "big") for n in range(10)])
    server.drop_after("PUSHB")
    assert call("server", "--data", str(path), "--export", server.url).code == 1
    code, shown = _export(path, server.url)
    assert code == 0
    assert "may be there twice: 10 jobs, from big-00000 to big-00009" in shown
    assert server.sizes["queued"] == 20
    assert "twice" not in _export(path, server.url)[1]


def test_export_keeps_and_names_what_is_refused(path: Path) -> None:
    with EmbeddedServer(data=path, enterprise=True) as source, Client(source.url) as client:
        bid = client.command("BATCH", "NEW", json={"success": {"jobtype": "C", "args": []}})
        assert isinstance(bid, bytes)
        for number in range(3):
            custom = {"bid": bid.decode(), "unique_for": 100} if number == 1 else {}
            client.push(_job(f"job-000{number}", custom=custom))
    with EmbeddedServer(enterprise=True) as server:
        code, shown = _export(path, server.url)
        assert code == 1
        assert f"stays in the file, refused: job-0001: No such batch {bid.decode()}" in shown
        assert "cannot be moved, stays in the file: batches, 1" in shown
        assert "cannot be moved, stays in the file: locks of unique jobs, 1" in shown
        assert [job["jid"] for job in server.queues["default"]] == ["job-0000", "job-0002"]
    with EmbeddedServer(data=path, enterprise=True) as source:
        assert [job["jid"] for job in source.queues["default"]] == ["job-0001"]


def test_export_needs_the_file_for_itself(path: Path, server: EmbeddedServer) -> None:
    with EmbeddedServer(data=path):
        done = call("server", "--data", str(path), "--export", server.url)
    assert done.code == 1
    assert f"in use by another server, pid {os.getpid()}" in done.stderr
    missing = call("server", "--data", f"{path}.other", "--export", server.url)
    assert missing.code == 1
    assert "there is no such file" in missing.stderr
    assert not Path(f"{path}.other").exists()


def test_export_to_a_server_that_is_not_there_changes_nothing(path: Path, dead_url: str) -> None:
    fill(path)
    done = call("server", "--data", str(path), "--export", dead_url)
    assert done.code == 9
    assert "queue big: 599 jobs" in _check(path)
