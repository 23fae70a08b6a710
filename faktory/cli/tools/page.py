"""The pages of the tool `server`: their flags, their port, and the thread that serves them.

Rules: the port is bound before there are jobs, so that a port that was asked for and is taken ends
the command. What the pages need is imported in their thread, when the job port listens already.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from ..exits import UsageError

if TYPE_CHECKING:
    from ...server import EmbeddedServer
    from ...server.web.run import Runner

_DEFAULT: Final = "127.0.0.1:7420"

_NEEDED: Final = ("starlette", "uvicorn", "jinja2", "h11", "anyio")

_ABSENT: Final = "No pages in a browser: pip install 'faktory-worker[web]' adds what they need."

_STOP_TIMEOUT: Final = 4.0
"""Seconds; what an import or an answer takes beyond that ends with the process."""

Say = Callable[[str], object]


def add_flags(parser: Any) -> None:
    """Add the flags to the parser of the tool."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--web",
        metavar="HOST:PORT",
        help="show the jobs in a browser at this address; port 0 takes a free one; needs the extra "
        f"`web` (default: {_DEFAULT}, where the extra is installed and the port free)",
    )
    either.add_argument("--no-web", action="store_true", help="show nothing in a browser")
    parser.add_argument(
        "--web-read-only", action="store_true", help="nothing can be changed in the browser"
    )


class Page:
    """The pages of a server, from `bind` to `close`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._asked: str | None = options.web
        self._wanted = not options.no_web
        self._socket: socket.socket | None = None
        self._problem = ""
        self._host = ""
        self._thread: Thread | None = None
        self._runner: Runner | None = None
        self._stopped = False

    def bind(self) -> None:
        """Bind the port; UsageError or OSError if it was asked for and cannot be."""
        from ...server.listener import bind, is_loopback, parse_bind  # which need the core

        if not self._wanted:
            return
        try:
            self._host, port = parse_bind(_DEFAULT if self._asked is None else self._asked)
        except ValueError:
            raise UsageError(
                f"--web is {self._asked!r}: write host:port, for example {_DEFAULT}."
            ) from None
        if not (self._options.password or self._options.insecure or is_loopback(self._host)):
            raise UsageError(
                f"--web is {self._asked!r}: other machines could see and change all jobs without "
                "a password. Set one with --password or FAKTORY_PASSWORD, or accept that with "
                "--insecure."
            )
        if not all(map(find_spec, _NEEDED)):
            self._problem = _ABSENT
            return
        try:
            self._socket = bind(self._host, port)
        except OSError as error:
            reason = error.strerror or error
            if self._asked is not None:
                raise OSError(
                    f"--web is {self._asked!r}: {reason}. --web 127.0.0.1:0 takes a free port."
                ) from None
            self._problem = (
                f"No pages in a browser: {_DEFAULT} cannot be bound ({reason}). "
                "--web 127.0.0.1:0 takes a free port, --no-web none."
            )

    def start(self, server: EmbeddedServer, say: Say) -> None:
        """Serve the pages in a thread of its own; `say` is called with one line about them."""
        if self._problem:
            say(self._problem)
        elif self._socket is not None:
            self._thread = Thread(
                target=self._serve,
                args=(server, say, self._socket),
                name="faktory-web",
                daemon=True,
            )
            self._thread.start()

    def close(self) -> None:
        """End the pages with all their streams, and close the port."""
        self._stopped = True
        if self._runner is not None:
            self._runner.stop()
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT)
        elif self._socket is not None:
            self._socket.close()

    def _serve(self, server: EmbeddedServer, say: Say, sock: socket.socket) -> None:
        try:
            with sock:
                self._run(server, say, sock)
        except ImportError as error:
            say(f"{_ABSENT} ({error})")
        except Exception as error:
            say(f"The pages have ended: {type(error).__name__}: {error}")

    def _run(self, server: EmbeddedServer, say: Say, sock: socket.socket) -> None:
        from ...server.listener import reachable
        from ...server.web import application
        from ...server.web.run import Runner

        options = self._options
        host = reachable(self._host)
        app = application(server, read_only=options.web_read_only, hosts=[self._host])
        self._runner = runner = Runner(app, sock, options.tls_cert, options.tls_key)
        if self._stopped:
            runner.stop()
        scheme = "http" if options.tls_cert is None else "https"
        name = f"[{host}]" if ":" in host else host
        say(f"In a browser: {scheme}://{name}:{sock.getsockname()[1]}/")
        runner.run()
