"""How sockets are opened and given up: addresses, keepalive, slow peers, resets."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from faktory.client import Client
from faktory.client.transport import SocketTransport
from faktory.exceptions import (
    FaktoryBulkError,
    FaktoryConnectionError,
    FaktoryConnectionResetError,
    FaktoryOutcomeUnknown,
    FaktoryTimeout,
)
from faktory.wire import commands
from faktory.wire.address import parse
from faktory.wire.commands import Command
from faktory.wire.recovery import ConnectionBroken

from .conftest import OK, SHORT, Scripted, connect_impatient, job, payload

PUSH = commands.push(job(1))
FETCH = commands.fetch(["default"])
HI = b'+HI {"v":2}\r\n'


def connect(url: str, timeout: float = 20.0, keepalive: float = 15.0) -> SocketTransport:
    return SocketTransport(parse(url), {"pid": 1}, timeout, None, keepalive)


def broken(transport: SocketTransport, *sent: Command[object]) -> ConnectionBroken:
    with pytest.raises(ConnectionBroken) as caught:
        transport.exchange(sent)
    return caught.value


@contextmanager
def silent_host(monkeypatch: pytest.MonkeyPatch, silent: int, port: int = 0) -> Iterator[int]:
    """Have every host resolve to so many addresses that never answer, then to a port, if given."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # its backlog is full then, and the system drops any other
            full = stack.enter_context(socket.socket())
            full.setblocking(False)
            full.connect_ex(listener.getsockname())
        time.sleep(0.1)
        addresses = [listener.getsockname()] * silent + [("127.0.0.1", port)] * bool(port)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        yield listener.getsockname()[1]


# Opening


@pytest.mark.skipif(sys.platform != "linux", reason="reads the options of Linux")
def test_the_system_notices_a_peer_that_is_gone(scripted: Scripted) -> None:
    transport = connect(scripted([":greet", ":silence"]).url, keepalive=6)
    sock = transport._socket
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    options = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
    found = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, option)) for option in options]
    assert found == [6, 2, 3, 12_000]
    transport.abort()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the options of Linux")
def test_a_connection_with_a_fetch_waits_longer_for_its_peer(scripted: Scripted) -> None:
    server = scripted([":greet", "FETCH", b"$-1\r\n", "FETCH", b"$-1\r\n", ":silence"])
    with Client(server.url, tcp_keepalive=6) as client:
        for _ in range(2):
            client.fetch("default")
            sock = client._connection._transport._socket  # type: ignore[union-attr]
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 24_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads the options of Linux")
def test_the_keepalive_is_a_setting(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKTORY_TCP_KEEPALIVE", "30")
    server = scripted([":greet", ":silence"], [":greet", ":silence"])
    for options, seconds in (({}, 30), ({"tcp_keepalive": 0.5}, 1)):
        with Client(server.url, **options) as client:
            sock = client._connection._transport._socket  # type: ignore[union-attr]
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == seconds


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "32768"])
def test_a_keepalive_that_the_system_does_not_accept_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("FAKTORY_TCP_KEEPALIVE", value)
    with pytest.raises(ValueError, match=rf"FAKTORY_TCP_KEEPALIVE is '{value}': it must be"):
        Client("tcp://localhost")
    if value != "soon":
        with pytest.raises(ValueError, match="tcp_keepalive is"):
            Client("tcp://localhost", tcp_keepalive=float(value))


def test_the_programs_default_timeout_is_not_ours(scripted: Scripted) -> None:
    server = scripted([":greet", "INFO", lambda: time.sleep(0.3), {"faktory": {}}, ":silence"])
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.1)
    try:
        with Client(server.url) as client:
            assert client.info() == {"faktory": {}}
    finally:
        socket.setdefaulttimeout(before)


@pytest.mark.skipif(sys.platform == "win32", reason="a full backlog refuses there")
def test_all_addresses_of_a_host_share_one_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_host(monkeypatch, 6):
        began = time.monotonic()
        with pytest.raises(FaktoryTimeout, match=r"no connection to host:7419 within 0\.5 s"):
            connect("tcp://host", SHORT)
        assert time.monotonic() - began < 6 * SHORT


@pytest.mark.skipif(sys.platform == "win32", reason="a full backlog refuses there")
def test_an_address_that_answers_is_reached_behind_those_that_do_not(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted([":greet", ":silence"])
    with silent_host(monkeypatch, 3, server.port):
        connect("tcp://host", 4 * SHORT).close()


def test_an_address_behind_which_another_server_is_does_not_end_the_search(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, server = scripted([b"220 smtp ready\r\n"]), scripted([":greet", ":silence"])
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
        for port in (other.port, server.port)
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    connect("tcp://host").close()


@pytest.mark.parametrize("pieces", [[HI[:5]], [HI[:5], HI[5:9]], [HI[:5], HI[5:]]])
def test_connecting_and_the_greeting_share_one_timeout(
    scripted: Scripted, pieces: list[bytes]
) -> None:
    """Each piece comes within the timeout, the rest does not."""
    stop = threading.Event()
    script = [part for piece in pieces for part in (lambda: stop.wait(0.7 * SHORT), piece)]
    server = scripted([*script[1:], lambda: stop.wait(20)])
    began = time.monotonic()
    with pytest.raises(FaktoryTimeout):
        connect(server.url, SHORT)
    assert time.monotonic() - began < 6 * SHORT
    stop.set()


# Giving up


def test_a_connection_that_is_given_up_is_reset(scripted: Scripted) -> None:
    transport = connect_impatient(parse(scripted([":greet", ":reset?"]).url), {"pid": 1}, 20.0)
    broken(transport, PUSH)


def test_a_connection_that_never_greets_is_reset(scripted: Scripted) -> None:
    with pytest.raises(FaktoryTimeout):
        connect(scripted([HI, ":reset?"]).url, SHORT)


def test_an_interrupted_command_resets_the_connection(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    transport = connect(scripted([":greet", ":reset?"]).url)
    monkeypatch.setattr(transport, "_receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        transport.exchange([PUSH])


def test_a_reset_connection_and_a_closed_one_have_different_causes(
    scripted: Scripted,
) -> None:
    for end, kind in (([":reset"], ConnectionResetError), ([], type(None))):
        error = broken(connect(scripted([":greet", "FETCH", *end]).url), FETCH)
        assert type(error.cause) is FaktoryConnectionResetError
        assert type(error.cause.__cause__) is kind


def test_closing_in_the_ordinary_way_does_not_reset(scripted: Scripted) -> None:
    server = scripted([":greet", "FETCH", b"$-1\r\n", "END\r\n", lambda: None])
    transport = connect(server.url)
    transport.exchange([FETCH])
    transport.close()
    assert server.ended[0].wait(20)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_forked_child_does_not_reset_its_parents_connection(
    scripted: Scripted, in_child: Callable[[Callable[[], object]], object]
) -> None:
    transport = connect(scripted([":greet", "PUSH", OK, "END\r\n", lambda: None]).url)
    in_child(lambda: transport.abort())
    option = transport._socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
    assert struct.unpack("ii", option) == (0, 0)
    transport.exchange([PUSH])
    transport.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_process_that_is_killed_in_a_fetch_resets_its_connection(scripted: Scripted) -> None:
    server = scripted([":greet", "FETCH", lambda: worker.kill(), ":reset?"])
    code = f"import faktory; faktory.Client({server.url!r}).fetch('default')"
    with subprocess.Popen([sys.executable, "-c", code]) as worker:
        assert server.ended[0].wait(20)


# Waiting


def test_a_fetch_has_no_limit_of_its_own(scripted: Scripted) -> None:
    script = ["FETCH", lambda: time.sleep(3 * SHORT), {"jid": "1"}]
    server = scripted([":greet", *script, ":silence"])
    transport = connect_impatient(parse(server.url), {"pid": 1}, 20.0)
    (fetched,) = transport.exchange([FETCH])
    assert fetched.value == {"jid": "1"}
    transport.close()


def test_a_fetch_can_be_interrupted(scripted: Scripted) -> None:
    fetching = threading.Event()
    server = scripted([":greet", "FETCH", fetching.set, ":reset?"])
    client = Client(server.url)
    thread = threading.Thread(target=lambda: fetching.wait(20) and client.interrupt())
    thread.start()
    with pytest.raises(FaktoryOutcomeUnknown, match=r"FETCH was sent .* was given up"):
        client.fetch("default")
    thread.join()


def test_an_interrupted_command_is_not_sent_again(scripted: Scripted) -> None:
    asking = threading.Event()
    server = scripted([":greet", "INFO", asking.set, ":reset?"], [":greet", "INFO", {}, ":silence"])
    client = Client(server.url)
    thread = threading.Thread(target=lambda: asking.wait(20) and client.interrupt())
    thread.start()
    with pytest.raises(FaktoryTimeout, match="was given up"):
        client.info()
    thread.join()
    assert client.info() == {}
    client.close()


def test_an_answer_that_flows_is_not_late(scripted: Scripted) -> None:
    answer = b"$14\r\n" + b'{"faktory":{}}' + b"\r\n"
    pieces = [part for byte in answer for part in (bytes([byte]), lambda: time.sleep(SHORT / 10))]
    server = scripted([":greet", "INFO", *pieces, ":silence"])
    transport = connect_impatient(parse(server.url), {"pid": 1}, 20.0)
    (answered,) = transport.exchange([commands.info()])
    assert answered.value == {"faktory": {}}
    transport.close()


def test_an_answer_that_stops_is_late(scripted: Scripted) -> None:
    server = scripted([":greet", "INFO", b"$14\r\n{", ":reset?"])
    transport = connect_impatient(parse(server.url), {"pid": 1}, 20.0)
    error = broken(transport, commands.info())
    assert "or no more of it, within 0.5 s" in str(error.cause)


class SlowServer:
    """Reads a line at a fixed rate, from a small buffer, and answers it `delay` seconds later."""

    def __init__(self, rate: int, delay: float) -> None:
        self._rate, self._delay = rate, delay
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.received = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._listener:
            peer, _ = self._listener.accept()
        with peer:
            peer.sendall(HI)
            while not peer.recv(4096).endswith(b"\n"):
                pass
            peer.sendall(OK)
            while data := peer.recv(self._rate // 50):
                self.received += len(data)
                if data.endswith(b"\n"):
                    time.sleep(self._delay)
                    peer.sendall(b"$2\r\n{}\r\n")
                    return
                time.sleep(1 / 50)

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what is acknowledged")
@pytest.mark.parametrize("tls", [False, True], ids=["blocking", "non-blocking"])
def test_sending_on_a_slow_line_is_limited_by_progress(tls: bool) -> None:
    """It takes far longer than the timeout, of which the answer takes nearly one by itself."""
    server = SlowServer(rate=500_000, delay=0.7 * SHORT)
    transport = connect(server.url)
    transport._timeout = SHORT
    if tls:  # as far as sending goes
        transport._chunk = 65536
        transport._socket.settimeout(0)
        transport._timed.kernel_waits = False
    jobs = [{**job(number), "args": ["x" * 1000]} for number in range(600)]
    command = commands.push_bulk(jobs)
    command.min_timeout = 0.0
    began = time.monotonic()
    (answer,) = transport.exchange([command])
    assert answer.value == {}
    assert server.received == len(command.data)
    assert time.monotonic() - began > 2 * SHORT
    transport.close()
    server.join()


PAUSED = textwrap.dedent(
    """
    import sys
    import faktory
    client = faktory.Client(sys.argv[1], timeout=1)
    client.connect()
    print("ready", flush=True)
    print(client.push({"jid": "12345678", "jobtype": "Resize", "args": []}), flush=True)
    """
)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGSTOP")
def test_a_process_that_was_stopped_reads_the_answer_that_lies_there(scripted: Scripted) -> None:
    def pause() -> None:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)

    def go_on() -> None:
        time.sleep(1.5)  # more than its timeout
        process.send_signal(signal.SIGCONT)

    server = scripted([":greet", "PUSH", pause, OK, go_on, ":silence"])
    arguments = [sys.executable, "-c", PAUSED, server.url]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=30)
    assert output == "ready\n12345678\n"


# A push that is sent again


@pytest.mark.parametrize("second", ["refused", "closed", "silent", "too many", "twice"])
@pytest.mark.parametrize("bulk", [False, True], ids=["push", "push_bulk"])
def test_a_push_that_was_sent_stays_unknown_if_there_is_no_new_connection(
    scripted: Scripted, second: str, bulk: bool
) -> None:
    first = [":greet", "PUSH"]
    scripts: dict[str, list[object]] = {
        "closed": [],
        "silent": [":silence"],
        "too many": [b"-ERR too many connections, maximum is 2000\r\n"],
        "twice": [":greet", "PUSH"],
    }
    server = scripted(first, *([scripts[second]] if second != "refused" else []))
    client = Client(server.url, timeout=SHORT, at_least_once=True)
    client.connect()
    if bulk:
        with pytest.raises(FaktoryBulkError) as caught:
            client.push_bulk([job(1), job(2)])
        assert list(caught.value.unknown) == ["job-0001", "job-0002"]
        assert not caught.value.unsent
    else:
        with pytest.raises(FaktoryOutcomeUnknown) as unknown:
            client.push(job(1))
        assert unknown.value.jids == ["job-0001"]


# Certificates


CA = """
[ca]
default_ca = own
[own]
database = index.txt
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = IP:127.0.0.1
"""


def make_certificate(folder: Path, first: str, last: str) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 with this validity, and its key."""
    (folder / "ca.cnf").write_text(CA)
    (folder / "serial").write_text("01")
    (folder / "index.txt").touch()
    new = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=f -keyout k -out r"
    sign = f"ca -batch -selfsign -config ca.cnf -keyfile k -in r -out c -startdate {first}"
    for command in (new, f"{sign} -enddate {last}"):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder / "c", folder / "k"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ("20200102030405Z", "20210203040506Z", "it expired on 2021-02-03 at 04:05 UTC. The server"),
        ("20200102030405Z", "19990203040506Z", "it expired on 1999-02-03 at 04:05 UTC. The server"),
        ("20900102030405Z", "20910203040506Z", "it is not valid before 2090-01-02 at 03:04 UTC."),
    ],
)
def test_a_certificate_out_of_its_time_is_named_with_that_time(
    scripted: Scripted, tmp_path: Path, first: str, last: str, said: str
) -> None:
    files = make_certificate(tmp_path, first, last)
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(*files)
    client_tls = ssl.create_default_context(cafile=str(files[0]))
    url = scripted([], [], context=server_tls).url
    with pytest.raises(FaktoryConnectionError) as caught:
        SocketTransport(parse(url), {"pid": 1}, 20.0, client_tls)
    assert said in str(caught.value)
    assert str(caught.value).endswith("Is this machine's clock right?")
    assert "cafile" not in str(caught.value)


def test_a_fetch_over_tls_has_no_limit_and_can_be_interrupted(
    scripted: Scripted, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    fetching = threading.Event()
    script = ["FETCH", lambda: time.sleep(3 * SHORT), {"jid": "1"}, "FETCH", fetching.set]
    server = scripted([":greet", *script, ":silence"], context=server_tls)
    client = Client(server.url, ssl_context=client_tls, timeout=20)
    client.connect()
    client._connection._transport._timeout = SHORT  # type: ignore[union-attr]
    assert client.fetch("default") == {"jid": "1"}
    thread = threading.Thread(target=lambda: fetching.wait(20) and client.interrupt())
    thread.start()
    with pytest.raises(FaktoryOutcomeUnknown, match="was given up"):
        client.fetch("default")
    thread.join()


def test_a_large_command_over_tls_arrives_whole(
    scripted: Scripted, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    server = scripted([":greet", "PUSHB", {}, ":silence"], context=server_tls)
    with Client(server.url, ssl_context=client_tls) as client:
        jobs = [{**job(number), "args": ["x" * 1000]} for number in range(1000)]
        assert client.push_bulk(jobs) == {}
    assert server.ended[0].wait(20)
    assert [each["args"] for each in payload(server.lines[0][1])] == [each["args"] for each in jobs]


def give_up(client: Client) -> None:
    """Connect, and be interrupted in it by another thread, before the timeout of 20 s."""
    timer = threading.Timer(0.2, client.interrupt)
    timer.start()
    began = time.monotonic()
    with pytest.raises(FaktoryTimeout, match=r"^connecting to 127\.0\.0\.1:\d+ was given up$"):
        client.connect()
    assert time.monotonic() - began < 15
    timer.join()


@pytest.mark.parametrize("said", [[], [b"+HI {"], [HI, "HELLO"]])
def test_a_handshake_can_be_interrupted(scripted: Scripted, said: list[object]) -> None:
    server = scripted([*said, ":silence"], [":greet", "INFO", {}, ":silence"])
    with_timeout = Client(server.url, timeout=20)
    give_up(with_timeout)
    assert with_timeout.info() == {}  # the next one is not
    with_timeout.close()


def test_a_handshake_of_tls_can_be_interrupted(client_tls: ssl.SSLContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tcp+tls://127.0.0.1:{listener.getsockname()[1]}"
        give_up(Client(url, timeout=20, ssl_context=client_tls))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing wakes a thread from that")
@pytest.mark.parametrize("silent", [1, 3])
def test_connecting_can_be_interrupted(monkeypatch: pytest.MonkeyPatch, silent: int) -> None:
    with silent_host(monkeypatch, silent):
        give_up(Client("tcp://127.0.0.1:1", timeout=20))


def test_a_client_that_is_interrupted_before_it_connects_does_not(scripted: Scripted) -> None:
    server = scripted([":greet", "INFO", {}, ":silence"])
    client = Client(server.url)
    client.interrupt()
    with pytest.raises(FaktoryTimeout, match="was given up"):
        client.connect()
    assert client.info() == {}
    client.close()
