"""The server works while a test has stopped the time."""

import subprocess
import sys

import freezegun
import pytest

from faktory.client import Client
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

FAST = Timing(fetch_wait=0.2)


@pytest.mark.parametrize("tick", [False, True])
def test_a_fetch_is_answered_while_the_time_stands(tick):
    with (
        EmbeddedServer(timing=FAST) as server,
        freezegun.freeze_time("2020-01-01", tick=tick),
        Client(server.url) as client,
    ):
        assert client.fetch("default") is None
        client.push({"jobtype": "work", "args": [1]})
        assert client.fetch("default")["args"] == [1]


def test_a_server_can_be_started_and_stopped_while_the_time_stands():
    with (
        freezegun.freeze_time("2020-01-01"),
        EmbeddedServer(timing=FAST) as server,
        Client(server.url) as client,
    ):
        assert client.fetch("default") is None


def test_a_server_that_is_imported_while_the_time_stands_works(tmp_path):
    script = """if True:
        import freezegun
        with freezegun.freeze_time("2020-01-01"):
            from faktory.client import Client
            from faktory.server import EmbeddedServer
            from faktory.server.state import Timing
            with EmbeddedServer(timing=Timing(fetch_wait=0.2)) as server:
                with Client(server.url) as client:
                    assert client.fetch("default") is None
                    assert "2020" not in client.info()["now"]
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
