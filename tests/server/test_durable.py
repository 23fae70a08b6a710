"""A server with a file: OK means on disk, one server a file, and files that are not ours."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from faktory import Client
from faktory.exceptions import FaktoryConnectionError
from faktory.server import EmbeddedServer
from faktory.server.disk import file as files
from faktory.server.disk.lock import holder
from faktory.server.state import Timing

from .conftest import RawClient
from .durable import copy

Dial = Callable[..., RawClient]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def server(request: pytest.FixtureRequest, path: Path) -> Iterator[EmbeddedServer]:
    sync = getattr(request, "param", "normal")
    with EmbeddedServer(data=path, sync=sync, timing=Timing(fetch_wait=0.2)) as server:
        yield server


both = pytest.mark.parametrize("server", ["full", "normal"], indirect=True)


@pytest.fixture
def dial(request: pytest.FixtureRequest) -> Iterator[Dial]:
    """`dial(to=server)`: a new connection after its HELLO; to `server` by default."""
    clients: list[RawClient] = []

    def dial(*, to: EmbeddedServer | None = None, **hello: Any) -> RawClient:
        port = (to or request.getfixturevalue("server")).port
        client = RawClient(socket.create_connection(("127.0.0.1", port), timeout=10))
        clients.append(client)
        client.reply()
        assert client.call(b"HELLO " + json.dumps({"v": 2, **hello}).encode()) == b"+OK"
        return client

    yield dial
    for client in clients:
        client.close()


@contextmanager
def reopened(path: Path, to: Path, **options: Any) -> Iterator[EmbeddedServer]:
    """A server with a copy of the file, as it is after a crash at this moment."""
    with EmbeddedServer(data=copy(path, to), **options) as server:
        yield server


def jids(jobs: list[dict[str, Any]]) -> list[str]:
    return [job["jid"] for job in jobs]


# OK means on disk.


@both
def test_what_was_answered_is_there_after_a_crash(
    server: EmbeddedServer, dial: Dial, path: Path, tmp_path: Path
) -> None:
    client = dial(wid="w1")
    later = "2099-01-01T00:00:00.123456789Z"
    for number in range(6):
        client.push(f"job-000{number}", args=[number, 1.5, "\u00e4"], custom={"a": 1})
    client.push("job-0006", at=later, queue="other")
    client.push("job-0007", queue="other", retry=-1)
    for _ in range(4):
        client.call("FETCH default")
    client.call('ACK {"jid":"job-0000"}')
    client.call('FAIL {"jid":"job-0001","message":"boom","errtype":"E","backtrace":["line"]}')
    client.call("FETCH other")
    client.call('FAIL {"jid":"job-0007"}')
    client.call("QUEUE PAUSE other")
    with reopened(path, tmp_path / "copy.db") as after:
        for name in ("queues", "scheduled", "retries", "dead", "working", "processed", "failures"):
            assert getattr(after, name) == getattr(server, name), name
        assert jids(after.queues["default"]) == ["job-0004", "job-0005"]
        assert [each["wid"] for each in after.working] == ["w1", "w1"]
        assert jids(after.dead) == ["job-0007"]
        assert after.retries[0]["failure"]["retry_count"] == 0
        again = dial(to=after)
        assert again.call('ACK {"jid":"job-0002"}') == b"+OK"
        assert again.call("FETCH other") is None  # it is paused
        # What is reserved is given out again when the reservation is over.
        after.travel(1800)
        assert "job-0003" in jids(after.retries)
        assert "job-0002" not in jids(after.retries)


@both
def test_each_answer_comes_after_its_commit(server: EmbeddedServer, path: Path, dial: Dial) -> None:
    clients = [dial() for _ in range(8)]

    def push(number: int) -> None:
        for turn in range(20):
            jid = f"job-{number}-{turn:04}"
            assert clients[number].push(jid) == b"+OK"
            with closing(sqlite3.connect(path)) as reader:
                rows = reader.execute("SELECT job FROM jobs ORDER BY id DESC LIMIT 200").fetchall()
            assert jid in [json.loads(job)["jid"] for (job,) in rows]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(push, range(8)))


def test_an_answer_that_changes_nothing_waits_for_what_it_shows(
    server: EmbeddedServer, dial: Dial, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pusher, watcher = dial(), dial()
    from faktory.server.disk.journal import Journal

    seen = []
    real = Journal.commit

    def commit(journal: Journal) -> None:
        # Another client asks while the job is in memory only.
        watcher.socket.setblocking(False)
        try:
            seen.append(watcher.socket.recv(100))
        except BlockingIOError:
            seen.append(b"")
        watcher.socket.setblocking(True)
        real(journal)

    monkeypatch.setattr(Journal, "commit", commit)
    server.hold("INFO")
    watcher.send("INFO")
    pusher.socket.sendall(b"")
    server.release("INFO")
    before = watcher.reply()
    assert json.loads(before)["faktory"]["total_enqueued"] == 0
    pusher.push("job-0001")
    assert seen == [b""]


def test_commands_of_one_turn_are_one_commit(
    server: EmbeddedServer, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faktory.server.disk.journal import Journal

    commits = []
    real = Journal.commit
    monkeypatch.setattr(Journal, "commit", lambda journal: [commits.append(1), real(journal)])
    client = dial()
    lines = [f'PUSH {{"jid":"job-{n:04}","jobtype":"T","args":[]}}' for n in range(100)]
    client.send(*lines)
    assert [client.reply() for _ in lines] == [b"+OK"] * 100
    assert len(commits) < 20


def test_a_job_for_a_client_that_waits_costs_one_commit(
    server: EmbeddedServer, dial: Dial, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    from faktory.server.disk.journal import Journal

    commits = []
    real = Journal.commit
    worker, client = dial(wid="w"), dial()
    worker.send("FETCH default")
    wait_until(lambda: server._call(lambda state: state.store._waiting))
    monkeypatch.setattr(Journal, "commit", lambda journal: [commits.append(1), real(journal)])
    client.push("job-0001")
    assert json.loads(worker.reply())["jid"] == "job-0001"
    assert len(commits) == 1


def test_on_a_slow_disk_the_clients_of_the_last_commit_are_awaited(
    server: EmbeddedServer, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faktory.server.disk.journal import Journal

    def slow(state: Any) -> None:
        state._took, state._expected = 30.0, 2

    first, second = dial(), dial()
    commits = []
    real = Journal.commit
    monkeypatch.setattr(Journal, "commit", lambda journal: [commits.append(1), real(journal)])
    server._call(slow)
    first.send('PUSH {"jid":"job-0001","jobtype":"T","args":[]}')
    second.push("job-0002")  # is answered long before the 15 seconds are over, and so is the first
    assert first.reply() == b"+OK"
    assert len(commits) == 1


def test_on_a_slow_disk_nobody_waits_for_a_client_that_does_not_come(
    server: EmbeddedServer, dial: Dial
) -> None:
    def slow(state: Any) -> None:
        state._took, state._expected = 0.1, 2

    client = dial()
    server._call(slow)
    assert client.push("job-0001") == b"+OK"


def test_the_answers_before_a_close_are_sent(server: EmbeddedServer, dial: Dial) -> None:
    client = dial()
    client.send('PUSH {"jid":"job-0001","jobtype":"T","args":[]}', "END")
    assert client.reply() == b"+OK"
    assert client.is_closed()
    half = dial()
    half.send(*[f'PUSH {{"jid":"job-1{n:03}","jobtype":"T","args":[]}}' for n in range(300)])
    half.socket.shutdown(socket.SHUT_WR)
    assert half.file.read() == b"+OK\r\n" * 300
    assert server.sizes["queued"] == 301


def test_the_answers_before_a_close_are_sent_with_tls(
    path: Path, certificate: tuple[Path, Path]
) -> None:
    import ssl

    cert, key = map(str, certificate)
    with EmbeddedServer(data=path, tls_cert=cert, tls_key=key) as server:
        context = ssl.create_default_context(cafile=cert)
        raw = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
            client = RawClient(sock)
            assert client.reply().startswith(b"+HI")
            client.call('HELLO {"v":2}')
            client.send('PUSH {"jid":"job-0001","jobtype":"T","args":[]}', "END")
            assert client.reply() == b"+OK"
            client.close()


def test_a_limit_is_named_after_the_answers_before_it(path: Path, dial: Dial) -> None:
    with EmbeddedServer(data=path, max_command=200) as server:
        client = dial(to=server)
        client.send('PUSH {"jid":"job-0001","jobtype":"T","args":[]}', "PUSH " + "x" * 300)
        assert client.reply() == b"+OK"
        assert b"limit of this embedded server" in client.reply()


def test_many_large_answers_are_sent(server: EmbeddedServer, dial: Dial) -> None:
    client = dial()
    for number in range(8):
        client.push(f"job-000{number}", args=["x" * 100_000])
    client.send(*["FETCH default"] * 8)
    assert [json.loads(client.reply())["jid"][-1] for _ in range(8)] == list("01234567")
    assert server.sizes["working"] == 8


# Start and stop.


@both
def test_it_stops_and_starts_with_its_jobs(server: EmbeddedServer, dial: Dial, path: Path) -> None:
    dial().push("job-0001")
    server.stop()
    assert [each.name for each in path.parent.iterdir()] == ["jobs.db"]
    assert jids(server.queues["default"]) == ["job-0001"]  # still to be looked at
    with EmbeddedServer(data=path) as other:
        dial(to=other).push("job-0002")
    server.start()
    assert jids(server.queues["default"]) == ["job-0001", "job-0002"]


def test_reset_empties_the_file(server: EmbeddedServer, dial: Dial, path: Path) -> None:
    client = dial()
    client.push("job-0001")
    server.travel(10)
    server.reset()
    assert client.push("job-0002") == b"+OK"
    server.stop()
    server.start()
    assert jids(server.queues["default"]) == ["job-0002"]


def test_its_file_is_for_its_user_alone(server: EmbeddedServer, dial: Dial, path: Path) -> None:
    dial().push("job-0001")
    if sys.platform != "win32":
        assert {each.stat().st_mode & 0o77 for each in path.parent.iterdir()} == {0}


def test_an_address_in_use_leaves_the_file_free(server: EmbeddedServer, tmp_path: Path) -> None:
    other = EmbeddedServer(f"127.0.0.1:{server.port}", data=tmp_path / "other.db")
    with pytest.raises(OSError, match="in use"):
        other.start()
    assert holder(str(tmp_path / "other.db")) is None


def test_sync_has_two_values(path: Path) -> None:
    with pytest.raises(ValueError, match='sync is \'off\': it must be "full" or "normal"'):
        EmbeddedServer(data=path, sync="off")  # type: ignore[arg-type]


def test_without_a_file_nothing_of_it_is_loaded() -> None:
    code = (
        "import sys; from faktory.server import EmbeddedServer\n"
        "with EmbeddedServer(): print(*[m for m in sys.modules if 'sqlite' in m or 'disk' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


# One server a file.


def test_a_second_server_is_refused_with_the_pid(server: EmbeddedServer, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    for name in (path, link):
        with pytest.raises(OSError, match=rf"in use by another server, pid {os.getpid()}: "):
            EmbeddedServer(data=name).start()
    code = f"from faktory.server import EmbeddedServer; EmbeddedServer(data={str(path)!r}).start()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"in use by another server, pid {os.getpid()}: " in done.stderr
    assert holder(str(path)) == os.getpid()
    with Client(server.url) as client:
        client.push({"jobtype": "T", "args": []})


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_a_forked_child_does_not_keep_the_file(path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from faktory.server import EmbeddedServer\n"
        f"server = EmbeddedServer(data={str(path)!r}); server.start()\n"
        "if os.fork() == 0:\n"
        "    os.close(1); os.close(2); sys.stdin.read(); os._exit(0)\n"
        "print('ready', flush=True); os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.wait(20)
    with EmbeddedServer(data=path):
        pass
    process.communicate()


# Files that are refused, and those that a power cut left.


def other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (title)")


def newer_version(path: Path) -> None:
    with EmbeddedServer(data=path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


REFUSED = {
    "is not a database": lambda path: path.write_text("my diary, " * 1000),
    "is the database of another program": other_database,
    "has version 99, written by a newer faktory-worker": newer_version,
    "which is not a file": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_a_data_file_is_refused_and_left_as_it_is(path: Path, text: str) -> None:
    REFUSED[text](path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(OSError, match=text):
        EmbeddedServer(data=path).start()
    if before is not None:
        assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["jobs.db"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"there is no folder '.*nowhere'"):
        EmbeddedServer(data=tmp_path / "nowhere" / "jobs.db").start()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_without_permission_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot be locked"):
        EmbeddedServer(data=tmp_path / "jobs.db").start()


def test_a_damaged_file_is_refused(path: Path, dial: Dial) -> None:
    with EmbeddedServer(data=path) as server:
        client = dial(to=server)
        for number in range(500):
            client.push(f"job-{number:04}")
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 10] = b"\xff" * (4096 * 8)
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"(damaged|malformed).*backup"):
        EmbeddedServer(data=path).start()
    assert path.read_bytes() == data


def header_only(path: Path) -> None:
    """What is left when the new pages are lost: SQLite writes a first page before the tables."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size


BLANK = {
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "a piece of a page": lambda path: path.write_bytes(bytes(10)),
    "header only": header_only,
}


@pytest.mark.parametrize("kind", BLANK)
@pytest.mark.parametrize("wal", [b"", bytes(5000), b"rubbish" * 1000, None])
def test_a_file_that_a_power_cut_left_blank_is_a_new_one(
    path: Path, kind: str, wal: bytes | None
) -> None:
    BLANK[kind](path)
    if wal is not None:
        Path(f"{path}-wal").write_bytes(wal)
    with EmbeddedServer(data=path, sync="normal") as server, Client(server.url) as client:
        assert server.sizes["queued"] == 0
        client.push({"jobtype": "T", "args": []})
        server.stop()
        server.start()
        assert server.sizes["queued"] == 1


def test_what_stood_behind_a_blank_first_page_is_kept_aside(path: Path, dial: Dial) -> None:
    with EmbeddedServer(data=path) as server:
        dial(to=server).push("job-0001")
    data = path.read_bytes()
    path.write_bytes(bytes(4096) + data[4096:])
    with EmbeddedServer(data=path, sync="normal") as server:
        assert server.sizes["queued"] == 0
    (aside,) = path.parent.glob("jobs.db.blank-*")
    assert aside.read_bytes()[4096:] == data[4096:]


def test_a_first_page_that_only_the_new_pages_have_is_found_there(path: Path, dial: Dial) -> None:
    with EmbeddedServer(data=path, sync="normal") as server:
        dial(to=server).push("job-0001")
        with closing(sqlite3.connect(path)) as other:
            for version in (0, files.VERSION):  # is on the first page
                other.execute(f"PRAGMA user_version = {version}")
            left = copy(path, path.with_name("left.db"))
    left.write_bytes(bytes(left.stat().st_size))
    with EmbeddedServer(data=left) as server:
        assert list(path.parent.glob("left.db.blank*")) == []


def test_a_new_file_is_whole_before_the_first_answer(path: Path, tmp_path: Path) -> None:
    """Under "normal" nothing else is synced: without its new pages it must be a data file."""
    with EmbeddedServer(data=path, sync="normal"):
        cut = tmp_path / "cut.db"
        cut.write_bytes(path.read_bytes())
        with closing(files.open_to_read(str(cut))) as connection:
            assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)


# Backups.


@pytest.mark.parametrize("way", ["backup", ".backup", "VACUUM INTO"])
def test_a_backup_is_made_while_it_runs(
    server: EmbeddedServer, dial: Dial, path: Path, tmp_path: Path, way: str
) -> None:
    client = dial()
    for number in range(500):
        client.push(f"job-{number:04}")
    to = tmp_path / "backup.db"
    with ThreadPoolExecutor(1) as pool, closing(sqlite3.connect(path)) as source:
        pushing = pool.submit(lambda: [client.push(f"job-1{number:03}") for number in range(300)])
        if way == "backup":
            with closing(sqlite3.connect(to)) as target:
                source.backup(target)
        elif way == "VACUUM INTO":
            source.execute("VACUUM INTO ?", (str(to),))
        else:
            if shutil.which("sqlite3") is None:
                pytest.skip("needs the program sqlite3")
            subprocess.run(["sqlite3", path, f".backup {to}"], check=True, timeout=60)
        assert pushing.result() == [b"+OK"] * 300
    with EmbeddedServer(data=to) as restored:
        kept = jids(restored.queues["default"])
    expected = [f"job-{n:04}" for n in range(500)] + [f"job-1{n:03}" for n in range(300)]
    assert kept == expected[: len(kept)]
    assert len(kept) >= 500


# Fail-stop.


class Broken(sqlite3.Connection):
    """A connection that fails at the statement `at` from now on, None for never."""

    at: int | None = None
    seen: list[str] = []

    def _count(self, sql: str) -> None:
        if Broken.at is not None:
            Broken.seen.append(sql)
            Broken.at -= 1
            if Broken.at < 0:
                raise sqlite3.OperationalError("database or disk is full")

    def execute(self, sql: str, *values: Any) -> Any:
        self._count(sql)
        return super().execute(sql, *values)

    def executemany(self, sql: str, *values: Any) -> Any:
        self._count(sql)
        return super().executemany(sql, *values)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Broken]]:
    real = sqlite3.connect
    monkeypatch.setattr(
        files.sqlite3, "connect", lambda *args, **given: real(*args, factory=Broken, **given)
    )
    Broken.at, Broken.seen = None, []
    yield Broken
    Broken.at = None


@pytest.mark.parametrize("step", range(9))
def test_a_write_that_fails_ends_the_server_and_nothing_is_ahead_of_the_file(
    broken: type[Broken], path: Path, dial: Dial, step: int
) -> None:
    reasons: list[Exception] = []
    server = EmbeddedServer(data=path, timing=Timing(fetch_wait=30))
    server.on_failure = reasons.append
    with server:
        client, waiting = dial(to=server), dial(to=server, wid="w")
        for jid in ("job-0001", "job-0009"):
            client.push(jid)
            client.call("FETCH default")
        waiting.send("FETCH nothing")
        before = copy(path, path.with_name("before.db"))
        broken.at = step
        # A row goes, one comes, one with its history, an entry and a counter change.
        client.send(
            'ACK {"jid":"job-0001"}',
            'PUSH {"jid":"job-0002","jobtype":"T","args":[],"queue":"new"}',
            'FAIL {"jid":"job-0009","message":"boom"}',
            "INFO",
        )
        if step == 8:
            assert client.reply() == b"+OK"
            assert [word.split()[0] for word in broken.seen] == (
                ["BEGIN", "DELETE", "INSERT", "INSERT", "UPDATE", "DELETE", "REPLACE", "COMMIT"]
            )
            return
        assert client.is_closed()
        assert waiting.is_closed()
        assert "database or disk is full" in str(reasons[0])
        assert "what it has answered is in the file" in str(reasons[0])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        with pytest.raises(RuntimeError, match="disk is full"):
            assert server.queues
        broken.at = None
    with EmbeddedServer(data=before) as old:
        expected = (old.queues, old.working, old.retries, old.processed)
    server.start()  # from the file
    assert (server.queues, server.working, server.retries, server.processed) == expected
    dial(to=server).push("job-0003")
    server.stop()


def test_a_write_that_fails_while_the_file_is_made_starts_nothing(
    broken: type[Broken], tmp_path: Path
) -> None:
    for step in range(100):
        path = tmp_path / f"{step}.db"
        server = EmbeddedServer(data=path)
        broken.at = step
        try:
            server.start()
        except OSError as error:
            reason = str(error)
        else:
            reason = ""
        failed, broken.at = broken.at < 0, None
        assert ("disk is full" in reason) == failed
        if failed:
            assert holder(str(path)) is None
            with EmbeddedServer(data=path) as again:
                assert again.queues == {}
        else:
            server.stop()
            break
    assert step > 10


@pytest.mark.skipif(sys.platform != "linux", reason="limits a file with prlimit")
def test_a_full_disk_ends_the_process_with_1(path: Path) -> None:
    import resource

    with EmbeddedServer(data=path):
        pass
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "faktory",
            "server",
            "--quiet",
            "--no-web",
            "--bind",
            "127.0.0.1:0",
            "--data",
            str(path),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FAKTORY_PASSWORD": ""},
    )
    assert process.stdout is not None
    url = process.stdout.readline().rpartition("FAKTORY_URL=")[2].strip()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (300_000, 300_000))
    answered: list[str] = []
    with Client(url) as client, suppress(FaktoryConnectionError):
        while len(answered) < 10_000:
            answered.append(client.push({"jobtype": "T", "args": ["x" * 500]}))
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "cannot be written" in err
    assert "Traceback" not in out + err
    with EmbeddedServer(data=path) as server:
        kept = jids(server.queues["default"])
    assert kept[: len(answered)] == answered
    assert len(kept) <= len(answered) + 1
