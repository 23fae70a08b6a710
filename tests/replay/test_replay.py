"""Recorded scenarios of a real server, replayed against the embedded one: it must reply the same.

`faktory-1.10.0.json` holds scenarios that were recorded from a server that started empty. Every
byte is compared, except what differs from run to run: instants, hashes, uptime, memory, and the
cycles and times of the server's own tasks. `faktory/server/commands.py` lists the deliberate
differences of the embedded server; the recordings show one of them:

- a job without `retry` gets 25, not the `retry` of the job before it.

Waits are a quarter as long as they were.
"""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from faktory.server import EmbeddedServer
from faktory.server.state import Timing
from faktory.wire.session import password_hash

RECORDED = json.loads(Path(__file__).with_name("faktory-1.10.0.json").read_text("utf-8"))
SCENARIOS = {scenario["name"]: scenario for scenario in RECORDED["scenarios"]}

FASTER = 4
PASSWORD = "s3cret: /@é"

LEAK = "the default retry leaks between jobs"
SILENT = "handshake silent for 2 s closes"
"""The one scenario in which the handshake times out."""

VARIABLE = [
    (re.compile(rb'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"'), b'"TIME"'),
    (re.compile(rb'"server_utc_time":"[^"]*"'), b'"server_utc_time":"TIME"'),
    (re.compile(rb'"(uptime|used_memory_mb|cycles)":\d+'), rb'"\1":N'),
    (re.compile(rb'"wall_time_sec":[^},]+'), b'"wall_time_sec":N'),
    (re.compile(rb'"i":\d+,"s":"[0-9a-f]+"'), b'"i":N,"s":"SALT"'),
]


def without_variables(reply: bytes) -> bytes:
    """Check the length of a reply; replace what differs from run to run."""
    if reply.startswith(b"$") and reply != b"$-1\r\n":
        length, _, body = reply.partition(b"\r\n")
        assert int(length[1:]) == len(body) - 2
        reply = b"$\r\n" + body
    for pattern, placeholder in VARIABLE:
        # Instants from the clients are compared.
        reply = pattern.sub(lambda m, p=placeholder: m[0] if chosen(m[0]) else m.expand(p), reply)
    return reply


def chosen(instant: bytes) -> bool:
    return instant[1:5] in (b"2001", b"2099") or instant == b'"2026-01-02T03:04:05.678901234Z"'


class RawClient:
    """One connection of a scenario."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rb")

    def reply(self) -> bytes:
        line = self.file.readline()
        if line.startswith(b"$") and line != b"$-1\r\n":
            line += self.file.read(int(line[1:]) + 2)
        return line

    def is_closed(self) -> bool:
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Player:
    """Plays the steps of a scenario and compares the replies."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.clients: dict[str, RawClient] = {}

    def play(self, step: dict[str, Any]) -> None:
        if "sleep_s" in step:
            time.sleep(step["sleep_s"] / FASTER)
        elif "open" in step:
            self.clients[step["conn"]] = RawClient(self.port)
        elif "close" in step:
            self.clients.pop(step["conn"]).close()
        elif "send" in step:
            self.send(step)
        else:
            self.receive(step)

    def send(self, step: dict[str, Any]) -> None:
        client = self.clients[step["conn"]]
        text = step["send"]
        if "hi" in step:
            recorded = step["hi"]
            hashed = password_hash(step["password"], recorded["s"], recorded["i"])
            assert hashed in text, "the recording has another hash"
            hi = json.loads(client.reply().removeprefix(b"+HI "))
            assert hi.keys() == recorded.keys()
            text = text.replace(hashed, password_hash(step["password"], hi["s"], hi["i"]))
        client.socket.sendall(text.encode())

    def receive(self, step: dict[str, Any]) -> None:
        client = self.clients[step["conn"]]
        started = time.monotonic()
        for expected in step["recv"]:
            assert without_variables(client.reply()) == without_variables(expected.encode())
        if step["closed"]:
            assert client.is_closed()
        # Timers may fire a little early, and much too late on a busy machine.
        assert time.monotonic() - started >= (step["waited_s"] - 0.2) / FASTER

    def close(self) -> None:
        for client in self.clients.values():
            client.close()


NAMES = [name for name in SCENARIOS if name != LEAK]


def quick(name: str) -> bool:
    steps = SCENARIOS[name]["steps"]
    return sum(step.get("sleep_s", 0) + step.get("waited_s", 0) for step in steps) < 1


@pytest.mark.parametrize("name", NAMES)
def test_the_embedded_server_answers_as_the_real_one_did(name: str) -> None:
    play(SCENARIOS[name])


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=[] if quick(each) else pytest.mark.soak) for each in NAMES],
)
def test_with_a_file_it_answers_the_same(name: str, tmp_path: Path) -> None:
    play(SCENARIOS[name], data=tmp_path / "jobs.db", sync="normal")


def test_the_retry_of_one_job_does_not_become_the_default_of_others() -> None:
    scenario = json.loads(json.dumps(SCENARIOS[LEAK]))
    answer = scenario["steps"][-1]
    [reply] = answer["recv"]
    length, _, body = reply.partition("\r\n")
    body = body.replace('"retry":3,', f'"retry":{25},')
    assert int(length[1:]) + 1 == len(body) - 2, "the recording does not show the leak"
    answer["recv"] = [f"${len(body) - 2}\r\n{body}"]
    play(scenario)


def play(scenario: dict[str, Any], **options: Any) -> None:
    password = PASSWORD if scenario["secure"] else None
    timing = Timing(fetch_wait=2 / FASTER)
    if scenario["name"] == SILENT:
        timing = timing._replace(handshake_timeout=2 / FASTER)
    with EmbeddedServer(password=password, timing=timing, **options) as server:
        player = Player(server.port)
        try:
            for step in scenario["steps"]:
                player.play(step)
        finally:
            player.close()
