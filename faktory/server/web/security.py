"""Who may see and do what: each request passes here first, each answer last.

Rules: all answers have the headers below. Without a password the Host must be this
machine's name: else a page of another site could read this one, through a name of its own that
leads here (DNS rebinding). A form is accepted with the token of this application and, where the
browser says where it comes from, from here only. What a client sends is read up to a limit, and
for a limited time.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from hmac import compare_digest
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import parse_qsl

from ...wire.log import Log

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY: Final = 1024 * 1024
"""Bytes of a form."""

MAX_FIELDS: Final = 2000
"""Fields of a form: a page of 500 rows, each ticked."""

READ_TIMEOUT: Final = 10.0
"""Seconds in which a form must have come."""

FORM: Final = "faktory.form"
"""Where a request has the fields of its form, a list of pairs."""

HEADERS: Final[dict[bytes, bytes]] = {
    b"content-security-policy": (
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    # With "no-referrer" browsers say of each form that it comes from "null".
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
    b"vary": b"Accept",
}

_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_ORIGIN: Final = re.compile(r"(https?)://([^/?#@\\\s]+)")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\\\s]+)(?::([0-9]{1,5}))?")
_PORTS: Final = {"http": 80, "https": 443}

_log = Log(logging.getLogger("faktory.server"))


class WebError(Exception):
    """A request is answered with an error."""

    def __init__(self, status: int, title: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.title = title
        self.text = text


class Guard:
    """An ASGI application around another one."""

    def __init__(
        self,
        app: App,
        *,
        password: Callable[[], str | None],
        token: str,
        read_only: bool,
        hosts: Iterable[str],
        explain: Callable[[Scope, WebError], bytes],
        close: Callable[[], None],
    ) -> None:
        """`hosts` may be names beside localhost; `explain` writes the page of a refusal."""
        self.app = app
        self.close = close
        """Ends all streams; to be called in their loop."""
        self._password = password
        self._token = token.encode()
        self._read_only = read_only
        self._hosts = {"localhost", *(name.lower().rstrip(".") for name in hosts)} - {""}
        self._explain = explain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        answering = False

        async def guarded(message: Message) -> None:
            nonlocal answering
            if message["type"] == "http.response.start":
                answering = True
                message = {**message, "headers": _with_headers(message.get("headers", ()))}
            await send(message)

        scope = _with_prefix(scope)
        try:
            await self._check(scope, receive)
            await self.app(scope, receive, guarded)
        except WebError as refused:
            if not answering:
                await self._refuse(scope, guarded, refused)
        except Exception:
            _log.exception("a page failed")
            if answering:
                raise
            text = "This page has failed. The server's log says why."
            await self._refuse(scope, guarded, WebError(500, "An error", text))

    async def _refuse(self, scope: Scope, send: Send, refused: WebError) -> None:
        body = self._explain(scope, refused)
        headers = [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
        ]
        if refused.status == 401:
            headers.append((b"www-authenticate", b'Basic realm="Faktory", charset="UTF-8"'))
        elif refused.status == 405:
            headers.append((b"allow", b"GET, HEAD, POST"))
        await send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _check(self, scope: Scope, receive: Receive) -> None:
        headers = scope["headers"]
        password = self._password()
        host = _single(headers, b"host")
        if password is None:
            self._check_host(host)
        elif not _is_health(scope):
            _check_password(headers, password)
        method = scope["method"]
        if method not in ("GET", "HEAD", "POST"):
            raise WebError(405, "Not that way", f"There is nothing to {method[:20]} here.")
        if method == "POST":
            self._check_origin(scope, host)
            scope[FORM] = await self._form(scope, receive)

    def _check_host(self, host: str | None) -> None:
        found = None if host is None else _HOST.fullmatch(host)
        name = "" if found is None else found[1].lower().rstrip(".")
        if name in self._hosts:
            return
        try:
            ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise WebError(
                421,
                "Another name",
                "Without a password this page is shown under the name localhost or the "
                "address of this machine only, as a name might be another site's that leads here. "
                "Set a password, with --password or FAKTORY_PASSWORD; in a program pass "
                "hosts=[...] to application().",
            ) from None

    def _check_origin(self, scope: Scope, host: str | None) -> None:
        if self._read_only:
            raise WebError(403, "Read only", "Nothing can be changed here: it is for reading only.")
        origin = _single(scope["headers"], b"origin")
        if origin is None:
            return  # not from a page in a browser; the token decides
        found = _ORIGIN.fullmatch(origin)
        theirs = None if found is None else _host_and_port(found[2], found[1])
        ours = None if host is None else _host_and_port(host, scope["scheme"])
        if found is None or found[1] != scope["scheme"] or theirs is None or theirs != ours:
            raise WebError(
                403,
                "From elsewhere",
                "This form comes from another site, so nothing was done. Behind a proxy: it must "
                "pass on the Host that the browser sent, and X-Forwarded-Proto.",
            )

    async def _form(self, scope: Scope, receive: Receive) -> list[tuple[str, str]]:
        kind = (_single(scope["headers"], b"content-type") or "").partition(";")[0]
        if kind.strip().lower() != "application/x-www-form-urlencoded":
            raise WebError(415, "Not a form", "Send a form as application/x-www-form-urlencoded.")
        body = await _body(scope, receive)
        try:
            fields = parse_qsl(
                body.decode("ascii", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS
            )
        except ValueError:
            text = f"A form has {MAX_FIELDS} fields at most, so nothing was done. Tick fewer rows."
            raise WebError(400, "Too much", text) from None
        tokens = [value for name, value in fields if name == "token"]
        given = tokens[0].encode("utf-8", "replace") if len(tokens) == 1 else b""
        if not compare_digest(given, self._token):
            raise WebError(
                403,
                "An old page",
                "This form was made before the server was started, so nothing was done. Go back, "
                "load the page again, and repeat it.",
            )
        return fields


async def _body(scope: Scope, receive: Receive) -> bytes:
    too_large = WebError(
        413, "Too large", f"A form has {MAX_BODY:,} bytes at most, so nothing was done."
    )
    length = _single(scope["headers"], b"content-length")
    if length is not None and (not length.isdigit() or len(length) > 9 or int(length) > MAX_BODY):
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise WebError(400, "Cut off", "The form did not come as a whole.")
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    raise too_large
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise WebError(408, "Too slow", "The form did not come in time.") from None


def _check_password(headers: Iterable[tuple[bytes, bytes]], password: str) -> None:
    scheme, _, encoded = (_single(headers, b"authorization") or "").partition(" ")
    given = b""
    if scheme.lower() == "basic":
        try:
            given = b64decode(encoded.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            given = b""
    if not compare_digest(given, password.encode("utf-8", "surrogateescape")):
        raise WebError(
            401, "A password", "The password of the server is needed; the user's name may be any."
        )


def _single(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return a header; WebError if there are several, of which each might be meant."""
    values = [value for each, value in headers if each.lower() == name]
    if len(values) > 1:
        raise WebError(400, "Twice", f"The header {name.decode()} comes more than once.")
    return values[0].decode("latin-1").strip() if values else None


def _host_and_port(text: str, scheme: str) -> tuple[str, int] | None:
    found = _HOST.fullmatch(text)
    if found is None:
        return None
    return found[1].lower(), int(found[2] or _PORTS.get(scheme, 0))


def _with_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    headers = list(headers)
    there = {name.lower() for name, _ in headers}
    return headers + [(name, value) for name, value in HEADERS.items() if name not in there]


def _with_prefix(scope: Scope) -> Scope:
    """Return the scope with the prefix that a proxy names, as the real server takes it."""
    if root := scope.get("root_path"):
        # The program around it knows a prefix that its proxy has taken away.
        path, whole = scope["path"], f"{scope.get('app_root_path', '')}{scope['path']}"
        taken = not path.startswith(root) and whole.startswith(root)
        return {**scope, "path": whole} if taken else scope
    for name, value in scope["headers"]:
        prefix = value.decode("latin-1").rstrip("/")
        if name.lower() == b"x-script-name" and _PREFIX.fullmatch(prefix) and len(prefix) < 200:
            path = scope["path"]
            if not path.startswith(f"{prefix}/") and path != prefix:
                path = f"{prefix}{path}"  # which the proxy has taken away
            return {**scope, "root_path": prefix, "path": path}
    return scope


def local_path(scope: Scope) -> str:
    """Return the path of a request behind the root."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root) else path


def _is_health(scope: Scope) -> bool:
    return local_path(scope) == "/health"
