"""A PostgreSQL that a test starts for itself, from the system's packages, and may kill.

It refuses to run as root: there it runs as the user postgres, in a folder of that user's. It
listens on a Unix socket only.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

_names = count(1)


def _programs() -> Path | None:
    """Return the folder of the newest installed PostgreSQL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return None if path is None else Path(path).resolve().parent


def _version(path: Path) -> float:
    number = path.parts[-3]
    return float(number) if number.replace(".", "", 1).isdigit() else 0.0


class Postgres:
    """A cluster in a folder of its own; `start`, `stop` and `kill` it."""

    def __init__(self, folder: Path, programs: Path, prefix: list[str]) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._programs = programs
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self._data), "-U", "test", "-A", "trust", "-N", "-E", "UTF8")

    def connect(self, database: str = "postgres", **options: Any) -> Any:
        """Return a new connection of psycopg."""
        import psycopg

        return psycopg.connect(**self.settings(database), **options)

    def settings(self, database: str = "postgres") -> dict[str, Any]:
        return {"host": str(self.folder), "user": "test", "dbname": database, "connect_timeout": 5}

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create a database for a `with` block; return its name."""
        name = f"test{next(_names)}"
        self._sql(f"CREATE DATABASE {name}")
        yield name
        self._sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _sql(self, text: str) -> None:
        connection = self.connect(autocommit=True)
        connection.execute(text)
        connection.close()

    def start(self) -> None:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": "40",
            "shared_buffers": "16MB",
        }
        words = [word for each in options.items() for word in ("-c", "=".join(each))]
        with (self.folder / "log").open("ab") as log:
            command = [str(self._programs / "postgres"), "-D", str(self._data), *words]
            self._process = subprocess.Popen(
                [*self._prefix, *command], cwd="/", stdout=log, stderr=log, start_new_session=True
            )

    def ready(self) -> bool:
        """Return whether it answers; fail if it has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"PostgreSQL ended: {(self.folder / 'log').read_text()}")
        with suppress(Exception):
            self.connect().close()
            return True
        return False

    def stop(self, *, crash: bool = False) -> None:
        """End it at once; without a checkpoint if it is to `crash`."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _run(self, program: str, *words: str) -> None:
        command = [*self._prefix, str(self._programs / program), *words]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def _as_postgres() -> tuple[list[str], int | None]:
    """Return the words before a command, and the user's id, to run it as another user than root."""
    if os.geteuid() != 0:
        return [], None
    import pwd

    if shutil.which("setpriv") is None:
        pytest.skip("needs the program setpriv, since PostgreSQL refuses root")
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("needs the user postgres, since PostgreSQL refuses root")
    ids = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
    return ["setpriv", *ids, "--"], user.pw_uid


@contextmanager
def running(wait_until: Callable[..., object]) -> Iterator[Postgres]:
    """Run a PostgreSQL for a `with` block; skip the test where there is none."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs a Unix")
    pytest.importorskip("psycopg", reason="needs psycopg (extra test)")
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL (apt-get install postgresql)")
    prefix, owner = _as_postgres()
    folder = Path(tempfile.mkdtemp(prefix="faktory-pg-", dir="/tmp"))  # a socket's path is short
    try:
        if owner is not None:
            os.chown(folder, owner, -1)
        server = Postgres(folder, programs, prefix)
        server.start()
        try:
            wait_until(server.ready, timeout=60)
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
