"""While the server runs, its state is used by the thread of its loop and by no other."""

import threading

import pytest

from faktory.server import EmbeddedServer
from faktory.server.connection import ServerConnection
from faktory.server.enterprise.batches import Batches, StoredBatch
from faktory.server.enterprise.locks import Locks
from faktory.server.enterprise.tracking import Tracks
from faktory.server.faults import Faults
from faktory.server.job import StoredJob
from faktory.server.listener import Listener
from faktory.server.series import Series
from faktory.server.sorted_set import SortedSet
from faktory.server.state import CommandLog, ServerState
from faktory.server.store import Store
from faktory.server.workers import ClientRecord, Workers

STATE = [ServerState, CommandLog, Faults, Workers, ClientRecord, ServerConnection, Listener]
STATE += [Store, Series, SortedSet, StoredJob, Batches, StoredBatch, Locks, Tracks]

CALLS = {
    "travel": lambda server: server.travel(1),
    "drop_before": lambda server: server.drop_before("NOPE"),
    "drop_after": lambda server: server.drop_after("NOPE"),
    "delay": lambda server: server.delay("NOPE", 0.001),
    "answer_error": lambda server: server.answer_error("NOPE", "no"),
    "clear_faults": lambda server: server.clear_faults(),
    "hold": lambda server: server.hold("NOPE"),
    "release": lambda server: server.release("NOPE"),
    "quiet": lambda server: server.quiet("w"),
    "terminate": lambda server: server.terminate("w"),
    "port": lambda server: server.port,
    "address": lambda server: server.address,
    "url": lambda server: server.url,
    "is_exposed": lambda server: server.is_exposed,
    "is_running": lambda server: server.is_running,
    "failure": lambda server: server.failure,
    "commands": lambda server: server.commands,
    "clear_commands": lambda server: server.clear_commands(),
    "queues": lambda server: server.queues,
    "scheduled": lambda server: server.scheduled,
    "retries": lambda server: server.retries,
    "dead": lambda server: server.dead,
    "working": lambda server: server.working,
    "workers": lambda server: server.workers,
    "sizes": lambda server: server.sizes,
    "processed": lambda server: server.processed,
    "failures": lambda server: server.failures,
    "perform": lambda server: server.perform(lambda state: state.store.find("job-0001")).result(20),
    "disconnect": lambda server: server.disconnect(),
    "refuse_connections": lambda server: server.refuse_connections(),
    "limit_connections": lambda server: server.limit_connections(1),
    "begin_shutdown": lambda server: server.begin_shutdown(),
    "accept_connections": lambda server: server.accept_connections(),
    "reset": lambda server: server.reset(),
    "stop": lambda server: server.stop(),
}
"""A call of all public names but `start`, in an order in which each has something to do."""


@pytest.fixture
def server():
    with EmbeddedServer(enterprise=True) as server:
        yield server


@pytest.fixture
def strays(server, monkeypatch):
    """The attributes of the state that other threads have read or set."""
    found = []

    def note(owner, name):
        thread = server._thread
        elsewhere = thread not in (None, threading.current_thread())
        # To look up a method does no harm; when it runs, its own uses are noted.
        if elsewhere and not callable(getattr(owner, name, None)):
            found.append(f"{owner.__name__}.{name}")

    def watch(owner):
        read, write = owner.__getattribute__, owner.__setattr__

        def getattribute(self, name):
            note(owner, name)
            return read(self, name)

        def setattribute(self, name, value):
            note(owner, name)
            write(self, name, value)

        monkeypatch.setattr(owner, "__getattribute__", getattribute)
        monkeypatch.setattr(owner, "__setattr__", setattribute)

    for owner in STATE:
        watch(owner)
    return found


def test_no_public_name_is_forgotten_here():
    public = {name for name in dir(EmbeddedServer) if not name.startswith("_")}
    assert public == {"start", *CALLS}


def test_no_call_uses_the_state_in_the_callers_thread(server, dial, strays):
    client = dial(wid="w")
    for number, fields in enumerate([{}, {"retry": 1}, {"retry": -1}, {}]):
        client.push(f"job-000{number}", **fields)
    client.push("job-0004", at="2099-01-01T00:00:00Z")
    for number in range(3):
        client.call("FETCH default")
        if number:
            client.call(f'FAIL {{"jid":"job-000{number}"}}')
    sizes = {}
    for name, call in CALLS.items():
        result = call(server)
        sizes[name] = len(result) if isinstance(result, list | dict) else result
        assert strays == [], name
    assert sizes["scheduled"] == sizes["retries"] == sizes["dead"] == sizes["working"] == 1
    assert (sizes["queues"], sizes["workers"], sizes["processed"]) == (1, 1, 2)


def test_a_stray_use_is_found(server, strays):
    assert server._state.store.processed == 0
    server._state.shutting_down = False
    assert strays == ["ServerState.store", "Store.processed", "ServerState.shutting_down"]
