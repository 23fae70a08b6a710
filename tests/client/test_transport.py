from __future__ import annotations

import errno
import select
import signal
import socket
import ssl
import sys
import threading
import time

import pytest

from faktory.client import transport
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

OK = b"+OK\r\n"
PUSH = commands.push({"jid": "12345678", "jobtype": "Resize", "args": []})
ACK = commands.ack("12345678")
INFO = commands.info()
FETCH = commands.fetch(["default"])
IMPATIENT = 0.5
"""Seconds to wait for what does not come."""
LATE = transport.KERNEL_WAIT * 3
"""Seconds between two pieces of an answer, so that the wait for the second is Python's."""


def connect(url: str, timeout: float = 5.0, context=None, **identity):
    return transport.connect(parse(url), {"pid": 1, **identity}, timeout, context)


def with_password(url: str, password: str) -> str:
    return url.replace("://", f"://:{password}@")


def test_the_handshake_says_who_we_are(scripted):
    server = scripted([":greet", ":silence"])
    connect(server.url, wid="w1", labels=["python"]).close()
    assert server.ended[0].wait(5)
    assert server.lines[0] == [
        b'HELLO {"pid":1,"wid":"w1","labels":["python"],"v":2}\r\n',
        b"END\r\n",
    ]


def test_the_password_is_proved_and_not_sent(scripted):
    server = scripted([b'+HI {"v":2,"i":1,"s":"bc"}\r\n', "HELLO {", OK, ":silence"])
    connect(with_password(server.url, "a")).abandon()
    assert b'"pwdhash":"ba7816bf8f01cfea' in server.lines[0][0]


def test_the_greeting_may_come_in_pieces(scripted):
    pieces = [bytes([byte]) for byte in b'+HI {"v":2}\r\n']
    connect(scripted([*pieces, "HELLO", b"+", b"OK\r", b"\n"]).url).abandon()


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
def test_a_handshake_that_fails_is_one_clear_error(scripted, script, kind, complaint):
    server = scripted(script)
    url = with_password(server.url, "s3cret") if "rounds" in complaint else server.url
    with pytest.raises(FaktoryConnectionError) as refusal:
        connect(url)
    assert type(refusal.value) is kind
    assert complaint in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("heard", [[], [b'+HI {"v":2}\r\n', "HELLO"], [b"+HI {"]])
def test_a_server_that_falls_silent_is_given_up(scripted, heard):
    server = scripted([*heard, ":silence"])
    with pytest.raises(FaktoryTimeout, match=r"the handshake with .* failed: no answer") as late:
        connect(server.url, IMPATIENT)
    assert ("tcp+tls://" in str(late.value)) is (heard[1:] == [])


def test_a_server_that_drips_is_given_up_too(scripted):
    server = scripted([b"+", ":drip"])
    with pytest.raises(FaktoryTimeout):
        connect(server.url, IMPATIENT)


def test_nobody_listens(closed_port):
    with pytest.raises(FaktoryConnectionError, match=r"nothing listens on 127.0.0.1:\d+ ") as none:
        connect(f"tcp://127.0.0.1:{closed_port}")
    assert "python -m faktory server" in str(none.value)


def test_localhost_is_tried_on_ipv6_and_ipv4(scripted):
    server = scripted([":greet"])
    connect(f"tcp://localhost:{server.port}").abandon()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64, "a..b"])
def test_a_host_that_nobody_knows(monkeypatch, host):
    def unknown(name, *_):
        name.encode("idna")
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(FaktoryConnectionError, match=r"is not known .* spelt right"):
        connect(f"tcp://{host}")


def test_a_connection_that_takes_too_long_to_open_is_a_timeout(monkeypatch):
    def never(*_):
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", never)
    with pytest.raises(FaktoryTimeout, match=r"no connection to example.com:1 within 0.5 s"):
        connect("tcp://example.com:1", IMPATIENT)


def test_an_identity_that_cannot_be_sent_closes_the_connection(scripted):
    server = scripted([b'+HI {"v":2}\r\n', ":silence"])
    with pytest.raises(FaktoryPayloadError):
        connect(server.url, labels={1, 2})
    assert server.lines == [[]]


def test_small_commands_go_out_at_once_and_dead_peers_are_noticed(scripted, monkeypatch):
    made = []
    create = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda *args: made.append(create(*args)) or made[-1]
    )
    line = connect(scripted([":greet", ":silence"]).url)
    assert made[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert made[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    line.abandon()


def test_commands_go_out_in_one_piece_and_each_is_answered(scripted):
    server = scripted(
        [":greet", "ACK", "PUSH", "INFO", OK, b"-ERR no\r\n", {"faktory": {}}, ":silence"]
    )
    line = connect(server.url)
    acked, pushed, told = line.exchange([ACK, PUSH, INFO])
    assert (acked.command, acked.value, acked.error) == (ACK, None, None)
    assert type(pushed.error) is FaktoryServerError
    assert told.value == {"faktory": {}}
    line.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is done")
def test_an_ok_that_comes_ahead_of_the_other_answer_wakes_nobody(scripted, monkeypatch):
    monkeypatch.setattr(transport, "KERNEL_WAIT", 0.9)
    woken, early = threading.Event(), []
    script = ["ACK", "FETCH", OK, lambda: early.append(woken.wait(0.05)), {"jid": "1"}]
    line = connect(scripted([":greet", *script, ":silence"]).url)
    read = line._read

    def noted(room, more_than):
        received = read(room, more_than)
        woken.set()
        return received

    monkeypatch.setattr(line, "_read", noted)
    acked, fetched = line.exchange([ACK, FETCH])
    assert (acked.error, fetched.value) == (None, {"jid": "1"})
    assert early == [False]
    line.abandon()


@pytest.mark.parametrize("can", [True, False])
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
def test_two_answers_arrive_however_late_their_pieces_are(scripted, monkeypatch, pieces, can):
    if not can:
        monkeypatch.setattr(transport, "_can_wait_for_more", lambda _: False)
    late = threading.Event()
    script = [part for piece in pieces for part in (lambda: late.wait(LATE), piece)]
    line = connect(scripted([":greet", *["ACK", "FETCH", *script] * 2, ":silence"]).url)
    for _ in range(2):
        acked, fetched = line.exchange([ACK, FETCH])
        assert (acked.error is None) == (pieces[0][:1] == b"+")
        assert (fetched.value, fetched.error) == (None, None)
    line.abandon()


def test_a_system_that_cannot_wait_for_more_does_not_matter(scripted, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    monkeypatch.setattr(transport, "_wake_at", refused)
    line = connect(scripted([":greet", "ACK", "FETCH", OK, {"jid": "1"}, ":silence"]).url)
    assert line.exchange([ACK, FETCH])[1].value == {"jid": "1"}
    line.abandon()


def test_close_says_goodbye_and_abandon_does_not(scripted):
    server = scripted([":greet", ":silence"], [":greet", ":silence"])
    connect(server.url).close()
    connect(server.url).abandon()
    for ended in server.ended:
        assert ended.wait(5)
    assert [server.verbs(0), server.verbs(1)] == [["HELLO", "END"], ["HELLO"]]


def test_close_does_not_mind_a_line_that_is_dead_already(scripted):
    server = scripted([":greet", ":reset"])
    line = connect(server.url)
    assert server.ended[0].wait(5)
    line.close()
    line.close()


def broken(line, *sent: Command) -> ConnectionBroken:
    with pytest.raises(ConnectionBroken) as error:
        line.exchange(sent)
    return error.value


@pytest.mark.parametrize("has_poll", [True, False])
def test_a_line_that_was_closed_meanwhile_is_noticed_before_anything_is_sent(
    scripted, monkeypatch, has_poll
):
    if not has_poll:  # as on Windows
        monkeypatch.delattr(select, "poll")
    server = scripted([":greet", "ACK", OK])
    line = connect(server.url)
    line.exchange([ACK])
    assert server.ended[0].wait(5)
    error = broken(line, PUSH)
    assert error.sent == 0
    assert type(error.cause) is FaktoryConnectionResetError


def test_a_blind_command_goes_out_unlooked_and_breaks_a_line_that_was_closed_meanwhile(scripted):
    server = scripted([":greet", "ACK", OK])
    line = connect(server.url)
    line.exchange([ACK])
    assert server.ended[0].wait(5)
    blind = commands.fetch(["default"], skip_check=True)
    error = broken(line, ACK, blind)
    assert error.sent == len(ACK.data) + len(blind.data)
    assert type(error.cause) is FaktoryConnectionResetError


def test_a_goodbye_that_a_blind_command_meets_means_that_nothing_was_run(scripted):
    said = threading.Event()
    script = ["ACK", OK, b"-ERR shutdown in progress\r\n", said.set, ":silence"]
    line = connect(scripted([":greet", *script]).url)
    line.exchange([ACK])
    assert said.wait(5)
    error = broken(line, ACK, commands.fetch(["default"], skip_check=True))
    assert (error.answers, error.sent) == ([], 0)


def test_a_line_that_was_reset_meanwhile_is_noticed_before_anything_is_sent(scripted):
    server = scripted([":greet", ":reset"])
    line = connect(server.url)
    assert server.ended[0].wait(5)
    error = broken(line, PUSH)
    assert error.sent == 0
    assert type(error.cause) is FaktoryConnectionResetError


@pytest.mark.parametrize("end", [[], [":reset"]])
def test_a_line_that_breaks_after_a_command_was_sent_says_so(scripted, end):
    error = broken(connect(scripted([":greet", "PUSH", *end]).url), PUSH)
    assert error.sent == len(PUSH.data)
    assert error.answers == []
    assert type(error.cause) is FaktoryConnectionResetError


def test_an_answer_that_is_cut_short_is_none(scripted):
    error = broken(connect(scripted([":greet", "INFO", b"$100\r\n{"]).url), INFO)
    assert error.sent == len(INFO.data)
    assert error.answers == []


def test_what_was_answered_before_the_line_broke_is_kept(scripted):
    error = broken(connect(scripted([":greet", "ACK", "PUSH", OK]).url), ACK, PUSH)
    assert [answer.command for answer in error.answers] == [ACK]
    assert error.sent == len(PUSH.data)


def test_no_answer_in_time_breaks_the_line(scripted):
    line = connect(scripted([":greet", "PUSH", ":silence"]).url, IMPATIENT)
    error = broken(line, PUSH)
    assert type(error.cause) is FaktoryTimeout
    assert "within 0.5 s; the connection is dropped" in str(error.cause)
    assert error.sent == len(PUSH.data)


def test_a_commands_floor_is_waited_for_though_the_timeout_is_shorter(scripted, monkeypatch):
    line = connect(scripted([":greet", "SLOW", OK, "ACK", OK, ":silence"]).url, 1.5)
    wait, waited = line._receive, []
    monkeypatch.setattr(
        line, "_receive", lambda timeout, *rest: waited.append(timeout) or wait(timeout, *rest)
    )
    slow = Command("SLOW", b"SLOW\r\n", lambda reply: reply, idempotent=False, min_timeout=5.0)
    line.exchange([slow])
    line.exchange([ACK])
    assert waited == [5.0, 1.5]
    line.abandon()


def test_a_peer_that_does_not_read_is_given_up_with_the_command_not_sent(scripted):
    stop = threading.Event()
    server = scripted([":greet", lambda: stop.wait(5)])
    large = Command("LARGE", b"x" * 50_000_000 + b"\r\n", lambda reply: reply, idempotent=False)
    error = broken(connect(server.url, IMPATIENT), large)
    stop.set()
    assert type(error.cause) is FaktoryTimeout
    assert "nothing could be sent" in str(error.cause)
    assert 0 < error.sent < len(large.data)


def test_a_peer_that_goes_away_while_it_is_sent_to_did_not_get_the_command(scripted):
    server = scripted([":greet", ":reset"])
    large = Command("LARGE", b"x" * 50_000_000 + b"\r\n", lambda reply: reply, idempotent=False)
    error = broken(connect(server.url), large)
    assert type(error.cause) is FaktoryConnectionResetError
    assert error.sent < len(large.data)


@pytest.fixture
def alarm():
    """`alarm(handler, seconds, interval)`: call it so, until the test is over."""
    before = signal.getsignal(signal.SIGALRM)

    def alarm(handler, seconds, interval=0.0):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds, interval)

    yield alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Mine(TimeoutError):
    """What a signal handler raises."""


def raise_mine(*_):
    raise Mine("my own alarm")


@pytest.mark.parametrize("seconds", [0.001, 0.1], ids=["in the kernel", "in Python"])
def test_what_a_signal_handler_raises_while_waiting_comes_out_as_it_is(scripted, alarm, seconds):
    stop = threading.Event()

    def ring():  # now that the client waits for its answer
        signal.setitimer(signal.ITIMER_REAL, seconds)
        stop.wait(5)

    server = scripted([":greet", "INFO", ring])
    line = connect(server.url)
    alarm(raise_mine, 0)
    with pytest.raises(Mine):
        line.exchange([commands.info()])
    stop.set()
    assert line._socket.fileno() == -1


@pytest.mark.parametrize(
    "error",
    [
        Mine("my own alarm"),
        ConnectionResetError(errno.ECONNRESET, "of the handler's own connection"),
        FaktoryTimeout("of the handler's own client"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_signal_handler_raises_behind_a_send_is_no_sign_that_nothing_was_sent(
    scripted, error
):
    class Interrupted:
        """A socket whose send succeeds, and is then broken into."""

        def __init__(self, sock):
            self._sock = sock

        def send(self, data):
            self._sock.send(data)
            raise error

        def __getattr__(self, name):
            return getattr(self._sock, name)

    server = scripted([":greet", "PUSH", b"+OK\r\n"])
    line = connect(server.url)
    line._socket = Interrupted(line._socket)
    with pytest.raises(
        type(error)
    ) as caught:  # and no ConnectionBroken, after which it may go again
        line.exchange([PUSH])
    assert caught.value is error


@pytest.mark.parametrize("seconds", [0.1, 0.03, 0.01])
def test_signals_that_keep_coming_do_not_put_off_the_end_of_waiting(scripted, alarm, seconds):
    stop = threading.Event()
    server = scripted([":greet", "INFO", lambda: stop.wait(5)])
    line = connect(server.url, 0.5)
    alarm(lambda *_: None, seconds, seconds)
    began = time.monotonic()
    assert type(broken(line, commands.info()).cause) is FaktoryTimeout
    stop.set()
    assert time.monotonic() - began < 4


def test_a_goodbye_for_an_answer_means_that_nothing_was_run(scripted):
    server = scripted([":greet", "PUSH", b"-ERR shutdown in progress\r\n"])
    error = broken(connect(server.url), PUSH)
    assert error.sent == 0
    assert type(error.cause) is FaktoryConnectionResetError
    assert "closes the connection: ERR shutdown in progress" in str(error.cause)


def test_a_goodbye_behind_an_answer_leaves_that_answer(scripted):
    server = scripted([":greet", "ACK", "PUSH", OK, b"-ERR shutdown in progress\r\n"])
    error = broken(connect(server.url), ACK, PUSH)
    assert [answer.command for answer in error.answers] == [ACK]
    assert error.sent == 0


@pytest.mark.parametrize("in_the_same_piece", [True, False])
def test_a_goodbye_that_comes_unasked_is_read_before_anything_is_sent(scripted, in_the_same_piece):
    goodbye = b"-ERR too many connections: 2001\r\n"
    if in_the_same_piece:
        script = [b'+HI {"v":2}\r\n', "HELLO", OK + goodbye]
    else:
        script = [":greet", goodbye]
    server = scripted(script)
    line = connect(server.url)
    assert server.ended[0].wait(5)
    error = broken(line, PUSH)
    assert error.sent == 0
    assert "too many connections: 2001" in str(error.cause)


@pytest.mark.parametrize("stray", [b"+OK\r\n", b"-ERR what\r\n", b"$-1\r\n", b":1\r\n", b"+O"])
def test_what_is_said_unasked_never_answers_the_next_command(scripted, stray):
    answered, said = threading.Event(), threading.Event()
    script = [":greet", "ACK", OK, lambda: answered.wait(5), stray, said.set, ":silence"]
    server = scripted(script)
    line = connect(server.url)
    line.exchange([ACK])
    answered.set()
    assert said.wait(5)
    error = broken(line, PUSH)
    assert error.sent == 0
    assert type(error.cause) is FaktoryProtocolError
    assert server.ended[0].wait(5)
    assert server.verbs(0) == ["HELLO", "ACK"]


def test_nor_does_it_behind_the_answers_to_two_commands(scripted):
    answered, said = threading.Event(), threading.Event()
    script = ["ACK", "FETCH", OK, {"jid": "1"}, lambda: answered.wait(5), b"+O", said.set]
    server = scripted([":greet", *script, ":silence"])
    line = connect(server.url)
    line.exchange([ACK, FETCH])
    answered.set()
    assert said.wait(5)
    assert broken(line, ACK, FETCH).sent == 0


def test_nor_does_what_came_along_with_the_answer_before(scripted):
    server = scripted([":greet", "ACK", OK + OK, ":silence"])
    line = connect(server.url)
    line.exchange([ACK])
    assert broken(line, PUSH).sent == 0
    assert server.ended[0].wait(5)
    assert server.verbs(0) == ["HELLO", "ACK"]


@pytest.mark.parametrize("reply", [b"$-1\r\n", b"+QUEUED\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_an_answer_that_makes_no_sense_breaks_the_line(scripted, reply):
    error = broken(connect(scripted([":greet", "PUSH", reply, ":silence"]).url), PUSH)
    assert type(error.cause) is FaktoryProtocolError
    assert error.sent == len(PUSH.data)


def test_an_interrupt_between_send_and_answer_closes_the_line(scripted, monkeypatch):
    server = scripted([":greet", "PUSH", ":silence"])
    line = connect(server.url)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(line, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        line.exchange([PUSH])
    assert server.ended[0].wait(5)


def test_a_large_answer_arrives_whole(scripted):
    big = {"x": "é" * 2_000_000}
    line = connect(scripted([":greet", "INFO", big, "INFO", {}, ":silence"]).url)
    assert line.exchange([INFO])[0].value == big
    assert line.exchange([INFO])[0].value == {}
    line.abandon()


def test_tls_with_a_certificate_that_is_trusted(scripted, server_tls, client_tls):
    server = scripted([":greet", "PUSH", OK, "INFO", {"a": 1}, ":silence"], context=server_tls)
    line = connect(server.url, context=client_tls)
    assert line.exchange([PUSH])[0].error is None
    assert line.exchange([INFO])[0].value == {"a": 1}
    line.close()
    assert server.ended[0].wait(5)
    assert server.verbs(0) == ["HELLO", "PUSH", "INFO", "END"]


def test_a_tls_line_that_was_closed_meanwhile_is_noticed(scripted, server_tls, client_tls):
    server = scripted([":greet"], context=server_tls)
    line = connect(server.url, context=client_tls)
    assert server.ended[0].wait(5)
    assert broken(line, PUSH).sent == 0


def test_a_certificate_that_nobody_vouches_for_is_told_with_the_remedy(scripted, server_tls):
    server = scripted([":greet"], context=server_tls)
    with pytest.raises(FaktoryConnectionError, match=r"cannot be trusted: self.signed") as refusal:
        connect(server.url)
    assert "ssl.create_default_context(cafile=...)" in str(refusal.value)


def test_a_certificate_for_another_host_is_not_trusted(scripted, server_tls, client_tls):
    server = scripted([":greet"], context=server_tls)
    url = server.url.replace("127.0.0.1", "localhost")
    with pytest.raises(FaktoryConnectionError, match=r"trusted: .*localhost'\. ") as refusal:
        connect(url, context=client_tls)
    assert "must name the host as the certificate does" in str(refusal.value)
    assert "cafile" not in str(refusal.value)


def test_tls_to_a_plain_server_names_the_likely_reason(scripted):
    server = scripted([b'+HI {"v":2}\r\n', ":silence"])
    with pytest.raises(FaktoryHandshakeError, match=r"no TLS with .* begins with tcp:// instead"):
        connect(server.url.replace("tcp", "tcp+tls"))


def test_tls_to_a_silent_server_is_given_up(scripted):
    server = scripted([":silence"])
    with pytest.raises(FaktoryTimeout):
        connect(server.url.replace("tcp", "tcp+tls"), IMPATIENT)


def test_plain_to_a_tls_server_names_the_likely_reason(scripted, server_tls):
    server = scripted([":greet"], context=server_tls)
    with pytest.raises(FaktoryConnectionError, match=r"Does the server use TLS\?"):
        connect(server.url.replace("tcp+tls", "tcp"), IMPATIENT)


def test_a_context_of_the_callers_own_decides_what_is_checked(scripted, server_tls):
    server = scripted([":greet", ":silence"], context=server_tls)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connect(server.url, context=context).abandon()


@pytest.mark.parametrize("off", ["0", "false", "FALSE", ""])
def test_a_variable_that_says_no_leaves_verification_on(scripted, server_tls, monkeypatch, off):
    monkeypatch.setenv("FAKTORY_DISABLE_HOSTNAME_VERIFICATION", off)
    with pytest.raises(FaktoryConnectionError, match="cannot be trusted"):
        connect(scripted([":greet"], context=server_tls).url)


def test_verification_can_be_switched_off_as_in_ruby_and_says_so_loudly(
    scripted, server_tls, monkeypatch, caplog
):
    monkeypatch.setenv("FAKTORY_DISABLE_HOSTNAME_VERIFICATION", "1")
    line = connect(scripted([":greet", "ACK", OK, ":silence"], context=server_tls).url)
    assert line.exchange([ACK])[0].error is None
    line.abandon()
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "whoever answers at 127.0.0.1:" in warning
    assert "is trusted" in warning
