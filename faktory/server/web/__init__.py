"""The pages of an embedded server, as an ASGI application; the extra `web` brings what it needs."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

try:
    from .pages import Pages
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("starlette", "jinja2", "markupsafe", "anyio"):
        raise
    raise ImportError(
        f"faktory.server.web needs Starlette and Jinja2 ({error}): "
        "pip install 'faktory-worker[web]'"
    ) from error

from ..embedded import EmbeddedServer
from .security import Guard

__all__ = ["application"]


def application(
    server: EmbeddedServer, *, read_only: bool = False, hosts: Iterable[str] = ()
) -> Guard:
    """Return the pages of a server as an ASGI application, to be run or mounted.

    With the server's password, if it has one, for which any user name does (Basic auth). Without
    one it answers under `localhost`, addresses of IP and the names of `hosts` only. `read_only`:
    nothing can be changed. The server may run, stop and start again meanwhile.
    """
    token = secrets.token_urlsafe(32)
    pages = Pages(server, token, read_only)
    return Guard(
        pages.application(),
        password=lambda: server.address.password,
        token=token,
        read_only=read_only,
        hosts=hosts,
        explain=pages.explain,
        close=pages.live.close,
    )
