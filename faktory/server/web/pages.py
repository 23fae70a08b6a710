"""The routes: each reads a model in the server's thread, and renders it here.

Rules: nothing blocks the loop but rendering a page. A page that a browser asks for as a stream
(`Accept: text/event-stream`) is one.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..administration import information
from ..embedded import EmbeddedServer
from ..slices import Steps
from ..state import ServerState
from . import actions, reading, rows
from .live import Live, Stream
from .models import Site
from .reading import Facts, Window
from .rendering import Renderer, main_of, part
from .security import FORM, Scope, WebError

T = TypeVar("T")

Read = Callable[[ServerState], Steps[T]]

_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_DAYS: Final = (7, 30, 90, 180)

_NOTICE_FOR: Final = 60.0
"""Seconds for which the result of an action is said."""

_MAX_NOTICES: Final = 1000

_SETS: Final = {"/retries": "retries", "/scheduled": "scheduled", "/morgue": "dead"}
_PLACES: Final = {"queue": "/queues", "busy": "/busy", **reading.PATHS}

_MAX_SEARCHES: Final = 2
"""At once: each goes through all jobs."""


class _Rest(Convertor[str]):
    """The rest of a path, whatever is in it."""

    regex = r"(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("faktory_rest", _Rest())


class Pages:
    """The pages of one server."""

    def __init__(self, server: EmbeddedServer, token: str, read_only: bool) -> None:
        self._server = server
        self._token = token
        self._read_only = read_only
        self._renderer = Renderer()
        self._notices: dict[str, tuple[float, str]] = {}
        self._searches = 0
        self._static = {
            path.name: _Static(path) for path in _STATIC.iterdir() if path.suffix in _TYPES
        }
        self.live = Live()

    def application(self) -> Starlette:
        """Return the routes as an application."""
        sets: list[BaseRoute] = []
        for path, place in _SETS.items():
            sets += [
                Route(path, self._set_page(place, path), methods=["GET"]),
                Route(path, self._set_form(place), methods=["POST"]),
                Route(f"{path}/{{key:faktory_rest}}", self.moved, methods=["GET"]),
            ]
        return Starlette(
            routes=[
                Route("/", self.index, methods=["GET"]),
                Route("/queues", self.queues, methods=["GET"]),
                Route("/queues/{name}", self.queue, methods=["GET"]),
                Route("/queues/{name}", self.queue_form, methods=["POST"]),
                Route("/busy", self.busy, methods=["GET"]),
                Route("/busy", self.busy_form, methods=["POST"]),
                *sets,
                Route("/jobs/{jid:faktory_rest}", self.job, methods=["GET"]),
                Route("/jobs/{jid:faktory_rest}", self.job_form, methods=["POST"]),
                Route("/search", self.search, methods=["GET"]),
                Route("/stats", self.stats, methods=["GET"]),
                Route("/health", self.health, methods=["GET"]),
                Route("/static/{name}", self.static, methods=["GET"]),
            ],
            exception_handlers=dict.fromkeys(
                (HTTPException, WebError, Exception), self._on_refused
            ),
        )

    # Pages.

    async def index(self, request: Request) -> Response:
        days = _number(request.query_params.get("days"), _DAYS[1])
        days = days if days in _DAYS else _DAYS[1]
        return await self._page(request, "index", "index", reading.index(days))

    async def queues(self, request: Request) -> Response:
        return await self._page(request, "queues", "queues", reading.queues(_window(request)))

    async def queue(self, request: Request) -> Response:
        read = reading.queue(request.path_params["name"], _window(request))
        missing = ("No such queue", "It comes with its first job.")
        return await self._page(request, "queue", "queues", read, missing=missing)

    async def busy(self, request: Request) -> Response:
        return await self._page(request, "busy", "busy", reading.busy(_window(request)))

    def _set_page(self, place: str, path: str) -> Callable[[Request], Awaitable[Response]]:
        async def page(request: Request) -> Response:
            return await self._page(
                request, "jobs", path[1:], reading.jobs(place, _window(request))
            )

        return page

    async def job(self, request: Request) -> Response:
        jid = request.path_params["jid"]
        read = reading.job(jid, f"/jobs/{part(jid)}")
        missing = ("No such job", "It is done, or deleted: a server keeps no jobs that are done.")
        return await self._page(request, "job", "", read, rows.readable, missing=missing)

    async def search(self, request: Request) -> Response:
        if _wants_stream(request):
            return Response(status_code=204)  # each look would go through all jobs
        text = request.query_params.get("q", "").strip()[:1000]
        while self._searches >= _MAX_SEARCHES:
            await asyncio.sleep(0.05)
        self._searches += 1
        try:
            return await self._page(
                request, "search", "search", reading.search(text), searched=text
            )
        finally:
            self._searches -= 1

    async def moved(self, request: Request) -> Response:
        """Send the addresses of the real server's pages to a job's page."""
        jid = request.path_params["key"].partition("|")[2]
        if not jid:
            raise HTTPException(404)
        return _redirect(request, f"/jobs/{part(jid)}")

    async def stats(self, _request: Request) -> Response:
        data = await self._ask(information)
        return Response(data, media_type="application/json")

    async def health(self, _request: Request) -> Response:
        if self._server.is_running and self._server.failure is None:
            return Response(b'{"status":"up"}', media_type="application/json")
        return Response(b'{"status":"down"}', 503, media_type="application/json")

    async def static(self, request: Request) -> Response:
        found = self._static.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return found.answer(request)

    # Forms.

    async def queue_form(self, request: Request) -> Response:
        name = request.path_params["name"]
        form = _form(request)
        done = await self._ask(
            actions.in_queue(name, form.get("action", ""), _values(request, "bkey"))
        )
        return self._done(request, done, f"/queues/{part(name)}")

    async def busy_form(self, request: Request) -> Response:
        work = actions.signal(_values(request, "wid"), _form(request).get("signal", ""))
        return self._done(request, await self._ask(work), "/busy")

    def _set_form(self, place: str) -> Callable[[Request], Awaitable[Response]]:
        async def form(request: Request) -> Response:
            work = actions.in_set(place, _form(request).get("action", ""), _values(request, "key"))
            return self._done(request, await self._ask(work), reading.PATHS[place])

        return form

    async def job_form(self, request: Request) -> Response:
        jid, form = request.path_params["jid"], _form(request)
        done = await self._ask(actions.on_job(jid, form))
        left = await self._ask(reading.job(jid, ""))
        if left is not None:
            return self._done(request, done, f"/jobs/{part(jid)}")
        return self._done(request, done, _PLACES.get(form.get("place", ""), "/"), here=True)

    def _done(self, request: Request, text: str, path: str, here: bool = False) -> Response:
        """Go back to where the form was, with the result; `here`: to `path` in any case."""
        number = secrets.token_urlsafe(9)
        while len(self._notices) >= _MAX_NOTICES:
            del self._notices[next(iter(self._notices))]
        self._notices[number] = (monotonic() + _NOTICE_FOR, text)
        back = path if here else _back(request) or path
        path, _, query = back.partition("?")
        kept = [each for each in query.split("&") if each and not each.startswith("done=")]
        return _redirect(request, f"{path}?{'&'.join([*kept, f'done={number}'])}")

    # What they share.

    async def _ask(self, work: Read[T]) -> T:
        """Do something in the server's thread."""
        try:
            if self._server.is_running:
                return await asyncio.wrap_future(self._server.perform(work))
            reason: object = "it was stopped."
        except RuntimeError as error:
            reason = error
        raise WebError(503, "No server", f"The server does not run: {reason}")

    async def _page(
        self,
        request: Request,
        name: str,
        tab: str,
        read: Read[T],
        finish: Callable[[T], T] | None = None,
        searched: str = "",
        missing: tuple[str, str] = ("", ""),
    ) -> Response:
        """Answer with a page; where `read` finds nothing, with `missing`: title and text."""
        number = request.query_params.get("done", "")
        root = _root(request)

        async def render() -> tuple[int, str]:
            facts, page = await self._ask(reading.with_facts(read))
            site = self._site(root, facts, tab, self._notice(number), searched)
            values = {"site": site, "counts": facts.counts, "now": facts.now}
            if page is None:
                return 404, self._message(values, *missing)
            if finish is not None:
                page = finish(page)
            return 200, self._renderer.page(name, page=page, **values)

        if _wants_stream(request):
            if self.live.is_full:
                raise WebError(503, "Too many", "There are too many open pages.")

            async def render_main() -> str:
                return main_of((await render())[1])

            query = request.scope["query_string"].decode("latin-1")
            return _StreamResponse(
                self.live, f"{root} {request.scope['path']}?{query}", render_main
            )
        status, text = await render()
        return HTMLResponse(text.encode("utf-8", "replace"), status)

    def _site(self, root: str, facts: Facts, tab: str, notice: str, query: str) -> Site:
        return Site(
            root,
            "" if self._read_only else self._token,
            self._read_only,
            _version(),
            facts.edition,
            facts.durable,
            tab,
            notice,
            query,
        )

    def _notice(self, number: str) -> str:
        until, text = self._notices.get(number, (0.0, ""))
        return text if monotonic() < until else ""

    def _message(self, values: dict[str, Any], title: str, text: str) -> str:
        return self._renderer.page("message", title=title, text=text, **values)

    def explain(self, scope: Scope, refused: WebError) -> bytes:
        """Write the page of a refusal, which says nothing of the server."""
        site = Site(scope.get("root_path", ""), "", True, "", "", None, "", "", "")
        values = {"site": site, "counts": None, "now": 0}
        return self._message(values, refused.title, refused.text).encode("utf-8", "replace")

    async def _on_refused(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            if error.status_code == 405:
                error = WebError(405, "Not that way", "Nothing can be sent to this page.")
            else:
                error = WebError(error.status_code, "No such page", "There is nothing here.")
        elif not isinstance(error, WebError):
            error = WebError(500, "An error", "This page has failed. The server's log says why.")
        return HTMLResponse(self.explain(request.scope, error), error.status)


class _StreamResponse(Response):
    """A stream as Starlette takes it."""

    def __init__(self, live: Live, name: str, render: Callable[[], Awaitable[str]]) -> None:
        super().__init__()
        self._stream = Stream(live, name, render)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._stream(scope, receive, send)


class _Static:
    """A file that is the same for all."""

    def __init__(self, path: Path) -> None:
        self._body = path.read_bytes()
        self._type = _TYPES[path.suffix]
        self._tag = f'"{sha256(self._body).hexdigest()[:16]}"'

    def answer(self, request: Request) -> Response:
        headers = {"etag": self._tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._body, media_type=self._type, headers=headers)


@cache
def _version() -> str:
    """Return the version of this package; "" where it runs without being installed."""
    try:
        return version("faktory-worker")
    except PackageNotFoundError:
        return ""


def _root(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/")


def _window(request: Request) -> Window:
    count = _number(request.query_params.get("count"), 25)
    return Window(_number(request.query_params.get("page"), 1), min(count, 500) or 25)


def _number(text: str | None, default: int) -> int:
    if text is None or not re.fullmatch(r"[0-9]{1,30}", text):
        return default
    return int(text)


def _wants_stream(request: Request) -> bool:
    return request.method == "GET" and "text/event-stream" in request.headers.get("accept", "")


def _form(request: Request) -> dict[str, str]:
    return dict(request.scope[FORM])


def _values(request: Request, name: str) -> list[str]:
    return [value for each, value in request.scope[FORM] if each == name]


def _redirect(request: Request, path: str) -> Response:
    return RedirectResponse(f"{_root(request)}{path}", 303)


def _back(request: Request) -> str | None:
    """Return where a form was, path and query behind the root, if that is a page of ours."""
    referer = request.headers.get("referer", "")
    try:
        found = urlsplit(referer)
    except ValueError:
        return None
    root = _root(request)
    if found.netloc != request.headers.get("host") or not found.path.startswith(f"{root}/"):
        return None
    path = found.path[len(root) :]
    if path.startswith(("//", "/\\")) or not f"{path}{found.query}".isascii():
        return None
    return f"{path}?{found.query}" if found.query else path
