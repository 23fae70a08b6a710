from __future__ import annotations

import pickle

import pytest

from faktory.wire.address import DEFAULT_URL, Address, find_url, parse, switched_on


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tcp://localhost:7419", Address("localhost", 7419)),
        ("tcp://example.com", Address("example.com", 7419)),
        ("tcp://example.com:", Address("example.com", 7419)),
        ("tcp://example.com:1/", Address("example.com", 1)),
        ("TCP://Example.COM:65535", Address("example.com", 65535)),
        ("tcp+tls://example.com", Address("example.com", 7419, tls=True)),
        ("tcp://[::1]:7420", Address("::1", 7420)),
        ("tcp://[fe80::1%25eth0]:7420", Address("fe80::1%eth0", 7420)),
        ("tcp+tls://:pw@[2001:db8::1]", Address("2001:db8::1", 7419, True, "", "pw")),
        ("tcp://:secret@host", Address("host", 7419, password="secret")),
        ("tcp://user@host", Address("host", 7419, username="user")),
        ("tcp://user:@host", Address("host", 7419, username="user", password="")),
        ("tcp://us%40er:p%3A%2F%40%25w@host", Address("host", 7419, False, "us@er", "p:/@%w")),
        ("tcp://:a+b%20c@host", Address("host", 7419, password="a+b c")),
        ("tcp://:%C3%A9%F0%9F%92%A5@host", Address("host", 7419, password="é💥")),
        ("tcp://:100%@host", Address("host", 7419, password="100%")),
        ("tcp://:p@ss@host", Address("host", 7419, password="p@ss")),
    ],
)
def test_an_address_is_parsed(url, address):
    assert parse(url) == address


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "'' is not a Faktory address: write tcp://host:port"),
        ("localhost:7419", "is not a Faktory address"),
        ("//localhost:7419", "is not a Faktory address"),
        ("://localhost", "is not a Faktory address"),
        ("http://localhost:7419", "begins with 'http': use tcp:// or, for TLS, tcp+tls://."),
        ("tls://localhost:7419", "begins with 'tls'"),
        ("tcp://localhost:0", "is not a number from 1 to 65535"),
        ("tcp://localhost:65536", "is not a number from 1 to 65535"),
        ("tcp://localhost:-1", "is not a number from 1 to 65535"),
        ("tcp://localhost:\uff17\uff14\uff11\uff19", "is not a number from 1 to 65535"),
        ("tcp://localhost:port", "is not a number from 1 to 65535"),
        ("tcp://localhost:7419/queue", "goes on after the port"),
        ("tcp://localhost?tls=1", "goes on after the port"),
        ("tcp://localhost#x", "goes on after the port"),
        ("tcp://", "names no host"),
        ("tcp://:7419", "names no host"),
        ("tcp://[::1", "cannot be read"),
        ("tcp://::1:7419", "has brackets around it: tcp://[::1]:7419."),
        ("tcp+tls://:pw@fe80::1:2:7419", "has brackets around it: tcp+tls://[fe80::1:2]:7419."),
        ("tcp://::1", "has brackets around it: tcp://[::1]."),
        ("tcp://2001:db8::1:2", "has brackets around it: tcp://[2001:db8::1:2]."),
        ("tcp://1:2:3:4:5:6:7:8:99", "has brackets around it: tcp://[1:2:3:4:5:6:7:8]:99."),
        ("tcp://localhost ", "holds a space or a control character"),
        ("tcp:// localhost", "holds a space or a control character"),
        ("tcp://local\thost", "holds a space or a control character"),
        ("tcp://localhost\n", "holds a space or a control character"),
        ("tcp://:pass\tword@localhost", "must be percent-encoded"),
        ("tcp://:pass\nword@localhost", "must be percent-encoded"),
        ("tcp://:%ff@localhost", "are not percent-encoded UTF-8"),
        ("tcp://\udcff:pw@localhost", "are not percent-encoded UTF-8"),
    ],
)
def test_a_bad_address_is_refused_with_the_reason(url, complaint):
    with pytest.raises(ValueError, match=r"address|port|percent-encoded") as caught:
        parse(url)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        ":s3cret@localhost:7419",
        "user:s3cret@localhost",
        "a:s3cret://more@localhost",
        "http://user:s3cret@localhost",
        "tcp://:s3cret@localhost:99999",
        "tcp://:s3cret@localhost/path",
        "tcp://:s3cret@:7419",
        "tcp://:s3c/s3cret@localhost",
        "tcp://:12/s3cret@localhost",
        "tcp://:12#s3cret@localhost",
        "tcp://:12?s3cret@localhost",
        "tcp://:x[s3cret]@localhost",
        "tcp://:s3cret[@localhost",
        "tcp://:s3cret\u2100@localhost",
        "tcp://:s3cret%ff@localhost",
        "tcp://:s3cret@other@localhost:port",
    ],
)
def test_no_error_shows_the_password(url):
    with pytest.raises(ValueError, match=r"address|port|percent-encoded") as caught:
        parse(url)
    assert "s3cret" not in str(caught.value)
    assert "***@" in str(caught.value)
    # Nor does the traceback, which would print the error that this one was made of.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("url", ["tcp://:s3cret", "tcp://user:s3cret", "tcp://:s3cret/"])
def test_no_error_shows_a_password_without_a_host(url):
    with pytest.raises(ValueError, match=r":\*\*\*'") as caught:
        parse(url)
    assert "s3cret" not in str(caught.value)


def test_a_bad_port_is_shown():
    with pytest.raises(ValueError, match="tcp://localhost:99999"):
        parse("tcp://localhost:99999")


def test_the_password_is_in_the_url_and_nowhere_else():
    address = parse("tcp+tls://me:s3%2Fcret@[::1]:99")
    assert address.url == "tcp+tls://me:s3%2Fcret@[::1]:99"
    assert str(address) == f"{address}" == "tcp+tls://me:***@[::1]:99"
    assert repr(address) == "<Address tcp+tls://me:***@[::1]:99>"
    assert address.place == "[::1]:99"


@pytest.mark.parametrize(
    "address",
    [
        Address("localhost", 7419),
        Address("::1", 1, True),
        Address("host", 2, False, "us er", None),
        Address("host", 3, True, "", ""),
        Address("host", 4, False, "a@b:c/d", "é%?#[]@:/ +"),
    ],
)
def test_the_url_of_an_address_parses_to_that_address(address):
    assert parse(address.url) == address
    assert pickle.loads(pickle.dumps(address)) == address


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, DEFAULT_URL),
        ({"FAKTORY_URL": ""}, DEFAULT_URL),
        ({"FAKTORY_URL": "tcp://a"}, "tcp://a"),
        ({"FAKTORY_PROVIDER": "MY_URL", "MY_URL": "tcp://b", "FAKTORY_URL": "tcp://a"}, "tcp://b"),
        ({"FAKTORY_PROVIDER": "", "": "tcp://b"}, DEFAULT_URL),
    ],
)
def test_the_provider_comes_before_the_url_and_that_before_the_default(environ, url):
    assert find_url(environ) == url


@pytest.mark.parametrize(
    ("environ", "state"),
    [
        ({}, "not set"),
        ({"FAKTORY_URL": "tcp://a"}, "not set"),
        ({"MY_URL": "", "FAKTORY_URL": "tcp://a"}, "empty"),
    ],
)
def test_a_provider_that_names_a_variable_without_an_address_is_an_error(environ, state):
    with pytest.raises(ValueError, match="FAKTORY_PROVIDER") as caught:
        find_url({"FAKTORY_PROVIDER": "MY_URL", **environ})
    assert str(caught.value) == (
        f"FAKTORY_PROVIDER names the variable 'MY_URL', which is {state}. "
        "Set that to the address, or unset FAKTORY_PROVIDER."
    )


@pytest.mark.parametrize(
    ("text", "on"), [("1", True), ("yes", True), ("0", False), ("False", False), ("", False)]
)
def test_a_variable_switches_on_unless_it_is_empty_0_or_false(text, on):
    assert switched_on(text) is on
    assert switched_on(None) is False


def test_a_provider_that_is_an_address_is_refused_without_its_password():
    with pytest.raises(ValueError, match="must be the name of the variable") as caught:
        find_url({"FAKTORY_PROVIDER": "tcp://:s3cret@host"})
    assert "s3cret" not in str(caught.value)


def test_the_default_is_an_address():
    assert parse(DEFAULT_URL) == Address("localhost", 7419)
