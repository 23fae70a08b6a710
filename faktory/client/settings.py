"""What `faktory.configure` has set, which counts where a client is made without it.

Rules: an argument goes before `configure`, that before a variable, that before the default.
Variables are read when they are needed, not at import. `current` is replaced, never changed: who
reads it once has settings that belong together.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..wire.address import find_url
from ..wire.validate import brief, check_timeout
from .sockets import MAX_KEEPALIVE, TCP_KEEPALIVE, check_keepalive

if TYPE_CHECKING:
    from ssl import SSLContext

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


current: Settings = Settings()
"""The settings of this process."""


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
