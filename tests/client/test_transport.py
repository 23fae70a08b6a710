from __future__ import annotations

import errno
import os
import select
import signal
import socket
import ssl
import sys
import threading
import time

import pytest

from faktory._exchange_py import Exchange
from faktory.client import sockets
from faktory.client.transport import SocketTransport
from faktory.client.waiting import KERNEL_WAIT
from faktory.exceptions import (
    FaktoryAuthenticationError,
    FaktoryConnectionError,
    FaktoryConnectionResetError,
    FaktoryHandshakeError,
    FaktoryPayloadError,
    FaktoryProtocolError,
    FaktoryServerError,
    FaktoryTimeout,
)
from faktory.wire import commands
from faktory.wire.address import parse
from faktory.wire.commands import Command
from faktory.wire.recovery import ConnectionBroken

from .conftest import OK, SHORT, connect_impatient

PUSH = commands.push({"jid": "12345678", "jobtype": "Resize", "args": []})
ACK = commands.ack("12345678")
INFO = commands.info()
FETCH = commands.fetch(["default"])
PAUSE = KERNEL_WAIT * 3
"""Seconds between two pieces of an answer, so that the wait for the second is Python's."""


def connect(url: str, timeout: float = 20.0, context=None, **identity):
    return SocketTransport(parse(url), {"pid": 1, **identity}, timeout, context)


def with_password(url: str, password: str) -> str:
    return url.replace("://", f"://:{password}@")


def test_hello_carries_the_identity(scripted):
    server = scripted([":greet", ":silence"])
    connect(server.url, wid="w1", labels=["python"]).close()
    assert server.ended[0].wait(20)
    assert server.lines[0] == [
        b'HELLO {"pid":1,"wid":"w1","labels":["python"],"v":2}\r\n',
        b"END\r\n",
    ]


def test_the_password_is_hashed_and_not_sent(scripted):
    server = scripted([b'+HI {"v":2,"i":1,"s":"bc"}\r\n', "HELLO {", OK, ":silence"])
    connect(with_password(server.url, "a")).abort()
    assert b'"pwdhash":"ba7816bf8f01cfea' in server.lines[0][0]


def test_the_greeting_may_come_in_pieces(scripted):
    pieces = [bytes([byte]) for byte in b'+HI {"v":2}\r\n']
    connect(scripted([*pieces, "HELLO", b"+", b"OK\r", b"\n"]).url).abort()


@pytest.mark.parametrize(
    ("script", "kind", "complaint"),
    [
        ([b"+HELLO\r\n"], FaktoryHandshakeError, "expected the greeting HI"),
        ([b'+HI {"v":9}\r\n'], FaktoryHandshakeError, "speaks version 9"),
        ([b"+HI {\r\n"], FaktoryHandshakeError, "is broken"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], FaktoryHandshakeError, "does not speak Faktory's"),
        ([b"\x15\x03\x01\x00\x02\x02\x16"], FaktoryHandshakeError, "Then use tcp+tls://"),
        ([b"-ERR too many\r\n"], FaktoryHandshakeError, "got ERR too many"),
        ([], FaktoryConnectionResetError, "closed the connection. Does the server use TLS?"),
        ([b'+HI {"v":2}\r'], FaktoryConnectionResetError, "closed the connection"),
        ([":reset"], FaktoryConnectionResetError, "reset by peer"),
        ([b'+HI {"v":2}\r\n', "HELLO"], FaktoryConnectionResetError, "closed the connection."),
        ([b'+HI {"v":2}\r\n', "HELLO", b"+NO\r\n"], FaktoryHandshakeError, "expected OK"),
        ([b'+HI {"v":2}\r\n', "HELLO", b"junk"], FaktoryHandshakeError, "begins with +"),
        (
            [b'+HI {"v":2}\r\n', "HELLO", b"-ERR Invalid password\r\n"],
            *(FaktoryAuthenticationError, "refused the password"),
        ),
        (
            [b'+HI {"v":2,"i":1,"s":"ab"}\r\n'],
            *(FaktoryAuthenticationError, "requires a password and none is configured"),
        ),
        (
            [b'+HI {"v":2,"i":999999999,"s":"ab"}\r\n'],
            *(FaktoryHandshakeError, "rounds of hashing"),
        ),
    ],
)
def test_a_failed_handshake_is_one_clear_error(scripted, script, kind, complaint):
    server = scripted(script)
    url = with_password(server.url, "s3cret") if "rounds" in complaint else server.url
    with pytest.raises(FaktoryConnectionError) as caught:
        connect(url)
    assert type(caught.value) is kind
    assert complaint in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("said", [b"", b"+HI {", b'+HI {"v":2}\r\n'])
def test_a_server_that_falls_silent_times_out(scripted, monkeypatch, said):
    sent = threading.Event()
    create = sockets.connect

    def create_once_sent(*args):
        sock = create(*args)
        assert sent.wait(20)  # so that what is said is there within the timeout
        return sock

    monkeypatch.setattr(sockets, "connect", create_once_sent)
    server = scripted([said, sent.set, ":silence"])
    with pytest.raises(FaktoryTimeout, match=r"the handshake with .* failed: no answer") as late:
        connect(server.url, SHORT)
    assert ("tcp+tls://" in str(late.value)) is (b"\n" not in said)


def test_a_server_that_trickles_bytes_times_out(scripted):
    server = scripted([b"+", ":trickle"])
    with pytest.raises(FaktoryTimeout):
        connect(server.url, SHORT)


def test_a_port_on_which_nobody_listens(closed_port):
    with pytest.raises(FaktoryConnectionError, match=r"nothing listens on 127.0.0.1:\d+ ") as none:
        connect(f"tcp://127.0.0.1:{closed_port}")
    assert "faktory-worker server" in str(none.value)


def test_localhost_is_tried_on_ipv6_and_ipv4(scripted):
    server = scripted([":greet"])
    connect(f"tcp://localhost:{server.port}").abort()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64, "a..b"])
def test_an_unknown_host(monkeypatch, host):
    def unknown(name, *_):
        name.decode().encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(FaktoryConnectionError, match=r"is not known .* spelt right"):
        connect(f"tcp://{host}")


def test_an_identity_that_cannot_be_sent_closes_the_connection(scripted):
    server = scripted([b'+HI {"v":2}\r\n', ":silence"])
    with pytest.raises(FaktoryPayloadError):
        connect(server.url, labels={1, 2})
    assert server.lines == [[]]


@pytest.mark.skipif(sys.platform != "linux", reason="another system, other limits")
def test_no_two_connections_have_the_same_descriptor_one_after_the_other(scripted):
    numbers = []
    for _ in range(3):
        transport = connect(scripted([":greet", ":silence"]).url)
        numbers.append(transport._socket.fileno())
        assert not os.get_inheritable(numbers[-1])
        transport.abort()
    assert len(set(numbers)) == 3
    assert all(512 <= number < 1024 for number in numbers)


def test_commands_are_sent_in_one_piece_and_each_is_answered(scripted):
    server = scripted(
        [":greet", "ACK", "PUSH", "INFO", OK, b"-ERR no\r\n", {"faktory": {}}, ":silence"]
    )
    transport = connect(server.url)
    acked, pushed, info = transport.exchange([ACK, PUSH, INFO])
    assert (acked.command, acked.value, acked.error) == (ACK, None, None)
    assert type(pushed.error) is FaktoryServerError
    assert info.value == {"faktory": {}}
    transport.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux waits for more than a byte")
def test_an_ok_ahead_of_the_other_answer_does_not_wake_the_reader(scripted, monkeypatch):
    woken, early = threading.Event(), []
    script = ["ACK", "FETCH", OK, lambda: early.append(woken.wait(0.5)), {"jid": "1"}]
    url = scripted([":greet", *script, ":silence"]).url
    transport = SocketTransport(parse(url), {"pid": 1}, 20.0, kernel_wait=20.0)
    receive = transport._timed.receive

    def noted(*args):
        received = receive(*args)
        woken.set()
        return received

    monkeypatch.setattr(transport._timed, "receive", noted)
    acked, fetched = transport.exchange([ACK, FETCH])
    assert (acked.error, fetched.value) == (None, {"jid": "1"})
    assert early == [False]
    transport.abort()


@pytest.mark.parametrize("waits_for_more", [True, False])
@pytest.mark.parametrize(
    "pieces",
    [
        [OK, b"$-1\r\n"],
        [OK + b"$-1\r", b"\n"],
        [b"+O", b"K\r\n$-1", b"\r\n"],
        [b"-ERR no\r\n", b"$", b"-1\r\n"],
        [OK, b"$4\r\nnull", b"\r\n"],
    ],
)
def test_two_answers_arrive_however_late_their_pieces_are(scripted, pieces, waits_for_more):
    script = [part for piece in pieces for part in (lambda: time.sleep(PAUSE), piece)]
    transport = connect(scripted([":greet", *["ACK", "FETCH", *script] * 2, ":silence"]).url)
    if not waits_for_more:
        transport._timed._waits_for_more = False
    for _ in range(2):
        acked, fetched = transport.exchange([ACK, FETCH])
        assert (acked.error is None) == (pieces[0][:1] == b"+")
        assert (fetched.value, fetched.error) == (None, None)
    transport.abort()


def test_close_sends_end_and_abort_does_not(scripted):
    server = scripted([":greet", ":silence"], [":greet", ":silence"])
    connect(server.url).close()
    connect(server.url).abort()
    for ended in server.ended:
        assert ended.wait(20)
    assert [server.verbs(0), server.verbs(1)] == [["HELLO", "END"], ["HELLO"]]


def test_a_dead_connection_can_be_closed_twice(scripted):
    server = scripted([":greet", ":reset"])
    transport = connect(server.url)
    assert server.ended[0].wait(20)
    transport.close()
    transport.close()


def broken(transport, *sent: Command) -> ConnectionBroken:
    with pytest.raises(ConnectionBroken) as error:
        transport.exchange(sent)
    return error.value


@pytest.mark.parametrize("has_poll", [True, False])
def test_a_connection_that_was_closed_meanwhile_is_noticed_before_anything_is_sent(
    scripted, monkeypatch, has_poll
):
    if not has_poll:  # as on Windows
        monkeypatch.delattr(select, "poll")
    server = scripted([":greet", "ACK", OK])
    transport = connect(server.url)
    transport.exchange([ACK])
    assert server.ended[0].wait(20)
    error = broken(transport, PUSH)
    assert error.sent == 0
    assert type(error.cause) is FaktoryConnectionResetError


def test_without_the_check_a_command_breaks_on_a_connection_that_was_closed_meanwhile(scripted):
    server = scripted([":greet", "ACK", OK])
    transport = connect(server.url)
    transport.exchange([ACK])
    assert server.ended[0].wait(20)
    unchecked = commands.fetch(["default"], skip_check=True)
    error = broken(transport, ACK, unchecked)
    assert error.sent == len(ACK.data) + len(unchecked.data)
    assert type(error.cause) is FaktoryConnectionResetError


def test_a_closing_error_for_an_unchecked_command_means_that_nothing_was_run(scripted):
    sent = threading.Event()
    script = ["ACK", OK, b"-ERR shutdown in progress\r\n", sent.set, ":silence"]
    transport = connect(scripted([":greet", *script]).url)
    transport.exchange([ACK])
    assert sent.wait(20)
    error = broken(transport, ACK, commands.fetch(["default"], skip_check=True))
    assert (error.answers, error.sent) == ([], 0)


def test_a_connection_that_was_reset_meanwhile_is_noticed_before_anything_is_sent(scripted):
    server = scripted([":greet", ":reset"])
    transport = connect(server.url)
    assert server.ended[0].wait(20)
    error = broken(transport, PUSH)
    assert error.sent == 0
    assert type(error.cause) is FaktoryConnectionResetError


@pytest.mark.parametrize("end", [[], [":reset"]])
def test_a_connection_that_breaks_after_a_command_says_how_much_was_sent(scripted, end):
    error = broken(connect(scripted([":greet", "PUSH", *end]).url), PUSH)
    assert error.sent == len(PUSH.data)
    assert error.answers == []
    assert type(error.cause) is FaktoryConnectionResetError


def test_an_answer_that_is_cut_short_is_not_an_answer(scripted):
    error = broken(connect(scripted([":greet", "INFO", b"$100\r\n{"]).url), INFO)
    assert error.sent == len(INFO.data)
    assert error.answers == []


def test_answers_from_before_the_break_are_kept(scripted):
    error = broken(connect(scripted([":greet", "ACK", "PUSH", OK]).url), ACK, PUSH)
    assert [answer.command for answer in error.answers] == [ACK]
    assert error.sent == len(PUSH.data)


def test_no_answer_in_time_breaks_the_connection(scripted):
    server = scripted([":greet", "PUSH", ":silence"])
    transport = connect_impatient(parse(server.url), {"pid": 1}, 20.0)
    error = broken(transport, PUSH)
    assert type(error.cause) is FaktoryTimeout
    assert "no answer from 127.0.0.1" in str(error.cause)
    assert "within 0.5 s; the connection is dropped" in str(error.cause)
    assert error.sent == len(PUSH.data)


def test_a_commands_own_minimum_is_waited_for_though_the_timeout_is_shorter(scripted, monkeypatch):
    transport = connect(scripted([":greet", "SLOW", OK, "ACK", OK, ":silence"]).url, 15)
    transport._at_once = None  # which waits for a moment only
    receive, waited = transport._receive, []
    monkeypatch.setattr(
        transport,
        "_receive",
        lambda *rest: waited.append(transport._timed.timeout) or receive(*rest),
    )
    slow = Command("SLOW", b"SLOW\r\n", lambda reply: reply, idempotent=False, min_timeout=20.0)
    transport.exchange([slow])
    transport.exchange([ACK])
    assert waited == [20.0, 15]
    transport.abort()


def test_a_peer_that_does_not_read_times_out_with_the_command_not_sent(scripted):
    stop = threading.Event()
    server = scripted([":greet", lambda: stop.wait(20)])
    large = Command("LARGE", b"x" * 50_000_000 + b"\r\n", lambda reply: reply, idempotent=False)
    error = broken(connect_impatient(parse(server.url), {"pid": 1}, 20.0), large)
    stop.set()
    assert type(error.cause) is FaktoryTimeout
    assert f"{error.sent} of 50000002 bytes could be sent, and nothing" in str(error.cause)
    assert 0 < error.sent < len(large.data)


def test_a_peer_that_goes_away_during_a_send_did_not_get_the_command(scripted):
    server = scripted([":greet", ":reset"])
    large = Command("LARGE", b"x" * 50_000_000 + b"\r\n", lambda reply: reply, idempotent=False)
    error = broken(connect(server.url), large)
    assert type(error.cause) is FaktoryConnectionResetError
    assert error.sent < len(large.data)


@pytest.fixture
def alarm():
    """`alarm(handler, interval)` calls a handler again and again, or at each SIGALRM of 0 s."""
    before = signal.getsignal(signal.SIGALRM)

    def alarm(handler, interval=0.0):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, interval, interval)

    yield alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Mine(TimeoutError):
    """What a signal handler raises."""


def raise_mine(*_):
    raise Mine("my own alarm")


@pytest.mark.parametrize("pause", [0.0, PAUSE], ids=["in the kernel", "in Python"])
def test_an_error_of_a_signal_handler_comes_out_of_a_wait_unchanged(scripted, alarm, pause):
    stop = threading.Event()

    def interrupt():
        time.sleep(pause)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    server = scripted([":greet", "INFO", interrupt, lambda: stop.wait(20)])
    transport = connect(server.url)
    alarm(raise_mine)
    with pytest.raises(Mine):
        transport.exchange([commands.info()])
    stop.set()
    assert transport._socket.fileno() == -1


@pytest.mark.parametrize(
    "error",
    [
        Mine("my own alarm"),
        ConnectionResetError(errno.ECONNRESET, "of the handler's own connection"),
        FaktoryTimeout("of the handler's own client"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("tries_first", [True, False])
def test_an_error_of_a_signal_handler_after_a_send_does_not_mean_that_nothing_was_sent(
    scripted, error, tries_first
):
    class Interrupted:
        """A socket whose send succeeds and is interrupted then."""

        def __init__(self, sock):
            self._sock = sock

        def send(self, data):
            self._sock.send(data)
            raise error

        def __getattr__(self, name):
            return getattr(self._sock, name)

    server = scripted([":greet", "PUSH", b"+OK\r\n"])
    transport = connect(server.url)
    interrupted = Interrupted(transport._socket)
    transport._timed._socket = interrupted
    first_try = Exchange(interrupted, transport._can_read, transport._parser).run
    transport._at_once = first_try if tries_first else None
    with pytest.raises(type(error)) as caught:  # not ConnectionBroken, which may send it again
        transport.exchange([PUSH])
    assert caught.value is error


@pytest.mark.parametrize("seconds", [0.1, 0.03, 0.01])
def test_signals_that_keep_coming_do_not_put_off_the_end_of_waiting(scripted, alarm, seconds):
    stop = threading.Event()
    server = scripted([":greet", "INFO", lambda: stop.wait(15)])  # and closes, if nobody stops it
    transport = connect_impatient(parse(server.url), {"pid": 1}, 20.0)
    alarm(lambda *_: None, seconds)
    assert type(broken(transport, commands.info()).cause) is FaktoryTimeout
    stop.set()


def test_a_closing_error_for_an_answer_means_that_nothing_was_run(scripted):
    server = scripted([":greet", "PUSH", b"-ERR shutdown in progress\r\n"])
    error = broken(connect(server.url), PUSH)
    assert error.sent == 0
    assert type(error.cause) is FaktoryConnectionResetError
    assert "closes the connection: ERR shutdown in progress" in str(error.cause)


def test_a_closing_error_behind_an_answer_leaves_that_answer(scripted):
    server = scripted([":greet", "ACK", "PUSH", OK, b"-ERR shutdown in progress\r\n"])
    error = broken(connect(server.url), ACK, PUSH)
    assert [answer.command for answer in error.answers] == [ACK]
    assert error.sent == 0


@pytest.mark.parametrize("in_the_same_piece", [True, False])
def test_an_unsolicited_closing_error_is_read_before_anything_is_sent(scripted, in_the_same_piece):
    closing = b"-ERR too many connections: 2001\r\n"
    if in_the_same_piece:
        script = [b'+HI {"v":2}\r\n', "HELLO", OK + closing]
    else:
        script = [":greet", closing]
    server = scripted(script)
    transport = connect(server.url)
    assert server.ended[0].wait(20)
    error = broken(transport, PUSH)
    assert error.sent == 0
    assert "too many connections: 2001" in str(error.cause)


@pytest.mark.parametrize("stray", [b"+OK\r\n", b"-ERR what\r\n", b"$-1\r\n", b":1\r\n", b"+O"])
def test_unsolicited_data_never_answers_the_next_command(scripted, stray):
    answered, sent = threading.Event(), threading.Event()
    script = [":greet", "ACK", OK, lambda: answered.wait(20), stray, sent.set, ":silence"]
    server = scripted(script)
    transport = connect(server.url)
    transport.exchange([ACK])
    answered.set()
    assert sent.wait(20)
    error = broken(transport, PUSH)
    assert error.sent == 0
    assert type(error.cause) is FaktoryProtocolError
    assert server.ended[0].wait(20)
    assert server.verbs(0) == ["HELLO", "ACK"]


def test_unsolicited_data_behind_two_answers_never_answers_the_next_command(scripted):
    answered, sent = threading.Event(), threading.Event()
    script = ["ACK", "FETCH", OK, {"jid": "1"}, lambda: answered.wait(20), b"+O", sent.set]
    server = scripted([":greet", *script, ":silence"])
    transport = connect(server.url)
    transport.exchange([ACK, FETCH])
    answered.set()
    assert sent.wait(20)
    assert broken(transport, ACK, FETCH).sent == 0


@pytest.mark.parametrize("stray", [OK, b"+O", b"\r"])
def test_unsolicited_data_along_with_an_answer_never_answers_the_next_command(scripted, stray):
    server = scripted([":greet", "ACK", OK + stray, ":silence"])
    transport = connect(server.url)
    transport.exchange([ACK])
    assert broken(transport, PUSH).sent == 0
    assert server.ended[0].wait(20)
    assert server.verbs(0) == ["HELLO", "ACK"]


@pytest.mark.parametrize("reply", [b"$-1\r\n", b"+QUEUED\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_an_answer_that_makes_no_sense_breaks_the_connection(scripted, reply):
    error = broken(connect(scripted([":greet", "PUSH", reply, ":silence"]).url), PUSH)
    assert type(error.cause) is FaktoryProtocolError
    assert error.sent == len(PUSH.data)


def test_an_interrupt_between_send_and_answer_closes_the_connection(scripted, monkeypatch):
    server = scripted([":greet", "PUSH", ":silence"])
    transport = connect(server.url)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(transport, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        transport.exchange([PUSH])
    assert server.ended[0].wait(20)


def test_a_large_answer_arrives_complete(scripted):
    big = {"x": "é" * 2_000_000}
    transport = connect(scripted([":greet", "INFO", big, "INFO", {}, ":silence"]).url)
    assert transport.exchange([INFO])[0].value == big
    assert transport.exchange([INFO])[0].value == {}
    transport.abort()


def test_tls_with_a_certificate_that_is_trusted(scripted, server_tls, client_tls):
    server = scripted([":greet", "PUSH", OK, "INFO", {"a": 1}, ":silence"], context=server_tls)
    transport = connect(server.url, context=client_tls)
    assert transport.exchange([PUSH])[0].error is None
    assert transport.exchange([INFO])[0].value == {"a": 1}
    transport.close()
    assert server.ended[0].wait(20)
    assert server.verbs(0) == ["HELLO", "PUSH", "INFO", "END"]


def test_a_tls_connection_that_was_closed_meanwhile_is_noticed(scripted, server_tls, client_tls):
    server = scripted([":greet"], context=server_tls)
    transport = connect(server.url, context=client_tls)
    assert server.ended[0].wait(20)
    assert broken(transport, PUSH).sent == 0


def test_the_error_for_an_untrusted_certificate_has_the_remedy(scripted, server_tls):
    server = scripted([":greet"], context=server_tls)
    with pytest.raises(FaktoryConnectionError, match=r"cannot be trusted: self.signed") as caught:
        connect(server.url)
    assert "ssl.create_default_context(cafile=...)" in str(caught.value)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)  # not itself


def test_a_certificate_for_another_host_is_not_trusted(scripted, server_tls, client_tls):
    server = scripted([":greet"], context=server_tls)
    url = server.url.replace("127.0.0.1", "localhost")
    with pytest.raises(FaktoryConnectionError, match=r"trusted: .*localhost'\. ") as caught:
        connect(url, context=client_tls)
    assert "must name the host as the certificate does" in str(caught.value)
    assert "cafile" not in str(caught.value)


def test_tls_to_a_plain_server_names_the_likely_reason(scripted):
    server = scripted([b'+HI {"v":2}\r\n', ":silence"])
    with pytest.raises(FaktoryHandshakeError, match=r"no TLS with .* begins with tcp:// instead"):
        connect(server.url.replace("tcp", "tcp+tls"))


def test_tls_to_a_silent_server_times_out(scripted):
    server = scripted([":silence"])
    with pytest.raises(FaktoryTimeout):
        connect(server.url.replace("tcp", "tcp+tls"), SHORT)


def test_plain_to_a_tls_server_names_the_likely_reason(scripted, server_tls):
    server = scripted([":greet"], context=server_tls)
    with pytest.raises(FaktoryConnectionError, match=r"Does the server use TLS\?"):
        connect(server.url.replace("tcp+tls", "tcp"), SHORT)


def test_a_callers_own_context_decides_what_is_checked(scripted, server_tls):
    server = scripted([":greet", ":silence"], context=server_tls)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connect(server.url, context=context).abort()


@pytest.mark.parametrize("off", ["0", "false", "FALSE", ""])
def test_a_variable_that_is_off_leaves_verification_on(scripted, server_tls, monkeypatch, off):
    monkeypatch.setenv("FAKTORY_DISABLE_HOSTNAME_VERIFICATION", off)
    with pytest.raises(FaktoryConnectionError, match="cannot be trusted"):
        connect(scripted([":greet"], context=server_tls).url)


def test_verification_can_be_switched_off_as_in_ruby_with_a_warning(
    scripted, server_tls, monkeypatch, caplog
):
    monkeypatch.setenv("FAKTORY_DISABLE_HOSTNAME_VERIFICATION", "1")
    transport = connect(scripted([":greet", "ACK", OK, ":silence"], context=server_tls).url)
    assert transport.exchange([ACK])[0].error is None
    transport.abort()
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "any server at 127.0.0.1:" in warning
    assert "is trusted" in warning
