"""A job that closes all descriptors of its process: those of its worker's threads, too."""

from __future__ import annotations

import json
import sys

import pytest

from faktory.client import Client
from faktory.server import EmbeddedServer

from .conftest import RunProgram, WaitUntil

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="another system, other limits")

KINDS = ("closes", "plain", "plain", "fails", "plain")


def test_threads_whose_sockets_a_job_closes_connect_again_and_report_their_own_jobs(
    server: EmbeddedServer, run_program: RunProgram, wait_until: WaitUntil
) -> None:
    jids = {}
    with Client(server.url) as client:
        for number in range(50):
            kind = KINDS[number % 5]
            job = {"jobtype": kind, "args": [number], "retry": 0}
            jids[client.push(job)] = kind, number
    program = run_program(
        """
@faktory.job
def closes(number): os.closerange(3, 65536)
@faktory.job
def plain(number): time.sleep(0.001)
@faktory.job
def fails(number):
    os.closerange(3, 65536)
    raise ValueError(f"own {number}")
worker = Worker(URL, concurrency=4)
worker.send_heartbeat_every = 0.05
worker.run()
"""
    )

    def found() -> dict[str, tuple[str, str]]:
        reports = [(verb, text) for verb, text in server.commands if verb in ("ACK", "FAIL")]
        return {json.loads(text)["jid"]: (verb, text) for verb, text in reports}

    # A thread that waits for a job as its socket is closed may be given one that it never gets.
    wait_until(lambda: {*found(), *(each["job"]["jid"] for each in server.working)} == {*jids})
    assert program.stop() == 0
    for jid, (verb, text) in found().items():
        kind, number = jids[jid]
        assert verb == ("FAIL" if kind == "fails" else "ACK"), text
        assert kind != "fails" or f"own {number}" in text
    assert len(found()) > 25
    assert "did a job close all descriptors?" in program.log
