"""The pool that this process pushes through, by `faktory.configure`, the environment or default.

`FAKTORY_*` variables are read when the default pool is made: with the first push, not at import.
A forked child pushes to the same server as its parent, over connections of its own.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from ..wire.address import find_url, parse
from ..wire.validate import check_timeout
from . import network
from .client import DEFAULT_TIMEOUT, Client
from .pool import Pool, check_size
from .sockets import check_keepalive, find_keepalive

if TYPE_CHECKING:
    from ssl import SSLContext

N = TypeVar("N", int, float)

_lock = Lock()
_settings: dict[str, Any] = {}
_pool: Pool | None = None


def configure(
    *,
    url: str | None = None,
    pool_size: int | None = None,
    pool_timeout: float | timedelta | None = None,
    timeout: float | timedelta | None = None,
    ssl_context: SSLContext | None = None,
    tcp_keepalive: float | timedelta | None = None,
) -> None:
    """Set where `perform_async` and its like push to; arguments that are None change nothing.

    `url` is an address; `pool_size` connections at most (20); `pool_timeout` seconds to wait for a
    free one (5); `timeout` seconds for connecting and for each answer (10); `tcp_keepalive` seconds
    without traffic after which the system asks whether the server is there (15). Each but
    `ssl_context` is also a variable, which counts unless it is set here: FAKTORY_URL (or the one
    that FAKTORY_PROVIDER names), FAKTORY_POOL_SIZE, FAKTORY_POOL_TIMEOUT, FAKTORY_TIMEOUT,
    FAKTORY_TCP_KEEPALIVE. A change drops the default pool; pushes in progress end on the old one.
    ValueError for a bad value.
    """
    global _pool
    given = {
        "url": None if url is None else parse(url).url,
        "pool_size": None if pool_size is None else check_size(pool_size),
        "pool_timeout": None
        if pool_timeout is None
        else check_timeout("pool_timeout", pool_timeout),
        "timeout": None if timeout is None else check_timeout("timeout", timeout, allow_zero=False),
        "ssl_context": ssl_context,
        "tcp_keepalive": None
        if tcp_keepalive is None
        else check_keepalive("tcp_keepalive", tcp_keepalive),
    }
    with _lock:
        _settings.update({name: value for name, value in given.items() if value is not None})
        old, _pool = _pool, None
    if old is not None:
        old.close()


@contextmanager
def configured(**settings: Any) -> Iterator[None]:
    """Use these settings, and no others, for a `with` block; see `configure`."""
    global _settings
    with _lock:
        before, _settings = _settings, {}
    try:
        configure(**settings)
        yield
    finally:
        with _lock:
            _settings = before
        configure()


def default_pool() -> Pool:
    """Return the pool that this process pushes through."""
    global _pool
    pool = _pool
    if pool is None:
        with _lock:
            pool = _pool or _make_pool()
            if not network.current.in_process:  # a test mode leaves nothing behind
                _pool = pool
    return pool


def _close() -> None:
    """At the interpreter's exit: let the server see END, not a dead connection."""
    if _pool is not None:
        _pool.close()


atexit.register(_close)


def _reset_after_fork() -> None:
    """In a forked child: make a new lock, as a thread of the parent may have held the old one."""
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def _make_pool() -> Pool:
    timeout = _setting("timeout", float, DEFAULT_TIMEOUT)
    url = _settings.get("url") or find_url(os.environ)
    context = _settings.get("ssl_context")
    keepalive = find_keepalive(_settings.get("tcp_keepalive"), os.environ)
    return Pool(
        lambda: Client(url, timeout=timeout, ssl_context=context, tcp_keepalive=keepalive),
        size=_setting("pool_size", int, 20),
        timeout=_setting("pool_timeout", float, 5.0),
    )


def _setting(name: str, kind: type[N], default: N) -> N:
    if name in _settings:
        return _settings[name]  # type: ignore[no-any-return]
    variable = f"FAKTORY_{name.upper()}"
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        value = kind(text)
    except ValueError:
        value = kind(0)
    if not 0 < value < float("inf"):
        raise ValueError(f"{variable} is {text!r}: it must be a number above 0.")
    return value
