import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from faktory import Client
from faktory.server import EmbeddedServer, listener
from faktory.wire.session import password_hash

LATER = "2099-01-01T00:00:00Z"


# Start and stop.


def test_it_listens_when_start_returns_and_not_after_stop():
    server = EmbeddedServer()
    server.start()
    socket.create_connection(("127.0.0.1", server.port)).close()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
    assert not [t for t in threading.enumerate() if t.name == "faktory-server"]


def test_it_is_started_again_on_the_same_port_with_what_it_held(server, dial):
    line, port = dial(wid="w"), server.port
    line.push("job-0001")
    line.push("job-0002")
    line.say("FETCH default")
    server.stop()
    assert line.at_end()
    assert [job["jid"] for job in server.queues["default"]] == ["job-0002"]
    server.start()
    again = dial()
    assert server.port == port
    assert server.workers == []
    assert again.say('FAIL {"jid":"job-0001"}') == b"+OK"
    assert json.loads(again.say("FETCH default"))["jid"] == "job-0002"


def test_starting_twice_and_stopping_twice(server):
    with pytest.raises(RuntimeError, match="running already"):
        server.start()
    server.stop()
    server.stop()


def test_an_address_in_use_is_an_error_and_leaves_nothing_behind(server):
    other = EmbeddedServer(f"127.0.0.1:{server.port}")
    with pytest.raises(OSError, match="in use"):
        other.start()
    other.stop()


@pytest.mark.parametrize(
    "bind", ["localhost", "7419", "host:", "host:x", "host:65536", "host:\u0661"]
)
def test_what_is_no_address_is_refused_with_an_example(bind):
    with pytest.raises(ValueError, match=r"write host:port, for example 127\.0\.0\.1:7419"):
        EmbeddedServer(bind)


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("0.0.0.0:0", "tcp://127.0.0.1:{}"),
        ("localhost:0", "tcp://localhost:{}"),
        ("[::1]:0", "tcp://[::1]:{}"),
        ("[::]:0", "tcp://[::1]:{}"),
    ],
)
def test_its_url_is_one_that_clients_can_connect_to(bind, url):
    if "[" in bind and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    with EmbeddedServer(bind) as server:
        assert server.url == url.format(server.port)
        host = server.address.host
        socket.create_connection((host, server.port)).close()


def _has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_it_goes_on_when_the_system_has_files_again(server, dial, wait_until, monkeypatch, caplog):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(listener, "ACCEPT_AGAIN", 0.01)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as line:
        resource.setrlimit(resource.RLIMIT_NOFILE, (line.fileno() + 1, limits[1]))
        try:
            line.connect(("127.0.0.1", server.port))
            wait_until(lambda: "cannot accept a connection" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert line.recv(4) == b"+HI "


def test_importing_faktory_does_not_load_the_server():
    code = "import faktory, sys; print('faktory.server' in sys.modules, 'asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_it_says_what_it_is_for(caplog):
    with caplog.at_level("INFO", "faktory.server"), EmbeddedServer(password="s3cret") as server:
        pass
    assert f"for development and tests listens on tcp://:***@127.0.0.1:{server.port}" in caplog.text


# Password and TLS.


def test_the_password_is_asked_for_and_percent_encoded_in_the_url(dial):
    with EmbeddedServer(password="s3cret: /@é") as server:
        assert server.url == f"tcp://:s3cret%3A%20%2F%40%C3%A9@127.0.0.1:{server.port}"
        greetings = []
        for version, right in ((2, True), (1, True), (2, False)):
            line = dial(to=server, greet=False)
            hi = json.loads(line.reply().removeprefix(b"+HI "))
            greetings.append(hi["s"])
            assert 4000 <= hi["i"] < 8096
            rounds = hi["i"] if version == 2 else 1
            proof = password_hash("s3cret: /@é" if right else "wrong", hi["s"], rounds)
            reply = line.say(f'HELLO {{"v":{version},"pwdhash":"{proof}"}}')
            assert reply == (b"+OK" if right else b"-ERR Invalid password")
        assert line.at_end()
        assert len(set(greetings)) == 3


def test_a_conversation_over_tls(certificate):
    cert, key = map(str, certificate)
    with EmbeddedServer(tls_cert=cert, tls_key=key) as server:
        assert server.url == f"tcp+tls://127.0.0.1:{server.port}"
        context = ssl.create_default_context(cafile=cert)
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as line,
            line.makefile("rb") as file,
        ):
            assert file.readline() == b'+HI {"v":2}\r\n'
            line.sendall(b'HELLO {"v":2}\r\nNOPE\r\n')
            assert [file.readline(), file.readline()] == [
                b"+OK\r\n",
                b"-ERR unknown command NOPE\r\n",
            ]


def test_stopping_does_not_wait_for_a_client_that_hesitates_with_tls(certificate):
    server = EmbeddedServer(tls_cert=str(certificate[0]), tls_key=str(certificate[1]))
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        started = time.monotonic()
        server.stop()
        assert line.recv(1) == b""
        assert time.monotonic() - started < 5


def test_a_client_that_speaks_no_tls_is_hung_up_on(certificate):
    with (
        EmbeddedServer(tls_cert=str(certificate[0]), tls_key=str(certificate[1])) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as line,
    ):
        line.sendall(b'HELLO {"v":2}\r\n')
        assert b"HI" not in line.recv(1000)


def test_half_of_what_tls_needs_is_refused():
    with pytest.raises(ValueError, match="both tls_cert and tls_key"):
        EmbeddedServer(tls_cert="cert.pem")


# Faults.


def test_a_connection_dropped_before_a_command_has_not_executed_it(server, dial):
    server.drop_before("PUSH")
    line = dial()
    with pytest.raises(EOFError):
        line.push("job-0001")
    assert server.queues == {}
    assert dial().push("job-0001") == b"+OK"


def test_a_connection_dropped_after_a_command_has_executed_it(server, dial):
    server.drop_after("PUSH", times=2)
    for number in (1, 2):
        with pytest.raises(EOFError):
            dial().push(f"job-000{number}")
    assert [job["jid"] for job in server.queues["default"]] == ["job-0001", "job-0002"]


def test_a_fetch_that_waits_may_be_dropped_when_it_got_a_job(server, dial):
    server.drop_after("FETCH")
    line, pusher = dial(), dial()
    line.send("FETCH default")
    pusher.push("job-0001")
    assert line.at_end()
    assert [entry["job"]["jid"] for entry in server.working] == ["job-0001"]


def test_answers_before_the_drop_are_sent(server, dial):
    server.drop_before("INFO")
    line = dial()
    line.send("NOPE", "INFO", "NOPE")
    assert line.reply() == b"-ERR unknown command NOPE"
    assert line.at_end()


def test_an_error_on_demand_stands_in_for_the_command(server, dial):
    line = dial()
    server.answer_error("ACK", "redis is away")
    line.push("job-0001")
    line.say("FETCH default")
    assert line.say('ACK {"jid":"job-0001"}') == b"-ERR redis is away"
    assert len(server.working) == 1
    assert line.say('ACK {"jid":"job-0001"}') == b"+OK"


def test_a_delayed_command_delays_those_behind_it_and_nobody_else(server, dial):
    server.delay("PUSH", 1)
    line, other = dial(), dial()
    started = time.monotonic()
    line.send('PUSH {"jid":"job-0001","jobtype":"T","args":[]}', "NOPE")
    assert other.say("NOPE") == b"-ERR unknown command NOPE"
    assert time.monotonic() - started < 1
    assert [line.reply(), line.reply()] == [b"+OK", b"-ERR unknown command NOPE"]
    assert time.monotonic() - started >= 0.99


def test_held_commands_are_executed_in_their_order_when_released(server, dial, wait_until):
    server.hold("PUSH")
    lines = [dial(), dial()]
    for number, line in enumerate(lines):
        line.send(f'PUSH {{"jid":"job-000{number}","jobtype":"T","args":[]}}')
        wait_until(lambda n=number: len(server.commands) == 3 + n)
    assert server.queues == {}
    server.release("PUSH")
    assert [line.reply() for line in lines] == [b"+OK", b"+OK"]
    assert [job["jid"] for job in server.queues["default"]] == ["job-0000", "job-0001"]


def test_a_held_fetch_of_a_connection_that_is_gone_takes_no_job(server, dial, wait_until):
    line, other = dial(), dial()
    other.push("job-0001")
    server.hold("FETCH")
    line.send("FETCH default")
    wait_until(lambda: server.commands[-1][0] == "FETCH")
    line.close()
    wait_until(lambda: len(server._core.connections) == 1)
    server.release("FETCH")
    assert len(server.queues["default"]) == 1


def test_a_held_hello_of_a_connection_that_is_gone_makes_no_worker(server, dial, wait_until):
    server.hold("HELLO")
    line = dial(greet=False)
    line.send('HELLO {"wid":"w"}')
    wait_until(lambda: server.commands)
    line.close()
    wait_until(lambda: not server._core.connections)
    server.release("HELLO")
    assert server.workers == []
    assert json.loads(dial().say("INFO"))["server"]["connections"] == 1


def test_faults_of_the_handshake(server, dial):
    server.answer_error("HELLO", "not today")
    server.drop_before("HELLO")
    line = dial(greet=False)
    line.reply()
    assert line.say(b'HELLO {"v":2}') == b"-ERR not today"
    line.send(b'HELLO {"v":2}')
    assert line.at_end()


def test_faults_can_be_called_off(server, dial):
    server.drop_before("NOPE", times=5)
    server.clear_faults()
    assert dial().say("NOPE") == b"-ERR unknown command NOPE"


def test_a_closed_port_leaves_connections_alone_and_opens_again(server, dial):
    line = dial()
    server.refuse_connections()
    server.refuse_connections()
    with pytest.raises(ConnectionRefusedError):
        dial()
    assert line.say("NOPE") == b"-ERR unknown command NOPE"
    server.accept_connections()
    server.accept_connections()
    dial()


def test_a_shutdown_answers_the_next_command_without_executing_it(server, dial):
    line = dial()
    server.begin_shutdown()
    assert line.push("job-0001") == b"-ERR shutdown in progress"
    assert line.at_end()
    assert server.queues == {}
    with pytest.raises(ConnectionRefusedError):
        dial()
    server.accept_connections()
    assert dial().push("job-0001") == b"+OK"


def test_beyond_the_limit_of_connections_the_handshake_ends_with_an_error(server, dial):
    first = dial()
    server.limit_connections(1)
    second = dial()
    assert second.reply() == b"-ERR too many connections: 2"
    assert second.at_end()
    assert first.say("NOPE") == b"-ERR unknown command NOPE"
    server.accept_connections()
    assert dial().say("NOPE") == b"-ERR unknown command NOPE"


def test_connections_can_be_cut(server, dial):
    mine, other, producer = dial(wid="mine"), dial(wid="other"), dial()
    server.disconnect("mine")
    assert mine.at_end()
    assert other.say('BEAT {"wid":"other"}') == b"+OK"
    server.disconnect()
    assert other.at_end()
    assert producer.at_end()


def test_workers_are_told_to_be_quiet_and_to_terminate(server, dial):
    line = dial(wid="w")
    server.quiet("w")
    assert line.say('BEAT {"wid":"w"}') == b'{"state":"quiet"}'
    server.terminate("w")
    assert line.say('BEAT {"wid":"w"}') == b'{"state":"terminate"}'
    with pytest.raises(KeyError):
        server.quiet("nobody")


# Views.


def test_what_the_server_holds_can_be_looked_at(server, dial):
    line = dial(wid="w", hostname="h", pid=7, labels=["a"])
    line.push("job-0001", "other")
    line.push("job-0002", at=LATER)
    for number, retry in ((3, 1), (4, -1), (5, 1)):
        line.push(f"job-000{number}", retry=retry)
        line.say("FETCH default")
    for number in (3, 4):
        line.say(f'FAIL {{"jid":"job-000{number}","errtype":"E"}}')
    line.say('BEAT {"wid":"w","rss_kb":123}')
    assert [job["jid"] for job in server.queues["other"]] == ["job-0001"]
    assert server.queues["default"] == []
    assert [job["at"] for job in server.scheduled] == [LATER]
    assert [job["failure"]["errtype"] for job in server.retries] == ["E"]
    assert [job["jid"] for job in server.dead] == ["job-0004"]
    [entry] = server.working
    assert (entry["job"]["jid"], entry["wid"]) == ("job-0005", "w")
    assert entry["reserved_at"] < entry["expires_at"]
    assert server.workers == [
        {
            "wid": "w",
            "hostname": "h",
            "pid": 7,
            "labels": ["a"],
            "rss_kb": 123,
            "state": "running",
            "connections": 1,
        }
    ]
    assert (server.processed, server.failures) == (2, 2)


def test_what_clients_said_can_be_looked_at_and_forgotten(server, dial):
    line = dial()
    line.say("NOPE é x")
    line.say(b"\xff")
    assert server.commands == [("HELLO", '{"v": 2}'), ("NOPE", "é x"), ("\ufffd", "")]
    server.clear_commands()
    assert server.commands == []


# Many at once.


def test_two_hundred_connections_at_work_lose_no_job_and_run_none_twice(server, dial):
    lines = [dial(wid=f"w{number % 20}") for number in range(200)]

    def work(number):
        line, seen = lines[number], []
        for turn in range(5):
            jid = f"job-{number:04}-{turn}"
            line.send(f'PUSH {{"jid":"{jid}","jobtype":"T","args":[]}}', "FETCH default")
            assert line.reply() == b"+OK"
            fetched = json.loads(line.reply())["jid"]
            assert line.say(f'ACK {{"jid":"{fetched}"}}') == b"+OK"
            seen.append(fetched)
        return seen

    with ThreadPoolExecutor(200) as pool:
        seen = [jid for jids in pool.map(work, range(200)) for jid in jids]
    assert sorted(seen) == sorted(
        f"job-{number:04}-{turn}" for number in range(200) for turn in range(5)
    )
    assert (server.processed, server.working, server.queues) == (1000, [], {"default": []})
    assert len(server.workers) == 20


# Enterprise.


def test_without_being_asked_it_is_no_enterprise_server(dial):
    line = dial()
    assert line.say("BATCH NEW {}").startswith(b"-ERR batch subsystem is only available")
    assert json.loads(line.say("INFO"))["server"]["description"] == "Faktory"


def test_a_worker_that_waits_gets_the_callback_and_time_does_to_batches_what_it_should(dial):
    with EmbeddedServer(enterprise=True) as server:
        line, worker = dial(to=server), dial(to=server, wid="w")
        callback = '{"jobtype":"Done","args":[],"queue":"callbacks"}'
        bid, forgotten = (
            line.say(f'BATCH NEW {{"success":{callback}}}').decode() for _ in range(2)
        )
        assert line.push("job-0001", custom={"bid": bid}) == b"+OK"
        assert line.say(f"BATCH COMMIT {bid}") == b"+OK"
        assert json.loads(line.say("FETCH default"))["jid"] == "job-0001"
        worker.send("FETCH callbacks")
        assert line.say('ACK {"jid":"job-0001"}') == b"+OK"
        assert json.loads(worker.reply())["custom"] == {"_bid": bid, "_cb": "success"}
        server.travel(1800)
        assert line.say(f"BATCH STATUS {forgotten}") == f"-ERR No such batch {forgotten}".encode()
        assert json.loads(line.say(f"BATCH STATUS {bid}"))["success_st"] == "1"
        server.travel(30 * 86400)
        assert line.say(f"BATCH STATUS {bid}") == f"-ERR No such batch {bid}".encode()


def test_a_lock_ends_when_its_time_has_passed(dial):
    with EmbeddedServer(enterprise=True) as server:
        line = dial(to=server)
        assert line.push("job-0001", custom={"unique_for": 60}) == b"+OK"
        assert line.push("job-0002", custom={"unique_for": 60}) == b"-NOTUNIQUE Job not unique"
        server.travel(60)
        assert line.push("job-0003", custom={"unique_for": 60}) == b"+OK"


def test_a_lock_ends_also_by_itself(dial, wait_until):
    with EmbeddedServer(enterprise=True) as server:
        line = dial(to=server)
        assert line.push("job-0001", custom={"unique_for": 0.01}) == b"+OK"
        wait_until(lambda: line.push("job-0002", custom={"unique_for": 60}) == b"+OK")


def test_a_server_that_is_reset_is_as_new(server: EmbeddedServer) -> None:
    with Client(server.url) as client:
        for at in (None, "2100-01-01T00:00:00Z"):
            client.push({"jobtype": "A", "args": [], "at": at})
        server.travel(86_400)
        client.fail(client.fetch("default")["jid"])  # type: ignore[index]
        client.push({"jobtype": "A", "args": []})
        client.pause_queues("default")
        server.drop_before("PUSH", times=3)
        server.refuse_connections()

        server.reset()
        assert (server.queues, server.scheduled, server.retries) == ({}, [], [])
        assert server.commands == []
        before = datetime.now(UTC)
        client.push({"jobtype": "A", "args": []})
        job = client.fetch("default")
        assert job is not None
        assert abs(datetime.fromisoformat(job["enqueued_at"]) - before) < timedelta(minutes=1)
        with Client(server.url) as another:
            assert another.info()["faktory"]["queues"] == {"default": 0}
