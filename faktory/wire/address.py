"""A server's address: `tcp+tls://user:password@host:port`, parsed and found in the environment.

The environment is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

DEFAULT_PORT: Final = 7419
DEFAULT_URL: Final = f"tcp://localhost:{DEFAULT_PORT}"

_SCHEMES = {"tcp": False, "tcp+tls": True}
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


class Address(NamedTuple):
    """A server's address; `password` is kept out of text and repr."""

    host: str
    port: int
    tls: bool = False
    username: str = ""
    password: str | None = None

    @property
    def place(self) -> str:
        """`host:port`, for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL with the password, percent-encoded: what `parse` reads."""
        return self._url("" if self.password is None else ":" + quote(self.password, safe=""))

    def __str__(self) -> str:
        return self._url("" if self.password is None else ":***")

    def __repr__(self) -> str:
        return f"<Address {self}>"

    def _url(self, password: str) -> str:
        user = quote(self.username, safe="") + password
        scheme = "tcp+tls" if self.tls else "tcp"
        return f"{scheme}://{user}{'@' if user else ''}{self.place}"


def parse(url: str) -> Address:
    """Parse a URL; ValueError, whose text leaves the password out, where it is not an address.

    User and password are percent-decoded; a `+` stays a plus. Default port 7419.
    """
    if not isinstance(url, str):
        raise ValueError(
            f"the address is of type {type(url).__name__}: pass text, for example {DEFAULT_URL}."
        )
    match = _SCHEME.match(url)
    if match is None:
        raise ValueError(
            f"{_without_password(url)!r} is not a Faktory address: write tcp://host:port, "
            f"for example {DEFAULT_URL}."
        )
    scheme = match[1]
    if scheme.lower() not in _SCHEMES:
        raise ValueError(
            f"the address {_without_password(url)!r} begins with {scheme!r}: "
            "use tcp:// or, for TLS, tcp+tls://."
        )
    if any(character <= " " or character == "\x7f" for character in url):
        raise ValueError(  # `urlsplit` would silently drop some of them
            f"the address {_without_password(url)!r} holds a space or a control character. "
            "In a password it must be percent-encoded."
        )
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may hold the password
        raise ValueError(
            f"the address {_without_password(url)!r} cannot be read. "
            "A bracket or an unusual character in the password must be percent-encoded."
        ) from None
    if (bracketed := _in_brackets(parts.netloc.rpartition("@")[2])) is not None:
        raise ValueError(
            f"an IPv6 address in a URL has brackets around it: {scheme}://{bracketed}."
        )
    try:
        port = DEFAULT_PORT if parts.port is None else parts.port
        if port == 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"the port in {_without_password(url)!r} is not a number from 1 to 65535. "
            "A '/', '?', '#' or '@' in the password must be percent-encoded."
        ) from None
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(
            f"the address {_without_password(url)!r} goes on after the port: "
            "a Faktory address ends there. "
            "A '/', '?' or '#' in the password must be percent-encoded."
        )
    if not parts.hostname:
        raise ValueError(f"the address {_without_password(url)!r} names no host.")
    try:
        username, password = _decode(parts.username), _decode(parts.password)
    except UnicodeError:
        raise ValueError(
            f"user and password in {_without_password(url)!r} are not percent-encoded UTF-8."
        ) from None
    host = parts.hostname.replace("%25", "%")  # before the zone of a link-local address
    return Address(host, port, _SCHEMES[scheme.lower()], username or "", password)


def find_url(environ: Mapping[str, str]) -> str:
    """Return the address that the environment names.

    `FAKTORY_PROVIDER` names the variable that holds it, without it that is `FAKTORY_URL`; without
    that it is localhost. ValueError if `FAKTORY_PROVIDER` names a variable that holds none.
    """
    provider = environ.get("FAKTORY_PROVIDER", "")
    if ":" in provider:
        raise ValueError(
            f"FAKTORY_PROVIDER is {_without_password(provider)!r}: it must be the name of the "
            "variable that holds the address. An address itself goes into FAKTORY_URL."
        )
    if not provider:
        return environ.get("FAKTORY_URL") or DEFAULT_URL
    url = environ.get(provider)
    if not url:
        state = "not set" if url is None else "empty"
        raise ValueError(
            f"FAKTORY_PROVIDER names the variable {provider!r}, which is {state}. "
            "Set that to the address, or unset FAKTORY_PROVIDER."
        )
    return url


def switched_on(text: str | None) -> bool:
    """Return whether a variable switches something on: `0`, `false` and nothing do not."""
    return (text or "").strip().lower() not in ("", "0", "false")


def _in_brackets(place: str) -> str | None:
    """Return an IPv6 address that lacks its brackets with them; None for anything else."""
    if place.count(":") < 2 or "[" in place:
        return None
    from ipaddress import IPv6Address  # takes long, and is needed for this mistake only

    host, _, port = place.rpartition(":")
    readings = [(place, ""), (host, f":{port}")]
    if len(port) >= 4 and port.isdecimal():  # rather a port than the end of the address
        readings.reverse()
    for address, rest in readings:
        try:
            return f"[{IPv6Address(address)}]{rest}"
        except ValueError:
            pass
    return None


def _decode(part: str | None) -> str | None:
    if part is None:
        return None
    text = unquote(part, errors="strict")
    text.encode()  # a variable that is not UTF-8 has lone surrogates
    return text


def _without_password(url: str) -> str:
    """Return a URL without what is between its scheme and the last @, for messages."""
    secret, separator, place = url.rpartition("@")
    if not separator:  # text behind a colon may be a password without its host
        return re.sub(r"(?<=://)([^/:\[]*):(?!\d*/?$).*", r"\1:***", url)
    scheme = _SCHEME.match(secret)
    return f"{scheme[0] if scheme else ''}***@{place}"
