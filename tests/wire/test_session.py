from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faktory.exceptions import (
    FaktoryAuthenticationError,
    FaktoryEnterpriseRequired,
    FaktoryHandshakeError,
    FaktoryJSONError,
    FaktoryNotUnique,
    FaktoryProtocolError,
    FaktoryServerError,
)
from faktory.proto import NEED_DATA, load_json
from faktory.wire import commands
from faktory.wire.session import (
    Answer,
    ClientSession,
    CommandReader,
    encode_bulk,
    encode_error,
    encode_hi,
    encode_simple,
    password_hash,
)

JOB = {"jid": "12345678", "jobtype": "Resize", "args": ["é"], "retry": 25}


def hello(hi: object, password: str | None = None, username: str = "") -> dict[str, object]:
    """Return the fields of the HELLO that answers a greeting."""
    line = ClientSession().hello(hi, {"hostname": "h", "pid": 5}, username, password)
    assert line.startswith(b"HELLO {")  # with one space: the server looks for exactly this
    assert line.endswith(b"}\r\n")
    return load_json(line[len(b"HELLO ") : -2])


# The first two by hand: the standard's own example, and the digest of a digest that is known from
# Bitcoin. The others were recorded from a Faktory server 1.10.0.
@pytest.mark.parametrize(
    ("password", "salt", "iterations", "digest"),
    [
        ("a", "bc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("hel", "lo", 2, "9595c9df90075148eb06860365df33584b75bff782a510c6cd4883a419833d50"),
        (
            *("s3cret: /@é", "375827f3d969285e", 7558),
            "a5a3650069a0862718f8da66ea37a460972b6e96a8b5d13e182266ae29d9a005",
        ),
        (
            *("s3cret: /@éx", "12dac52583dd22c0", 5245),
            "54413164a261ef6ac75437ebf3c3836af188fc610d746cf891d90d672b6c770d",
        ),
    ],
)
def test_the_passwords_hash_is_the_servers(password, salt, iterations, digest):
    assert password_hash(password, salt, iterations) == digest


def test_without_a_salt_hello_carries_the_identity_and_no_password():
    assert hello('HI {"v":2}', password="secret") == {"hostname": "h", "pid": 5, "v": 2}


def test_with_a_salt_hello_carries_the_passwords_hash():
    fields = hello('HI {"v":2,"i":1,"s":"bc"}', password="a")
    assert fields["pwdhash"] == password_hash("a", "bc", 1)
    assert "a" not in fields.values()


def test_one_round_is_hashed_by_default():
    assert hello('HI {"v":2,"s":"bc"}', password="a")["pwdhash"] == password_hash("a", "bc", 1)


def test_an_empty_password_is_a_password():
    assert hello('HI {"v":2,"i":1,"s":"bc"}', password="")["pwdhash"] == password_hash("", "bc", 1)


def test_a_username_is_sent():
    assert hello('HI {"v":2}', username="me")["username"] == "me"
    assert "username" not in hello('HI {"v":2}')


def test_the_identity_cannot_change_the_version():
    line = ClientSession().hello('HI {"v":2}', {"v": 1, "wid": "w"}, "", None)
    assert line == b'HELLO {"v":2,"wid":"w"}\r\n'


def test_a_greeting_that_asks_for_a_password_when_there_is_none_is_an_authentication_error():
    with pytest.raises(FaktoryAuthenticationError, match=r"tcp://:password@host:port"):
        hello('HI {"v":2,"i":5041,"s":"31656225b5c56de"}')


@pytest.mark.parametrize(
    ("hi", "complaint"),
    [
        (None, "expected the greeting HI from a Faktory server, got None"),
        (b'HI {"v":2}', "expected the greeting HI"),
        ("", "expected the greeting HI"),
        ("HI", "expected the greeting HI"),
        ('hi {"v":2}', "expected the greeting HI"),
        ('HELLO {"v":2}', "expected the greeting HI"),
        (5, "expected the greeting HI"),
        (FaktoryServerError("ERR max number of clients"), "got ERR max number of clients"),
        ("HI there", "is broken: invalid JSON"),
        ('HI {"v":2', "is broken: invalid JSON"),
        ("HI []", "speaks version None of the protocol, this client speaks version 2"),
        ("HI {}", "speaks version None"),
        ('HI {"v":3}', "speaks version 3"),
        ('HI {"v":1}', "speaks version 1"),
        ('HI {"v":"2"}', "speaks version '2'"),
        (f'HI {{"v":{10**4000}}}', "speaks version 1000"),
        ('HI {"v":["%s"]}' % ("x" * 100_000), "speaks version ['xxx"),
        ('HI {"v":null}', "speaks version None"),
        ("HI " + "[" * 100_000, "is broken: invalid JSON"),
        ('HI {"v":2,"s":"\\ud800","i":1}', "has no valid 's' and 'i'"),
        (f'HI {{"v":2,"s":"x","i":{10**4000}}}', "asks for 1000"),
        ('HI {"v":2,"s":["x"],"i":1}', "has no valid 's' and 'i'"),
        ('HI {"v":2,"s":"x","i":1.0}', "has no valid 's' and 'i'"),
        ('HI {"v":2,"s":5,"i":1}', "has no valid 's' and 'i'"),
        ('HI {"v":2,"s":"x","i":0}', "has no valid 's' and 'i'"),
        ('HI {"v":2,"s":"x","i":-1}', "has no valid 's' and 'i'"),
        ('HI {"v":2,"s":"x","i":true}', "has no valid 's' and 'i'"),
        ('HI {"v":2,"s":"x","i":"5"}', "has no valid 's' and 'i'"),
        ('HI {"v":2,"s":"x","i":1.5}', "has no valid 's' and 'i'"),
        ('HI {"v":2,"s":"x","i":null}', "has no valid 's' and 'i'"),
        ('HI {"v":2,"s":"x","i":1000001}', "1000001 rounds of hashing; more than 1000000"),
        ("x" * 10_000, "..."),
    ],
)
def test_a_greeting_that_is_not_faktorys_is_refused(hi, complaint):
    with pytest.raises(FaktoryHandshakeError) as caught:
        hello(hi, password="secret")
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 400


def test_ok_is_a_welcome():
    ClientSession().welcome("OK")


def test_the_error_for_a_wrong_password_has_the_likely_reason():
    with pytest.raises(FaktoryAuthenticationError, match=r"refused the password.*percent-encoded"):
        ClientSession().welcome(FaktoryServerError("ERR Invalid password"))


@pytest.mark.parametrize(
    "reply", [None, "", "ok", b"OK", 1, FaktoryServerError("ERR too many connections")]
)
def test_anything_but_ok_after_hello_is_refused(reply):
    with pytest.raises(FaktoryHandshakeError, match=r"HELLO"):
        ClientSession().welcome(reply)


def take(session: ClientSession, said: list[Answer], expected: int) -> list[Answer]:
    """Add the answers that are there to `said`, up to the expected number."""
    while len(said) < expected and (answer := session.next_answer()) is not NEED_DATA:
        assert isinstance(answer, Answer)
        said.append(answer)
    return said


def bulk(text: str) -> bytes:
    return f"${len(text.encode())}\r\n{text}\r\n".encode()


CONVERSATION = [
    (commands.push(JOB), b"+OK\r\n", None),
    (commands.fetch(["a"]), bulk('{"jid":"12345678","x":"é\\n"} '), None),
    (commands.fetch(["a"]), b"$-1\r\n", None),
    (commands.push_bulk([]), bulk('{"a":"💥"}'), None),
    (commands.beat("w", None, None), b"+OK\r\n", None),
    (commands.beat("w", None, None), bulk('{"state":"quiet"}'), "quiet"),
    (commands.beat("w", None, None), b'+{"state":"terminate"}\r\n', "terminate"),
    (commands.ack("12345678"), b"-ERR no\r\n", FaktoryServerError),
    (commands.push(JOB), b"-NOTUNIQUE Job not unique\r\n", FaktoryNotUnique),
    (commands.info(), bulk("{}}"), FaktoryJSONError),
    (commands.info(), bulk("{}"), None),
]


def check(said: list[Answer]) -> None:
    assert [answer.command for answer in said] == [step[0] for step in CONVERSATION]
    for answer, (_, _, outcome) in zip(said, CONVERSATION, strict=True):
        if isinstance(outcome, type):
            assert type(answer.error) is outcome
            assert answer.value is None
        else:
            assert answer.error is None
            if outcome is not None:
                assert answer.value == outcome
    assert said[1].value == {"jid": "12345678", "x": "é\n"}
    assert said[2].value is None
    assert said[3].value == {"a": "💥"}
    assert said[-1].value == {}


def begun() -> tuple[ClientSession, bytes]:
    session = ClientSession()
    sent = session.send([step[0] for step in CONVERSATION])
    assert sent == b"".join(step[0].data for step in CONVERSATION)
    return session, b"".join(step[1] for step in CONVERSATION)


def test_answers_come_in_the_order_of_the_commands():
    session, stream = begun()
    session.parser.feed(stream)
    check(take(session, [], len(CONVERSATION)))


def test_answers_may_come_byte_by_byte():
    session, stream = begun()
    said = []
    for byte in stream:
        session.parser.feed(bytes([byte]))
        take(session, said, len(CONVERSATION))
    check(said)


@given(st.lists(st.integers(0, sum(len(step[1]) for step in CONVERSATION)), max_size=6))
def test_answers_may_be_split_anywhere(cuts):
    session, stream = begun()
    said = []
    edges = [0, *sorted(cuts), len(stream)]
    for start, end in pairwise(edges):
        session.parser.feed(stream[start:end])
        take(session, said, len(CONVERSATION))
    check(said)


def test_data_behind_the_last_answer_stays_in_the_parser():
    session = ClientSession()
    session.send([commands.info()])
    session.parser.feed(b"$2\r\n{}\r\n+STRAY\r\n")
    assert session.next_answer().value == {}
    assert session.parser.next() == "STRAY"


def test_an_answer_that_makes_no_sense_ends_the_connection():
    session = ClientSession()
    session.send([commands.push(JOB), commands.ack("12345678")])
    session.parser.feed(b"$-1\r\n+OK\r\n")
    with pytest.raises(FaktoryProtocolError, match="where OK belongs"):
        session.next_answer()


def test_bytes_that_are_not_a_reply_end_the_connection():
    session = ClientSession()
    session.send([commands.push(JOB)])
    session.parser.feed(b"HTTP/1.1 400 Bad Request\r\n")
    for _ in range(2):
        with pytest.raises(FaktoryProtocolError):
            session.next_answer()


def test_a_single_commands_bytes_are_not_copied():
    command = commands.push(JOB)
    assert ClientSession().send([command]) is command.data


class Server:
    """A server of three commands, made from the server's end of the session alone."""

    def __init__(self, secret: tuple[str, str, int] | None) -> None:
        self.reader = CommandReader(1000)
        self.secret = secret
        self.queue: list[bytes] = []

    def greeting(self) -> bytes:
        return encode_hi(*self.secret[1:]) if self.secret else encode_hi()

    def say(self, line: bytes) -> bytes:
        verb, _, rest = line.partition(b" ")
        if verb == b"HELLO":
            wanted = password_hash(*self.secret) if self.secret else None
            right = load_json(rest).get("pwdhash") == wanted
            return encode_simple("OK") if right else encode_error("Invalid password")
        if verb == b"PUSH":
            self.queue.append(rest)
            return encode_simple("OK")
        if verb == b"FETCH":
            return encode_bulk(self.queue.pop(0) if self.queue else None)
        if verb == b"TRACK":
            return encode_error("tracking subsystem is only available in Faktory Enterprise")
        return encode_error("Job not\nunique", "NOTUNIQUE")


def talk(server: Server, session: ClientSession, data: bytes, size: int) -> None:
    """Carry bytes from one end to the other and back, a few at a time."""
    for start in range(0, len(data), size):
        server.reader.feed(data[start : start + size])
        while (line := server.reader.next()) is not None:
            reply = server.say(line)
            for begin in range(0, len(reply), size):
                session.parser.feed(reply[begin : begin + size])


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("secret", [None, ("pässword", "salt", 3)])
def test_a_client_and_a_server_talk_without_a_connection_between_them(size, secret):
    session, server = ClientSession(), Server(secret)
    session.parser.feed(server.greeting())
    password = secret[0] if secret else None
    talk(server, session, session.hello(session.parser.next(), {"pid": 1}, "", password), size)
    session.welcome(session.parser.next())

    sent = (
        commands.push(JOB),
        commands.fetch(["default"]),
        commands.fetch(["default"]),
        commands.ack("12345678"),
        commands.Command("TRACK", b"TRACK GET x\n", lambda reply: reply, idempotent=True),
    )
    talk(server, session, session.send(sent), size)
    pushed, fetched, nothing, refused, lacking = take(session, [], len(sent))

    assert pushed.error is fetched.error is nothing.error is None
    assert fetched.value == JOB
    assert nothing.value is None
    assert type(refused.error) is FaktoryNotUnique
    assert refused.error.message == "Job not unique"
    assert type(lacking.error) is FaktoryEnterpriseRequired


def test_a_client_with_the_wrong_password_is_refused():
    session, server = ClientSession(), Server(("right", "salt", 3))
    session.parser.feed(server.greeting())
    talk(server, session, session.hello(session.parser.next(), {}, "", "wrong"), 100)
    with pytest.raises(FaktoryAuthenticationError):
        session.welcome(session.parser.next())


def lines(reader: CommandReader) -> list[bytes]:
    return list(iter(reader.next, None))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_line_ends_with_lf_or_crlf(size):
    reader, got = CommandReader(100), []
    stream = b'INFO\r\nACK {}\n\n\r\nPUSH {"a":"\r"}\r\nEND'
    for start in range(0, len(stream), size):
        reader.feed(stream[start : start + size])
        got += lines(reader)
    assert got == [b"INFO", b"ACK {}", b"", b"", b'PUSH {"a":"\r"}']
    reader.feed(b"\n")
    assert lines(reader) == [b"END"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_may_be_as_long_as_the_limit(end):
    reader = CommandReader(8)
    reader.feed(b"12345678" + end)
    assert lines(reader) == [b"12345678"]
    reader.feed(b"123456789" + end)
    with pytest.raises(FaktoryProtocolError, match="longer than 8 bytes"):
        reader.next()


def test_a_line_that_is_too_long_is_refused_before_its_end_arrives():
    reader = CommandReader(8)
    reader.feed(b"12345678")
    assert reader.next() is None
    reader.feed(b"\r")  # may be the end
    assert reader.next() is None
    reader.feed(b"9")
    with pytest.raises(FaktoryProtocolError):
        reader.next()


def test_the_encoding_of_replies():
    assert encode_hi() == b'+HI {"v":2}\r\n'
    assert encode_hi("abc", 5000) == b'+HI {"v":2,"i":5000,"s":"abc"}\r\n'
    assert encode_simple("OK") == b"+OK\r\n"
    assert encode_error("no\r\nnot that") == b"-ERR no  not that\r\n"
    assert encode_error("Job not unique", "NOTUNIQUE") == b"-NOTUNIQUE Job not unique\r\n"
    assert encode_error("echo \udcff") == b"-ERR echo \xff\r\n"
    assert encode_bulk(None) == b"$-1\r\n"
    assert encode_bulk(b"") == b"$0\r\n\r\n"
    assert encode_bulk("é".encode()) == b"$2\r\n\xc3\xa9\r\n"
