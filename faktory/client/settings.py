"""What `faktory.configure` has set, which counts where a client is made without it.

Rules: an argument goes before `configure`, that before a variable, that before the default.
Variables are read when they are needed, not at import. `current` is replaced, never changed: who
reads it once has settings that belong together.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..wire.address import Address, find_url, parse
from ..wire.validate import brief, check_labels, check_printable, check_timeout, fit
from .sockets import MAX_KEEPALIVE, TCP_KEEPALIVE, check_keepalive

if TYPE_CHECKING:
    from ssl import SSLContext

    from ..wire.types import ServerInfo

N = TypeVar("N", int, float)

DEFAULT_TIMEOUT: Final = 10.0
"""Seconds, more than the 5 that the server gives itself for a command."""

CONFIGURED: Final[Any] = ...
"""Stands for a timeout that is not passed; None, which elsewhere means none at all, is an error."""

_KEEPALIVE: Final = "FAKTORY_TCP_KEEPALIVE"

_ENTERPRISE: Final = "FAKTORY_ENTERPRISE"

_ON: Final = ("1", "true", "yes", "on")
_OFF: Final = ("0", "false", "no", "off", "")


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """The arguments of `configure`, checked; None where it was not called with one."""

    url: str | None = None
    pool_size: int | None = None
    pool_timeout: float | None = None
    timeout: float | None = None
    ssl_context: SSLContext | None = None
    tcp_keepalive: float | None = None
    enterprise: bool | None = None

    def find_url(self) -> str:
        """Return the address; ValueError if FAKTORY_PROVIDER names a variable that holds none."""
        return self.url or find_url(os.environ)

    def find_pool_size(self) -> int:
        """Return the size of the default pool."""
        return self.pool_size or _variable("FAKTORY_POOL_SIZE", int, 20)

    def find_pool_timeout(self) -> float:
        """Return the seconds to wait for a client of the default pool."""
        if self.pool_timeout is not None:
            return self.pool_timeout
        return _variable("FAKTORY_POOL_TIMEOUT", float, 5.0)

    def find_timeout(self, given: float | timedelta = CONFIGURED) -> float:
        """Return the seconds for connecting and for each answer."""
        if given is not CONFIGURED:
            return check_timeout("timeout", given, allow_zero=False)
        return self.timeout or _variable("FAKTORY_TIMEOUT", float, DEFAULT_TIMEOUT)

    def find_tcp_keepalive(self, given: float | timedelta | None = None) -> float:
        """Return the seconds without traffic after which the system looks for the server."""
        if given is not None:
            return check_keepalive("tcp_keepalive", given)
        if self.tcp_keepalive is not None:
            return self.tcp_keepalive
        if not (text := os.environ.get(_KEEPALIVE)):
            return TCP_KEEPALIVE
        try:
            return check_keepalive(_KEEPALIVE, float(text))
        except ValueError:
            raise ValueError(
                f"{_KEEPALIVE} is {text!r}: it must be a number of seconds above 0, "
                f"and {MAX_KEEPALIVE:g} or less."
            ) from None

    def knows_enterprise(self) -> bool:
        """Return whether the server is said to know Enterprise options; else it is asked.

        ValueError for a variable that is neither on nor off.
        """
        if self.enterprise is not None:
            return self.enterprise
        text = os.environ.get(_ENTERPRISE, "")
        word = text.strip().lower()
        if word in _ON or word in _OFF:
            return word in _ON
        raise ValueError(
            f"{_ENTERPRISE} is {brief(text)}: it is 1, true, yes or on if the server knows the "
            "options of Faktory Enterprise, or else 0, false, no, off or empty."
        )


def is_enterprise(info: ServerInfo) -> bool:
    """Return whether a server says of itself that it is a Faktory Enterprise."""
    server: object = info.get("server")
    description = server.get("description") if isinstance(server, dict) else None
    return "enterprise" in str(description).lower()


current: Settings = Settings()
"""The settings of this process."""


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A server, and how a client connects to it."""

    address: Address
    timeout: float
    keepalive: float
    ssl_context: SSLContext | None
    identity: dict[str, object]
    """What the client says of itself with HELLO, beside its process."""

    @property
    def worker_id(self) -> str | None:
        """The worker's id; None for a client that is not a worker's."""
        return self.identity.get("wid")  # type: ignore[return-value]

    def hello(self) -> dict[str, object]:
        """Return what a connection of this process sends with HELLO."""
        return {"hostname": fit(socket.gethostname()), "pid": os.getpid(), **self.identity}


def check_identity(labels: Sequence[str] | None, worker_id: str | None) -> dict[str, object]:
    """Return what a client says of itself; ValueError for what the server's pages cannot show."""
    identity: dict[str, object] = {"labels": [] if labels is None else check_labels(labels)}
    if worker_id is not None:
        if not isinstance(worker_id, str) or not worker_id:
            raise ValueError(f"worker_id is {worker_id!r}: it must be text, and not empty.")
        check_printable("the worker_id", worker_id)
        identity["wid"] = worker_id
    return identity


def find_endpoint(
    using: Settings,
    url: str | None,
    timeout: float | timedelta,
    keepalive: float | timedelta | None,
    ssl_context: SSLContext | None,
    identity: dict[str, object],
) -> Endpoint:
    """Return what a client's arguments say, and these settings where they say nothing."""
    seconds, idle = using.find_timeout(timeout), using.find_tcp_keepalive(keepalive)
    check_context(ssl_context)
    address = parse(url or using.find_url())
    if ssl_context is None and (address.tls or not url):
        ssl_context = using.ssl_context
    if ssl_context is not None and not address.tls:
        raise ValueError(
            f"there is an ssl_context, but {address} is an address without TLS: "
            "one with TLS begins with tcp+tls://."
        )
    return Endpoint(address, seconds, idle, ssl_context, identity)


def check_context(value: SSLContext | None) -> SSLContext | None:
    """Return an `ssl_context`, unless it is a file's name or a number.

    Its class is not asked for: that would import ssl, which takes long.
    """
    if isinstance(value, (str, bytes, os.PathLike, int, float)):
        raise ValueError(
            f"ssl_context is {brief(value)}: pass an ssl.SSLContext, like "
            'ssl.create_default_context(cafile="ca.pem").'
        )
    return value


def _variable(name: str, kind: type[N], default: N) -> N:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        value = kind(text)
    except ValueError:
        value = kind(0)
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {text!r}: it must be a number above 0.")
    return value
