import json
import os
import socket
import struct
import threading
import time
from contextlib import suppress
from random import Random

import pytest

from faktory.server import EmbeddedServer, connection, listener
from faktory.server.state import Timing


@pytest.fixture
def small():
    with EmbeddedServer(max_command=1000) as server:
        yield server


# Limits.


def test_a_command_that_is_too_long_is_rejected_with_the_limit(small, dial):
    client = dial(to=small)
    assert client.call(b"x" * 1000).startswith(b"-ERR unknown command xxx")
    reply = client.call(b"x" * 1001)
    assert reply == (
        b"-ERR a command is longer than 1000 bytes: that is the limit of this embedded server"
    )
    assert client.is_closed()


def test_an_endless_command_is_rejected_before_it_fills_the_memory(small, dial):
    client = dial(to=small)
    client.socket.sendall(b"PUSH " + b"x" * 1000)
    assert client.reply().startswith(b"-ERR a command is longer than 1000 bytes")


def test_commands_behind_one_that_is_too_long_are_not_executed(small, dial):
    client = dial(to=small)
    client.send(b"x" * 1001, b"FLUSH")
    assert b"longer than 1000 bytes" in client.reply()
    assert client.is_closed()
    assert "FLUSH" not in [verb for verb, _ in small.commands]


def test_a_client_that_goes_on_sending_too_much_still_gets_the_error(small, dial):
    client = dial(to=small)
    for _ in range(50):
        client.socket.sendall(b"x" * 10_000)
        time.sleep(0)  # the server is to read in between
    assert b"longer than 1000 bytes" in client.reply()


def test_a_hello_that_is_too_long_is_rejected_with_the_limit(dial):
    client = dial(handshake=False)
    assert client.reply() == b'+HI {"v":2}'
    client.socket.sendall(b'HELLO {"labels":["' + b"x" * 70_000)
    assert client.reply().startswith(b"-ERR HELLO is longer than 65536 bytes")


def test_a_client_without_a_whole_hello_in_time_is_disconnected(dial):
    with EmbeddedServer(timing=Timing(handshake_timeout=0.5)) as server:
        client = dial(to=server, handshake=False)
        client.reply()
        client.socket.sendall(b'HELLO {"v":2}')  # without an end
        assert client.is_closed()


def test_a_client_that_does_not_read_the_last_replies_is_cut_off(dial, wait_until):
    with EmbeddedServer(timing=Timing(close_timeout=0.5)) as server:
        slow = dial(to=server)
        flood(slow, b"INFO\r\n")
        server.disconnect()
        wait_until(lambda: not peers(server))
        assert slow.socket.recv(1)  # it was sent replies, and there was no room for more


def test_a_client_that_does_not_read_is_paused_and_others_are_served(server, dial, wait_until):
    slow, other = dial(), dial()
    sent = flood(slow, b"INFO\r\n")
    wait_until(lambda: any(peer._write_paused for peer in peers(server)))
    executed = len(server.commands)
    assert other.call("NOPE") == b"-ERR unknown command NOPE"
    assert len(server.commands) == executed + 1
    assert _unsent(server) < 3 * connection.MAX_UNSENT
    assert executed < sent
    # It is served again as soon as it reads.
    for _ in range(executed):
        json.loads(slow.reply())


def flood(client, command):
    """Send commands until the server reads no more; return how many."""
    client.socket.settimeout(0.5)
    sent = 0
    try:
        while True:
            sent += client.socket.send(command * 10_000) // len(command)
    except TimeoutError:
        client.socket.settimeout(10)
        return sent


def peers(server):
    return server._call(lambda state: list(state.peers))


def _unsent(server):
    return max(peer._transport.get_write_buffer_size() for peer in peers(server))


def test_the_commands_received_behind_a_waiting_fetch_are_bounded(dial, wait_until):
    with EmbeddedServer(timing=Timing(fetch_wait=60)) as server:
        client = dial(to=server)
        client.send("FETCH default")
        flood(client, b"NOPE\r\n")
        [waiting] = peers(server)
        wait_until(lambda: not waiting._transport.is_reading())
        dial(to=server).push("job-0001")
        assert json.loads(client.reply())["jid"] == "job-0001"
        assert client.reply() == b"-ERR unknown command NOPE"


# The end of a connection.


def test_a_job_is_not_handed_to_a_connection_that_was_closed(dial):
    gone, other = dial(), dial()
    for number in range(20):
        gone.send("FETCH default")
        other.call("INFO")
        gone.close()
        other.push(f"job-{number:04}")
        assert json.loads(other.call("FETCH default"))["jid"] == f"job-{number:04}"
        gone = dial()


def test_commands_behind_a_fetch_are_executed_when_the_client_is_gone(server, dial, wait_until):
    client, other = dial(), dial()
    other.push("job-0001")
    client.call("FETCH default")
    client.send("FETCH nothing default", 'ACK {"jid":"job-0001"}', "FETCH default")
    other.push("job-0002", "another")
    client.socket.shutdown(socket.SHUT_WR)
    wait_until(lambda: server.working == [])
    assert client.reply() is None
    assert [client.reply(), client.reply()] == [b"+OK", None]
    assert client.is_closed()


def test_all_commands_sent_before_the_end_of_the_connection_are_executed(server, dial, wait_until):
    client = dial()
    push = b'PUSH {"jid":"job-%04d","jobtype":"T","args":[]}\r\n'
    client.socket.sendall(b"".join(push % number for number in range(1000)))
    client.socket.shutdown(socket.SHUT_WR)
    wait_until(lambda: len(server.queues.get("default", ())) == 1000)


def test_a_client_that_sends_much_at_once_does_not_block_others(server, dial, wait_until):
    busy, other = dial(), dial()
    server.hold("WAIT")
    busy.send("WAIT", *["NOPE"] * 20_000)
    wait_until(lambda: server.commands[-1][0] == "WAIT")
    other.send("WAIT", "OTHER")  # both lie there before either goes on
    wait_until(lambda: len(server.commands) == 4)
    server.release("WAIT")
    other.reply()
    other.reply()
    verbs = [verb for verb, _ in server.commands]
    assert verbs.index("OTHER") < len(verbs) - 1


def test_half_a_command_is_not_executed_when_the_connection_ends(server, dial, wait_until):
    client = dial()
    client.socket.sendall(b"FLUSH")
    client.close()
    wait_until(lambda: not peers(server))
    assert [verb for verb, _ in server.commands] == ["HELLO"]


def test_garbage_is_answered_or_disconnected_and_does_not_affect_others(server, dial):
    other = dial()
    tls_hello = bytes.fromhex("16030100c8010000c40303") + bytes(200)
    for noise in (tls_hello + b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 100 + b"\n"):
        client = dial(handshake=False)
        client.reply()
        client.socket.sendall(noise)
        assert client.is_closed()
    assert other.call("NOPE") == b"-ERR unknown command NOPE"
    other.socket.sendall(bytes(range(256)) + b"\r\n")
    assert other.reply().startswith(b"-ERR unknown command \x00\x01")


def test_connections_that_end_at_any_byte_leave_nothing_behind(dial, wait_until, caplog):
    random = Random(1)
    lines = (
        b'HELLO {"v":2,"wid":"w"}\r\n'
        b'PUSHB [{"jid":"job-0001","jobtype":"T","args":[]},{"jid":"job-0002","queue":"q"}]\r\n'
        b"FETCH default nothing\r\nINFO\r\nFETCH nothing\r\n"
        b'MUTATE {"cmd":"kill","target":"retries"}\r\nFAIL {"jid":"job-0001"}\r\nEND\r\n'
    )
    with EmbeddedServer() as server:
        before = threading.active_count()
        files = open_files()
        for number in range(300):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.sendall(lines[: random.randrange(len(lines))])
            if number % 2:  # a reset in place of an orderly end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        wait_until(lambda: not peers(server))
        assert dial(to=server).call("NOPE") == b"-ERR unknown command NOPE"
        assert threading.active_count() == before
        wait_until(lambda: open_files() <= files + 2)  # both ends of the last connection
        assert server._state.unfinished == server._state.long_commands == 0
        assert server._call(lambda state: dict(state.store._waiting)) == {}
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def open_files():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_a_long_command_is_executed_to_its_end_when_its_client_is_gone(server, dial, wait_until):
    client = dial()
    jobs = [{"jid": f"job-{number:05}", "jobtype": "T", "args": []} for number in range(5000)]
    client.send("PUSHB " + json.dumps(jobs), "PUSH " + json.dumps({**jobs[0], "queue": "behind"}))
    client.socket.shutdown(socket.SHUT_WR)
    assert client.reply() == b"{}"
    assert client.reply() == b"+OK"
    assert client.is_closed()
    client = dial()
    client.send("PUSHB " + json.dumps(jobs))
    client.close()
    wait_until(lambda: len(server.queues["default"]) == 10_000)
    assert len(server.queues["behind"]) == 1


def test_a_server_that_is_stopped_while_clients_are_busy_keeps_each_job_whole(dial, wait_until):
    jobs = [{"jid": f"job-{number:05}", "jobtype": "T", "args": []} for number in range(50_000)]
    with EmbeddedServer() as server:
        clients = [dial(to=server) for _ in range(20)]
        clients[0].send("PUSHB " + json.dumps(jobs))
        clients[1].send("FETCH nothing", "FETCH nothing")
        for client in clients[2:]:
            client.socket.sendall(b"PUSH {")
        wait_until(lambda: server.commands[-1][0] in ("PUSHB", "FETCH"))
    for client in clients:
        with suppress(EOFError, ConnectionResetError):
            client.reply()
    with server:
        assert dial(to=server).push("job-next", "other") == b"+OK"
        assert [job["jid"] for job in server.queues["other"]] == ["job-next"]
        assert server._state.unfinished == server._state.long_commands == 0


def test_more_connections_than_the_system_bears_are_closed_at_once(server, dial, monkeypatch):
    monkeypatch.setattr(listener, "MAX_OPEN", 3)
    clients = [dial() for _ in range(3)]
    with pytest.raises((EOFError, ConnectionResetError, AssertionError)):
        dial().call("NOPE")
    clients.pop().socket.shutdown(socket.SHUT_RDWR)
    assert clients[0].call("NOPE") == b"-ERR unknown command NOPE"
