"""Whether the server can be reached, and works: logged once for all threads, when that changes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from math import inf
from threading import Lock
from time import monotonic
from typing import Final

from ..client.sockets import TLS_HINT
from ..exceptions import FaktoryServerError
from ..wire.log import Log
from ..wire.recovery import TOO_MANY
from ..wire.validate import clip

ANSWERED_WITHIN: Final = 20.0
"""Seconds since the last answer, to a beat at least, in which others of its connections work."""

CROWDED: Final = (
    "the worker goes on with the connections that it has. Fewer threads take fewer, and fewer, "
    "wider processes"
)

_NUMBER: Final = re.compile(r"\d+")

REFUSAL_INTERVAL: Final = 60.0
"""Seconds between two lines about a server that refuses FETCH: each thread asks once a second."""


class Outage:
    """A time in which the server cannot be reached. Safe to use from any thread."""

    def __init__(self, log: logging.Logger, place: str = "the server") -> None:
        self._log = Log(log)
        self.place = place
        """Where the server is, for the log."""
        self.was_lost = False
        """Whether there was such a time."""
        self._lock = Lock()
        self._since: float | None = None
        self._answered = 0.0  # when the last command was sent that was answered
        self._refusal = ("", 0.0)
        self._refused_at = -inf
        self.on_change: Callable[[], object] = lambda: None
        """Called when `state` has changed."""

    def state(self, refused_within: float) -> str:
        """Return "outage", "starting" before the first answer, "refused", or "" if all is well.

        "refused" if FETCH was refused within so many seconds.
        """
        if self._since is not None:
            return "outage"
        if not self._answered:
            return "starting"
        return "refused" if monotonic() - self._refused_at < refused_within else ""

    def begins(self, error: BaseException, asked_at: float) -> None:
        """Note that a command from `asked_at` (`time.monotonic`) failed; log it the first time.

        Not if the server has answered a later one: then it is a matter of one connection. Nor if it
        has too many and answers others: `refused` says what it has closed.
        """
        answers = self._answered and monotonic() - self._answered < ANSWERED_WITHIN
        if answers and self._since is None and is_crowded(error):
            self._say(f"{clip(str(error), 1000)}; {CROWDED}")
            return
        with self._lock:
            if self._since is not None or self._answered > asked_at:
                return
            self._since = monotonic()
            self.was_lost = True
        self.on_change()
        what = "lost the connection to" if self._answered else "cannot reach"
        reason, stop, remedy = clip(str(error), 1000).partition(". ")
        if self._answered and remedy.endswith(TLS_HINT):  # it did so far
            remedy = remedy.removesuffix(TLS_HINT).rstrip()
            stop = stop if remedy else ""
        text = f"{what} {self.place}: {self._without_place(reason)}; trying again{stop}{remedy}"
        self._log.warning("%s", text, event="outage")

    def _without_place(self, reason: str) -> str:
        """Return a reason that does not name the server again."""
        place = self.place
        reason = reason.removesuffix(".").replace(f" on {place}", " there")
        reason = reason.replace(f"the host of {place}", "its host")
        for word in ("with", "from", "to"):
            reason = reason.replace(f" {word} {place}", "")
        return reason.replace(place, "it")

    def ends(self, asked_at: float) -> None:
        """Note that the server answered a command that was sent at `asked_at` (`time.monotonic`).

        An answer to a command from before the outage, read later, does not end it.
        """
        was_reached = self._answered
        if asked_at > was_reached:  # a FETCH may have been sent long ago
            self._answered = asked_at
        if self._since is None:
            return
        with self._lock:
            since = self._since
            if since is None or asked_at < since:
                return
            self._since = None
        self.on_change()
        if was_reached:  # else the heartbeat says that it is connected
            self._log.info("the server is back after %.1f s", monotonic() - since, event="back")

    def refused(self, error: BaseException) -> None:
        """Log that the server refused FETCH, when the reason is a new one, or once a minute."""
        self._refused_at = monotonic()
        self._say(f"the server refused FETCH: {clip(str(error), 1000)}")

    def _say(self, text: str) -> None:
        kind, now = _NUMBER.sub("", text), monotonic()
        with self._lock:
            before, at = self._refusal
            if kind == before and now - at < REFUSAL_INTERVAL:
                return
            self._refusal = (kind, now)
        self._log.warning("%s", text)


def is_crowded(error: BaseException) -> bool:
    """Return whether the server has closed a connection because it has too many."""
    reply = error.__cause__
    return isinstance(reply, FaktoryServerError) and reply.message.startswith(TOO_MANY)
