"""With gevent and eventlet, whose patches may come before the package is imported, or after."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from faktory.server import EmbeddedServer

from .conftest import Scripted

PROGRAM = textwrap.dedent(
    """
    import sys

    def patch():
        if kind == "gevent":
            from gevent import monkey
            monkey.patch_all()
        else:
            import eventlet
            eventlet.monkey_patch()

    kind, patched, url, silent = sys.argv[1:]
    if patched == "first":
        patch()
    import faktory

    client, pool, producer = faktory.Client(url), faktory.Pool(url, size=3), faktory.Producer(url)
    faktory.configure(url=url, pool_size=2)

    @faktory.job()
    def resize(name): ...

    if patched == "later":
        patch()
    JOB = {"jobtype": "Resize", "args": []}
    jids, beats = [], []

    def work():
        for _ in range(5):
            with pool.client() as acquired:
                jids.append(acquired.push(JOB))
            jids.append(client.push(JOB))
            jids.append(producer.push(JOB).result(20))
            jids.append(resize.perform_async("cat.png"))

    def beat():
        while True:
            sleep(0.01)
            beats.append(1)

    if kind == "gevent":
        from gevent import sleep, spawn, joinall
        joinall([spawn(work) for _ in range(10)], raise_error=True)
    else:
        from eventlet import sleep, spawn
        for each in [spawn(work) for _ in range(10)]:
            each.wait()
    print(len(jids), len(set(jids)))
    print(client.push_bulk([{**JOB, "args": [n]} for n in range(50)], batch_size=10))
    spawn(beat)
    sleep(0)
    try:
        faktory.Client(silent, timeout=0.5).push(JOB)
    except faktory.FaktoryOutcomeUnknown:
        print("unknown, and others ran meanwhile:", len(beats) > 5)
    producer.close()
    """
)


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.mark.parametrize("patched", ["first", "later"])
@pytest.mark.parametrize("kind", ["gevent", "eventlet"])
def test_greenlets_push_beside_one_another(
    scripted: Scripted, server: EmbeddedServer, kind: str, patched: str
) -> None:
    if find_spec(kind) is None:
        pytest.skip(f"needs {kind}")
    silent = scripted([":greet", "PUSH", ":silence"])
    arguments = [sys.executable, "-W", "ignore", "-c", PROGRAM, kind, patched]
    ended = subprocess.run(
        [*arguments, server.url, silent.url], capture_output=True, text=True, timeout=60
    )
    expected = ["200 200", "{}", "unknown, and others ran meanwhile: True"]
    assert ended.stdout.splitlines() == expected, ended.stderr
    assert ended.returncode == 0
    assert len(server.queues["default"]) == 250
