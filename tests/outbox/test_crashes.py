"""A relay that is killed at random: each committed job runs at least once, and no other.

The small form; tests/soak/test_outbox.py has 10,000 rows, and restarts database and server.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from faktory.outbox import Outbox
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

from . import programs
from .crashes import Crashes


def test_no_committed_job_is_lost_if_relays_are_killed(
    tmp_path: Path, wait_until: Callable[..., object]
) -> None:
    settings = {"kind": "sqlite", "path": str(tmp_path / "app.db")}
    with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as server:
        crashes = Crashes(settings, server.url, tmp_path, 1)
        try:
            crashes.start_relay()
            crashes.start_relay()  # waits for the lock of the other one
            outbox, rng = Outbox(crashes.connect), random.Random(1)
            connection = crashes.connect()
            for number in range(150):
                programs.transact(connection, outbox, rng)
                if number % 50 == 49:
                    wait_until(lambda: len(crashes.waiting()) < 200)
                    server.drop_before("PUSHB")
                    server.drop_after("PUSHB")
                    time.sleep(rng.uniform(0, 0.05))
                    crashes.kill_relay()
            connection.close()
            crashes.check(wait_until, timeout=60)
        finally:
            crashes.end()
