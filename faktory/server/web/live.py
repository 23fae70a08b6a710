"""Pages that change by themselves: a stream of server-sent events, each a page's `<main>`.

Rules: a page is looked at and rendered once for all streams of the same path and query, and sent
when it differs from what was sent last. If one look takes long, the next one is put off. A stream
ends when its client closes it, when the page cannot be read any more, and with `close`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Final

from ...wire.log import Log
from .security import Receive, Scope, Send, WebError

Render = Callable[[], Awaitable[str]]

MAX_STREAMS: Final = 300
"""Streams at once."""

INTERVAL: Final = 2.0
"""Seconds between two looks at a page."""

MAX_PAUSE: Final = 5.0
"""The same, where a look takes long."""

SILENCE: Final = 15.0
"""Seconds after which a comment is sent, so that a proxy keeps the connection."""

_log = Log(logging.getLogger("faktory.server"))

_LINES: Final = re.compile(r"\r\n|\r|\n")

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),  # of nginx
]


class Live:
    """The streams of an application, on any loops."""

    def __init__(self) -> None:
        self.streams = 0
        """How many there are."""
        self._feeds: dict[tuple[object, str], _Feed] = {}
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether there are as many streams as there may be."""
        return self.streams >= MAX_STREAMS

    def close(self) -> None:
        """End all streams; to be called in their loop. Later ones end at once."""
        self._closed = True
        for feed in list(self._feeds.values()):
            feed.end()

    async def send(self, name: str, render: Render, receive: Receive, send: Send) -> None:
        """Send a page as a stream until that ends; `name` is the page's path and query."""
        key = (asyncio.get_running_loop(), name)
        feed = self._feeds.get(key)
        if feed is None or feed.has_ended:
            feed = self._feeds[key] = _Feed(render)
        self.streams += 1
        feed.streams += 1
        if self._closed:
            feed.end()
        tasks = [
            asyncio.ensure_future(_gone(receive)),
            asyncio.ensure_future(self._send(feed, send)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self.streams -= 1
            feed.streams -= 1
            if not feed.streams:
                feed.end()
                if self._feeds.get(key) is feed:
                    del self._feeds[key]
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            with suppress(OSError):  # the client has closed it
                task.result()

    async def _send(self, feed: _Feed, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async for piece in feed.events():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class _Feed:
    """What the streams of one page get."""

    def __init__(self, render: Render) -> None:
        self.streams = 0
        self.has_ended = False
        self._render = render
        self._event = b""
        self._number = 0
        self._changed = asyncio.Event()
        self._task = asyncio.ensure_future(self._look())

    def end(self) -> None:
        """End all streams."""
        self.has_ended = True
        self._task.cancel()
        self._changed.set()

    async def events(self) -> AsyncIterator[bytes]:
        """Iterate over the pieces of a stream."""
        yield b"retry: 2000\n\n"
        seen = 0
        while not self.has_ended:
            if seen != self._number:
                seen = self._number
                yield self._event
                continue
            try:
                async with asyncio.timeout(SILENCE):
                    await self._changed.wait()
            except TimeoutError:
                yield b": still here\n\n"

    async def _look(self) -> None:
        try:
            while True:
                began = monotonic()
                event = to_event(await self._render())
                if event != self._event:
                    self._event = event
                    self._number += 1
                    changed, self._changed = self._changed, asyncio.Event()
                    changed.set()
                took = monotonic() - began
                await asyncio.sleep(max(INTERVAL - took, min(4 * took, MAX_PAUSE)))
        except WebError:
            pass  # the server does not run
        except Exception:
            _log.exception("a page failed")
        finally:
            self.has_ended = True
            self._changed.set()


def to_event(text: str) -> bytes:
    """Write a text as an event."""
    lines = "".join(f"data: {line}\n" for line in _LINES.split(text))
    return f"{lines}\n".encode("utf-8", "replace")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Stream:
    """An answer that is a stream: `live.send` with what is known of the request."""

    def __init__(self, live: Live, name: str, render: Render) -> None:
        self._live = live
        self._name = name
        self._render = render

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await self._live.send(self._name, self._render, receive, send)
