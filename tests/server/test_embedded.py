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
from faktory.server import EmbeddedServer
from faktory.server.state import Timing
from faktory.wire.session import password_hash


def peers(server):
    return server._call(lambda state: list(state.peers))


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


def test_it_starts_again_on_the_same_port_with_the_jobs_it_had(server, dial):
    client, port = dial(wid="w"), server.port
    client.push("job-0001")
    client.push("job-0002")
    client.call("FETCH default")
    server.stop()
    assert client.is_closed()
    assert [job["jid"] for job in server.queues["default"]] == ["job-0002"]
    server.start()
    again = dial()
    assert server.port == port
    assert server.workers == []
    assert again.call('FAIL {"jid":"job-0001"}') == b"+OK"
    assert json.loads(again.call("FETCH default"))["jid"] == "job-0002"


def test_starting_twice_and_stopping_twice(server):
    with pytest.raises(RuntimeError, match="running already"):
        server.start()
    server.stop()
    server.stop()


def test_an_address_in_use_is_an_error_and_starts_nothing(server):
    other = EmbeddedServer(f"127.0.0.1:{server.port}")
    with pytest.raises(OSError, match="in use"):
        other.start()
    other.stop()


@pytest.mark.parametrize(
    "bind", ["localhost", "7419", "host:", "host:x", "host:65536", "host:\u0661"]
)
def test_an_invalid_address_is_rejected_with_an_example(bind):
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


def test_it_accepts_connections_when_the_system_has_file_descriptors_again(wait_until, caplog):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = EmbeddedServer(timing=Timing(accept_interval=0.01))
    with server, socket.socket() as sock:
        resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, limits[1]))
        try:
            sock.connect(("127.0.0.1", server.port))
            wait_until(lambda: "cannot accept a connection" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert sock.recv(4) == b"+HI "


def test_importing_faktory_does_not_load_the_server():
    code = "import faktory, sys; print('faktory.server' in sys.modules, 'asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_it_logs_that_it_is_for_development_and_tests(caplog):
    with caplog.at_level("INFO", "faktory.server"), EmbeddedServer(password="s3cret") as server:
        pass
    assert f"for development and tests listens on tcp://:***@127.0.0.1:{server.port}" in caplog.text


# Password and TLS.


def test_the_password_is_required_and_percent_encoded_in_the_url(dial):
    with EmbeddedServer(password="s3cret: /@é") as server:
        assert server.url == f"tcp://:s3cret%3A%20%2F%40%C3%A9@127.0.0.1:{server.port}"
        greetings = []
        for version, right in ((2, True), (1, True), (2, False)):
            client = dial(to=server, handshake=False)
            hi = json.loads(client.reply().removeprefix(b"+HI "))
            greetings.append(hi["s"])
            assert 4000 <= hi["i"] < 8096
            rounds = hi["i"] if version == 2 else 1
            proof = password_hash("s3cret: /@é" if right else "wrong", hi["s"], rounds)
            reply = client.call(f'HELLO {{"v":{version},"pwdhash":"{proof}"}}')
            assert reply == (b"+OK" if right else b"-ERR Invalid password")
        assert client.is_closed()
        assert len(set(greetings)) == 3


def test_a_conversation_over_tls(certificate):
    cert, key = map(str, certificate)
    with EmbeddedServer(tls_cert=cert, tls_key=key) as server:
        assert server.url == f"tcp+tls://127.0.0.1:{server.port}"
        context = ssl.create_default_context(cafile=cert)
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as sock,
            sock.makefile("rb") as file,
        ):
            assert file.readline() == b'+HI {"v":2}\r\n'
            sock.sendall(b'HELLO {"v":2}\r\nNOPE\r\n')
            assert [file.readline(), file.readline()] == [
                b"+OK\r\n",
                b"-ERR unknown command NOPE\r\n",
            ]


def test_stopping_does_not_wait_for_a_client_in_its_tls_handshake(certificate):
    timing = Timing(handshake_timeout=40)
    cert, key = map(str, certificate)
    server = EmbeddedServer(tls_cert=cert, tls_key=key, timing=timing)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        started = time.monotonic()
        server.stop()
        assert sock.recv(1) == b""
        assert time.monotonic() - started < 10


def test_a_client_without_tls_is_disconnected(certificate):
    with (
        EmbeddedServer(tls_cert=str(certificate[0]), tls_key=str(certificate[1])) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock,
    ):
        sock.sendall(b'HELLO {"v":2}\r\n')
        assert b"HI" not in sock.recv(1000)


def test_a_certificate_without_its_key_is_rejected():
    with pytest.raises(ValueError, match="both tls_cert and tls_key"):
        EmbeddedServer(tls_cert="cert.pem")


# Faults.


def test_a_command_is_not_executed_when_the_connection_is_dropped_before_it(server, dial):
    server.drop_before("PUSH")
    client = dial()
    with pytest.raises(EOFError):
        client.push("job-0001")
    assert server.queues == {}
    assert dial().push("job-0001") == b"+OK"


def test_a_command_is_executed_when_the_connection_is_dropped_after_it(server, dial):
    server.drop_after("PUSH", times=2)
    for number in (1, 2):
        with pytest.raises(EOFError):
            dial().push(f"job-000{number}")
    assert [job["jid"] for job in server.queues["default"]] == ["job-0001", "job-0002"]


def test_a_waiting_fetch_can_be_dropped_after_it_got_a_job(server, dial):
    server.drop_after("FETCH")
    client, pusher = dial(), dial()
    client.send("FETCH default")
    pusher.push("job-0001")
    assert client.is_closed()
    assert [entry["job"]["jid"] for entry in server.working] == ["job-0001"]


def test_replies_before_the_drop_are_sent(server, dial):
    server.drop_before("INFO")
    client = dial()
    client.send("NOPE", "INFO", "NOPE")
    assert client.reply() == b"-ERR unknown command NOPE"
    assert client.is_closed()


def test_a_command_answered_with_a_planned_error_is_not_executed(server, dial):
    client = dial()
    server.answer_error("ACK", "redis is away")
    client.push("job-0001")
    client.call("FETCH default")
    assert client.call('ACK {"jid":"job-0001"}') == b"-ERR redis is away"
    assert len(server.working) == 1
    assert client.call('ACK {"jid":"job-0001"}') == b"+OK"


def test_a_delayed_command_delays_those_behind_it_but_no_other_client(server, dial):
    server.delay("PUSH", 1)
    client, other = dial(), dial()
    started = time.monotonic()
    client.send('PUSH {"jid":"job-0001","jobtype":"T","args":[]}', "NOPE")
    assert other.call("NOPE") == b"-ERR unknown command NOPE"
    assert server.queues == {}
    assert [client.reply(), client.reply()] == [b"+OK", b"-ERR unknown command NOPE"]
    assert time.monotonic() - started >= 0.9


def test_held_commands_are_executed_in_their_order_when_released(server, dial, wait_until):
    server.hold("PUSH")
    clients = [dial(), dial()]
    for number, client in enumerate(clients):
        client.send(f'PUSH {{"jid":"job-000{number}","jobtype":"T","args":[]}}')
        wait_until(lambda n=number: len(server.commands) == 3 + n)
    assert server.queues == {}
    server.release("PUSH")
    assert [client.reply() for client in clients] == [b"+OK", b"+OK"]
    assert [job["jid"] for job in server.queues["default"]] == ["job-0000", "job-0001"]


def test_a_held_fetch_of_a_closed_connection_takes_no_job(server, dial, wait_until):
    client, other = dial(), dial()
    other.push("job-0001")
    server.hold("FETCH")
    client.send("FETCH default")
    wait_until(lambda: server.commands[-1][0] == "FETCH")
    client.close()
    wait_until(lambda: len(peers(server)) == 1)
    server.release("FETCH")
    assert len(server.queues["default"]) == 1


def test_a_held_hello_of_a_closed_connection_adds_no_worker(server, dial, wait_until):
    server.hold("HELLO")
    client = dial(handshake=False)
    client.send('HELLO {"wid":"w"}')
    wait_until(lambda: server.commands)
    client.close()
    wait_until(lambda: not peers(server))
    server.release("HELLO")
    assert server.workers == []
    assert json.loads(dial().call("INFO"))["server"]["connections"] == 1


def test_faults_can_happen_in_the_handshake(server, dial):
    server.answer_error("HELLO", "not today")
    server.drop_before("HELLO")
    client = dial(handshake=False)
    client.reply()
    assert client.call(b'HELLO {"v":2}') == b"-ERR not today"
    client.send(b'HELLO {"v":2}')
    assert client.is_closed()


def test_planned_faults_can_be_cleared(server, dial):
    server.drop_before("NOPE", times=5)
    server.clear_faults()
    assert dial().call("NOPE") == b"-ERR unknown command NOPE"


def test_connections_stay_when_the_port_is_closed_and_opened_again(server, dial):
    client = dial()
    server.refuse_connections()
    server.refuse_connections()
    with pytest.raises(ConnectionRefusedError):
        dial()
    assert client.call("NOPE") == b"-ERR unknown command NOPE"
    server.accept_connections()
    server.accept_connections()
    dial()


def test_in_a_shutdown_the_next_command_gets_an_error_and_is_not_executed(server, dial):
    client = dial()
    server.begin_shutdown()
    assert client.push("job-0001") == b"-ERR shutdown in progress"
    assert client.is_closed()
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
    assert second.is_closed()
    assert first.call("NOPE") == b"-ERR unknown command NOPE"
    server.accept_connections()
    assert dial().call("NOPE") == b"-ERR unknown command NOPE"


def test_connections_can_be_cut(server, dial):
    mine, other, producer = dial(wid="mine"), dial(wid="other"), dial()
    server.disconnect("mine")
    assert mine.is_closed()
    assert other.call('BEAT {"wid":"other"}') == b"+OK"
    server.disconnect()
    assert other.is_closed()
    assert producer.is_closed()


def test_workers_get_quiet_and_terminate_with_their_beat(server, dial):
    client = dial(wid="w")
    server.quiet("w")
    assert client.call('BEAT {"wid":"w"}') == b'{"state":"quiet"}'
    server.terminate("w")
    assert client.call('BEAT {"wid":"w"}') == b'{"state":"terminate"}'
    with pytest.raises(KeyError):
        server.quiet("nobody")


# Views.


def test_the_views_show_jobs_and_workers(server, dial):
    client = dial(wid="w", hostname="h", pid=7, labels=["a"])
    client.push("job-0001", "other")
    client.push("job-0002", at=LATER)
    for number, retry in ((3, 1), (4, -1), (5, 1)):
        client.push(f"job-000{number}", retry=retry)
        client.call("FETCH default")
    for number in (3, 4):
        client.call(f'FAIL {{"jid":"job-000{number}","errtype":"E"}}')
    client.call('BEAT {"wid":"w","rss_kb":123}')
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


def test_the_commands_of_clients_are_shown_and_can_be_cleared(server, dial):
    client = dial()
    client.call("NOPE é x")
    client.call(b"\xff")
    assert server.commands == [("HELLO", '{"v": 2}'), ("NOPE", "é x"), ("\ufffd", "")]
    server.clear_commands()
    assert server.commands == []


# Many at once.


def test_two_hundred_busy_connections_lose_no_job_and_run_none_twice(server, dial):
    clients = [dial(wid=f"w{number % 20}") for number in range(200)]

    def work(number):
        client, seen = clients[number], []
        for turn in range(5):
            jid = f"job-{number:04}-{turn}"
            client.send(f'PUSH {{"jid":"{jid}","jobtype":"T","args":[]}}', "FETCH default")
            assert client.reply() == b"+OK"
            fetched = json.loads(client.reply())["jid"]
            assert client.call(f'ACK {{"jid":"{fetched}"}}') == b"+OK"
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


def test_it_is_not_an_enterprise_server_by_default(dial):
    client = dial()
    assert client.call("BATCH NEW {}").startswith(b"-ERR batch subsystem is only available")
    assert json.loads(client.call("INFO"))["server"]["description"] == "Faktory"


def test_a_waiting_worker_gets_the_callback_and_old_batches_are_forgotten(dial):
    with EmbeddedServer(enterprise=True) as server:
        client, worker = dial(to=server), dial(to=server, wid="w")
        callback = '{"jobtype":"Done","args":[],"queue":"callbacks"}'
        bid, forgotten = (
            client.call(f'BATCH NEW {{"success":{callback}}}').decode() for _ in range(2)
        )
        assert client.push("job-0001", custom={"bid": bid}) == b"+OK"
        assert client.call(f"BATCH COMMIT {bid}") == b"+OK"
        assert json.loads(client.call("FETCH default"))["jid"] == "job-0001"
        worker.send("FETCH callbacks")
        assert client.call('ACK {"jid":"job-0001"}') == b"+OK"
        assert json.loads(worker.reply())["custom"] == {"_bid": bid, "_cb": "success"}
        server.travel(1800)
        unknown = f"-ERR No such batch {forgotten}".encode()
        assert client.call(f"BATCH STATUS {forgotten}") == unknown
        assert json.loads(client.call(f"BATCH STATUS {bid}"))["success_st"] == "1"
        server.travel(30 * 86400)
        assert client.call(f"BATCH STATUS {bid}") == f"-ERR No such batch {bid}".encode()


def test_a_lock_ends_when_the_clock_travels_beyond_its_time(dial):
    with EmbeddedServer(enterprise=True) as server:
        client = dial(to=server)
        assert client.push("job-0001", custom={"unique_for": 60}) == b"+OK"
        assert client.push("job-0002", custom={"unique_for": 60}) == b"-NOTUNIQUE Job not unique"
        server.travel(60)
        assert client.push("job-0003", custom={"unique_for": 60}) == b"+OK"


def test_a_lock_ends_when_its_time_passes_by_itself(dial, wait_until):
    with EmbeddedServer(enterprise=True) as server:
        client = dial(to=server)
        assert client.push("job-0001", custom={"unique_for": 0.01}) == b"+OK"
        wait_until(lambda: client.push("job-0002", custom={"unique_for": 60}) == b"+OK")


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
