"""An outbox whose relays are killed, and whose database and server are restarted, at random.

Every job whose transaction was committed runs at least once, and none that was rolled back.
FAKTORY_SERVER_COMMAND starts the real server: see `real.RealFaktory`.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faktory.server import EmbeddedServer
from faktory.server.state import Timing

from ..contrib import postgres
from ..outbox.crashes import Crashes
from ..worker.real import RealFaktory

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs" / "durability.md"
ROWS = 10_000


class Embedded(EmbeddedServer):
    """An embedded server that is restarted, or drops connections in the middle of a push."""

    def restart(self, crash: bool) -> None:
        if crash:
            self.drop_before("PUSHB")
            self.drop_after("PUSHB")
        else:
            self.stop()
            time.sleep(0.3)
            self.start()


class Real(RealFaktory):
    """A real one, restarted or killed with its Redis, which has the append-only file."""

    def restart(self, crash: bool) -> None:
        if crash:
            self.kill_all()
        else:
            self.stop()
        self.start()


@pytest.fixture(params=["embedded", "real"])
def server(
    request: pytest.FixtureRequest, tmp_path: Path, wait_until: Callable[..., object]
) -> Iterator[Embedded | Real]:
    if request.param == "embedded":
        with Embedded(timing=Timing(fetch_wait=0.1)) as embedded:
            yield embedded
        return
    folder = tmp_path / "data"
    folder.mkdir()
    real = Real(folder, wait_until)
    real.first_in_path = _durable(tmp_path)
    try:
        real.start()
        yield real
    finally:
        real.end()


def _durable(folder: Path) -> Path:
    """Return a folder with the redis-server of docs/durability.md."""
    (script,) = re.findall(r"```text\n(#!/bin/sh\n.*?)```", PAGE.read_text("utf-8"), re.S)
    redis = shutil.which("redis-server")
    if redis is None:
        pytest.skip("needs redis-server")
    path = folder / "durable" / "redis-server"
    path.parent.mkdir()
    path.write_text(script.replace("/usr/bin/redis-server", redis))
    path.chmod(0o755)
    return path.parent


@pytest.fixture
def cluster(wait_until: Callable[..., object]) -> Iterator[postgres.Postgres]:
    with postgres.running(wait_until) as cluster:  # its own: it is restarted
        yield cluster


def run(crashes: Crashes, restarts: list[Callable[[], None]], relays: int) -> None:
    """Write ROWS orders while everything is killed and restarted at random."""
    for _ in range(relays):
        crashes.start_relay()
    crashes.start_writers(2, ROWS)
    while crashes.are_writing():
        time.sleep(crashes.rng.uniform(0.05, 0.8))
        if crashes.rng.random() < 0.75:
            crashes.kill_relay()
        else:
            crashes.rng.choice(restarts)()


def restart_server(crashes: Crashes, server: Embedded | Real) -> Callable[[], None]:
    return lambda: server.restart(crash=crashes.rng.random() < 0.5)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_committed_job_is_lost_on_postgresql(
    seed: int,
    server: Embedded | Real,
    cluster: postgres.Postgres,
    tmp_path: Path,
    wait_until: Callable[..., object],
    request: pytest.FixtureRequest,
) -> None:
    restarts = 0

    def restart() -> None:
        nonlocal restarts
        restarts += 1
        cluster.stop(crash=crashes.rng.random() < 0.5)
        time.sleep(crashes.rng.uniform(0, 0.5))
        cluster.start()
        wait_until(cluster.ready, timeout=60)

    with cluster.database() as name:
        settings = {"kind": "postgresql", **cluster.settings(name)}
        crashes = Crashes(settings, server.url, tmp_path, seed)
        try:
            run(crashes, [restart, restart_server(crashes, server)], relays=2)
            done = crashes.check(wait_until, timeout=120)
        finally:
            crashes.end()
    line = (
        f"outbox, postgresql, {type(server).__name__}: {done}, {restarts} restarts of the database"
    )
    request.node.user_properties.append(("measured", line))


@pytest.mark.parametrize("seed", [1, 2])
def test_no_committed_job_is_lost_on_sqlite(
    seed: int,
    server: Embedded | Real,
    tmp_path: Path,
    wait_until: Callable[..., object],
    request: pytest.FixtureRequest,
) -> None:
    settings = {"kind": "sqlite", "path": str(tmp_path / "app.db")}
    crashes = Crashes(settings, server.url, tmp_path, seed)
    writers = 0

    def kill_writer() -> None:
        """In the middle of a transaction, as a rule."""
        nonlocal writers
        for writer in crashes.writers:
            if writer.poll() is None:
                writers += 1
                writer.kill()
                writer.wait()
                crashes.start_writers(1, ROWS)
                return

    try:
        run(crashes, [kill_writer, restart_server(crashes, server)], relays=2)
        done = crashes.check(wait_until, timeout=120)
    finally:
        crashes.end()
    line = f"outbox, sqlite, {type(server).__name__}: {done}, {writers} writers killed"
    request.node.user_properties.append(("measured", line))
