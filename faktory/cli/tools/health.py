"""`faktory-worker health`: ask a worker's probe, for a probe that is a command.

Rules: it takes little more time than Python itself, so it imports neither the core nor `http`, and
nothing of the program's. It ends with 0 or 1, and prints why.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from json import loads
from time import monotonic

from .. import health_address
from ..names import TOOLS
from ..parser import Parser, examples

ABOUT = (
    "For the exec probes of a container. It exits with 0 if the worker says so, else with 1, also "
    "where nothing answers; and prints the reason."
)
USES = (
    ("--url http://127.0.0.1:7431", "whether the worker of --health 7431 is ready"),
    ("--live", "whether the one of FAKTORY_WORKER_HEALTH is alive"),
)
"""Its arguments in examples, each with what that does."""
MAX_ANSWER = 65536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this tool takes."""
    parser.add_argument(
        "--url",
        help="what to ask: http://127.0.0.1:7431, or with a path of your own (default: the address "
        f"in the variable {health_address.VARIABLE})",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="ask whether its threads go on (/livez) instead of whether it fetches (/readyz)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=5.0,
        help="for the whole answer (default: 5)",
    )


def main(argv: Sequence[str], prog: str) -> int:
    """Run the tool alone, without the other ones; return its exit code."""
    name = f"{prog} health"
    parser = Parser(
        prog=name,
        description=f"{TOOLS['health'].capitalize()}. {ABOUT}",
        epilog=examples((f"{name} {use}", text) for use, text in USES),
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(options: argparse.Namespace) -> int:
    """Ask, print the reason, and return 0 or 1."""
    path = "/livez" if options.live else "/readyz"
    try:
        host, port, path = _find(options.url, path)
        if not port:
            raise ValueError(
                "port 0 is any free one: pass --url with the port that the worker's log names"
            )
        if not options.timeout > 0:
            raise ValueError(f"--timeout is {options.timeout:g}: seconds above 0")
        status, body = _ask(host, port, path, options.timeout)
    except (OSError, ValueError) as error:
        return _show(f"{error}", 1)
    return _show(_reason(status, body), 0 if status == 200 else 1)


def _show(text: str, code: int) -> int:
    with suppress(OSError):  # nobody reads it
        print(text.encode("ascii", "backslashreplace").decode(), flush=True)
    return code


def _find(url: str | None, path: str) -> tuple[str, int, str]:
    """Return host, port and path of what to ask."""
    if url is None:
        name = health_address.VARIABLE
        if not (text := os.environ.get(name)):
            raise ValueError(f"--url or the variable {name} must say where the worker listens")
        host, port = _parse(text, f"{name}={text}")
        return health_address.asked_at(host), port, path
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() != "http":
        raise ValueError(f"--url {url} is not an URL like http://127.0.0.1:7431/readyz")
    place, slash, own = rest.partition("/")
    host, port = _parse(place if place.rpartition(":")[2].isdigit() else f"{place}:80", url)
    return host, port, f"/{own}" if slash and own else path


def _parse(text: str, about: str) -> tuple[str, int]:
    try:
        return health_address.parse(text)
    except ValueError as error:
        raise ValueError(f"{about} {error}") from None


def _ask(host: str, port: int, path: str, timeout: float) -> tuple[int, bytes]:
    """Return the status and the body of what is there."""
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
    deadline = monotonic() + timeout
    received = b""
    try:
        with socket.create_connection((host, port), timeout) as sock:
            request = f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n"
            sock.sendall(request.encode("ascii", "replace"))
            while len(received) <= MAX_ANSWER:
                sock.settimeout(max(0.001, deadline - monotonic()))
                if not (data := sock.recv(MAX_ANSWER)):
                    break
                received += data
    except TimeoutError:
        raise OSError(f"{place}: no answer within {timeout:g} s") from None
    except OSError as error:
        raise OSError(f"{place}: {error.strerror or error}") from None
    head, _, body = received.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError(f"{place} does not answer by HTTP: {received[:60]!r}")
    return int(words[1]), body


def _reason(status: int, body: bytes) -> str:
    try:
        found = loads(body)
        return ": ".join([found["reason"], *([found["text"]] if "text" in found else ())])
    except (ValueError, TypeError, KeyError, RecursionError):
        return f"HTTP {status}"
