"""Where a server is and how to talk to it: `tcp+tls://user:password@host:port` taken apart.

No environment in here: `find_url` looks into the mapping that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

DEFAULT_PORT: Final = 7419
DEFAULT_URL: Final = f"tcp://localhost:{DEFAULT_PORT}"

_SCHEMES = {"tcp": False, "tcp+tls": True}


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
    """Take a URL apart; ValueError, without the password, where it is none.

    User and password are percent-decoded; a `+` stays a plus. Default port 7419.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ValueError(
            f"{_without_password(url)!r} is no Faktory address: write tcp://host:port, "
            f"for example {DEFAULT_URL}."
        )
    if scheme.lower() not in _SCHEMES:
        raise ValueError(
            f"the address {_without_password(url)!r} begins with {scheme!r}: "
            "use tcp:// or, for TLS, tcp+tls://."
        )
    parts = urlsplit(url)
    try:
        port = DEFAULT_PORT if parts.port is None else parts.port
        if port == 0:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"the port in {_without_password(url)!r} is no number from 1 to 65535. "
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
    return Address(
        host=parts.hostname,
        port=port,
        tls=_SCHEMES[scheme.lower()],
        username=unquote(parts.username or ""),
        password=unquote(parts.password) if parts.password is not None else None,
    )


def find_url(environ: Mapping[str, str]) -> str:
    """Tell the address that the environment names.

    `FAKTORY_PROVIDER` names the variable that holds it; `FAKTORY_URL` is next, then localhost.
    """
    provider = environ.get("FAKTORY_PROVIDER", "")
    if ":" in provider:
        raise ValueError(
            f"FAKTORY_PROVIDER is {_without_password(provider)!r}: it must be the name of the "
            "variable that holds the address. An address itself goes into FAKTORY_URL."
        )
    return (
        (environ.get(provider) if provider else None) or environ.get("FAKTORY_URL") or DEFAULT_URL
    )


def _without_password(url: str) -> str:
    """The URL fit to be shown: all between the scheme and the last @ is left out."""
    scheme, separator, rest = url.rpartition("://") if "@" not in url else url.partition("://")
    if "@" not in rest:
        return url
    return f"{scheme}{separator}***@{rest.rpartition('@')[2]}"
