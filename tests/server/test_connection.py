import json
import socket
import time

import pytest

from faktory.server import EmbeddedServer, connection


@pytest.fixture
def small():
    with EmbeddedServer(max_command=1000) as server:
        yield server


# Limits.


def test_a_command_that_is_too_long_is_refused_with_the_limit(small, dial):
    line = dial(to=small)
    assert line.say(b"x" * 1000).startswith(b"-ERR unknown command xxx")
    reply = line.say(b"x" * 1001)
    assert reply == (
        b"-ERR a command is longer than 1000 bytes: that is the limit of this embedded server"
    )
    assert line.at_end()


def test_a_command_without_an_end_is_refused_before_it_fills_the_memory(small, dial):
    line = dial(to=small)
    line.socket.sendall(b"PUSH " + b"x" * 1000)
    assert line.reply().startswith(b"-ERR a command is longer than 1000 bytes")


def test_what_follows_a_command_that_is_too_long_is_not_executed(small, dial):
    line = dial(to=small)
    line.send(b"x" * 1001, b"FLUSH")
    assert b"longer than 1000 bytes" in line.reply()
    assert line.at_end()
    assert "FLUSH" not in [verb for verb, _ in small.commands]


def test_a_client_that_goes_on_sending_too_much_still_sees_why(small, dial):
    line = dial(to=small)
    for _ in range(50):
        line.socket.sendall(b"x" * 10_000)
        time.sleep(0)  # the server is to read in between
    assert b"longer than 1000 bytes" in line.reply()


def test_a_hello_that_is_too_long_is_refused_with_the_limit(dial):
    line = dial(greet=False)
    assert line.reply() == b'+HI {"v":2}'
    line.socket.sendall(b'HELLO {"labels":["' + b"x" * 70_000)
    assert line.reply().startswith(b"-ERR HELLO is longer than 65536 bytes")


def test_who_does_not_say_hello_in_time_is_hung_up_on(server, dial, monkeypatch):
    monkeypatch.setattr(connection, "HANDSHAKE_TIMEOUT", 0.05)
    line = dial(greet=False)
    line.reply()
    line.socket.sendall(b'HELLO {"v":2}')  # without an end
    assert line.at_end()


def test_a_client_that_does_not_read_stops_being_served_and_others_do_not(server, dial, wait_until):
    slow, other = dial(), dial()
    sent = flood(slow, b"INFO\r\n")
    wait_until(lambda: any(one._slow for one in server._core.connections))
    executed = len(server.commands)
    assert other.say("NOPE") == b"-ERR unknown command NOPE"
    assert len(server.commands) == executed + 1
    assert _unsent(server) < 3 * connection.MAX_UNSENT
    assert executed < sent
    # It is served again as soon as it reads.
    for _ in range(executed):
        json.loads(slow.reply())


def flood(line, command):
    """Send commands until the line takes no more; return how many."""
    line.socket.settimeout(0.5)
    sent = 0
    try:
        while True:
            sent += line.socket.send(command * 10_000) // len(command)
    except TimeoutError:
        line.socket.settimeout(10)
        return sent


def _unsent(server):
    return max(one._transport.get_write_buffer_size() for one in server._core.connections)


def test_what_comes_in_behind_a_waiting_fetch_is_bounded(server, dial, wait_until, monkeypatch):
    monkeypatch.setattr(connection, "FETCH_WAIT", 1000)
    line = dial()
    line.send("FETCH nothing")
    flood(line, b"NOPE\r\n")
    [waiting] = server._core.connections
    wait_until(lambda: not waiting._transport.is_reading())
    dial().push("job-0001", "nothing")
    assert json.loads(line.reply())["jid"] == "job-0001"
    assert line.reply() == b"-ERR unknown command NOPE"


# A line that ends.


def test_a_job_is_not_handed_to_a_connection_that_was_closed(dial):
    gone, other = dial(), dial()
    for number in range(20):
        gone.send("FETCH default")
        other.say("INFO")
        gone.close()
        other.push(f"job-{number:04}")
        assert json.loads(other.say("FETCH default"))["jid"] == f"job-{number:04}"
        gone = dial()


def test_what_was_sent_behind_a_fetch_is_executed_when_the_client_is_gone(server, dial, wait_until):
    line, other = dial(), dial()
    other.push("job-0001")
    line.say("FETCH default")
    line.send("FETCH nothing default", 'ACK {"jid":"job-0001"}', "FETCH default")
    other.push("job-0002", "another")
    line.socket.shutdown(socket.SHUT_WR)
    wait_until(lambda: server.working == [])
    assert line.reply() is None
    assert [line.reply(), line.reply()] == [b"+OK", None]
    assert line.at_end()


def test_all_that_was_sent_before_the_line_ended_is_executed(server, dial, wait_until):
    line = dial()
    push = b'PUSH {"jid":"job-%04d","jobtype":"T","args":[]}\r\n'
    line.socket.sendall(b"".join(push % number for number in range(1000)))
    line.socket.shutdown(socket.SHUT_WR)
    wait_until(lambda: len(server.queues.get("default", ())) == 1000)


def test_who_sends_much_at_once_does_not_keep_others_waiting(server, dial, wait_until):
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


def test_half_a_command_is_not_executed_when_the_line_ends(server, dial, wait_until):
    line = dial()
    line.socket.sendall(b"FLUSH")
    line.close()
    wait_until(lambda: not server._core.connections)
    assert [verb for verb, _ in server.commands] == ["HELLO"]


def test_garbage_is_answered_or_hung_up_on_and_hurts_nobody_else(server, dial):
    other = dial()
    tls_hello = bytes.fromhex("16030100c8010000c40303") + bytes(200)
    for noise in (tls_hello + b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 100 + b"\n"):
        line = dial(greet=False)
        line.reply()
        line.socket.sendall(noise)
        assert line.at_end()
    assert other.say("NOPE") == b"-ERR unknown command NOPE"
    other.socket.sendall(bytes(range(256)) + b"\r\n")
    assert other.reply().startswith(b"-ERR unknown command \x00\x01")
