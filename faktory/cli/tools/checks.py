"""The checks of `doctor`: the installation, the program, the connection, the server.

Rules: a check returns its result, and raises nothing for the problem that it looks for; it changes
nothing. A warning or an error has a remedy.
"""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...exceptions import FaktoryAuthenticationError, FaktoryError
from ...wire.validate import clip, show
from .. import conflict, hints, loading
from ..exits import Exit
from . import output

if TYPE_CHECKING:
    from ...client import Client
    from ...wire.address import Address

Level = Literal["ok", "note", "warning", "error"]

MAX_SKEW = 5.0
"""Seconds: the server's own interval for enqueueing scheduled jobs (`manager/scheduler.go`)."""

MAX_NAMES = 10
"""The most names that a result lists."""

FEATURES = (
    ((1, 5, 0), "pausing queues"),
    ((1, 6, 0), "bulk pushes (perform_bulk, push_bulk, Producer)"),
    ((1, 6, 1), "removing queues"),
    ((1, 9, 2), "how long jobs wait"),
    ((1, 10, 0), "surviving a malformed command"),
)
"""The server's features by the version that introduced them, from its change log."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check; `code` is the exit code of an error."""

    level: Level
    check: str
    text: str
    remedy: str = ""
    code: Exit = Exit.DONE


def core() -> Result:
    try:
        from ... import proto
    except ImportError as error:
        return error_result("core", error, "Unset FAKTORY_IMPL.", Exit.USAGE)
    name, reason = proto.implementation, proto.implementation_info()["reason"]
    text = f"{name}: {reason}"
    if name == "cython":
        return Result("ok", "core", text)
    if os.environ.get("FAKTORY_IMPL") == "python":
        return Result("note", "core", text, "For the faster compiled core unset FAKTORY_IMPL.")
    remedy = (
        "Install a wheel for this platform, or build with a C compiler and "
        "FAKTORY_REQUIRE_EXTENSIONS=1 to see the error."
    )
    folder = Path(proto.__file__).parent
    other = compiled_package(folder)
    if other is not None or Path(folder.parent, "setup.py").exists():
        text += f", in {folder}"
        remedy = f"This is a checkout: run make in {folder.parent}, which needs a C compiler."
    if other is not None:
        remedy = f"Start it in another folder: then {other} is imported, which has the core."
    return Result("warning", "core", f"{text}. Everything works, slower", remedy)


def compiled_package(imported: Path) -> Path | None:
    """Return the folder of another faktory on the path that has a compiled core, if any."""
    for place in sys.path:
        folder = Path(place or os.curdir, "faktory").resolve()
        if folder != imported.resolve() and PathFinder.find_spec("faktory._proto", [str(folder)]):
            return folder
    return None


def packages() -> Result:
    if (found := conflict.describe()) is not None:
        return Result("error", "packages", found, conflict.REMEDY, Exit.FAILED)
    return Result("ok", "packages", f"no package {conflict.OTHER!r} beside faktory-worker")


def program(modules: Sequence[str]) -> Iterator[Result]:
    if not modules:
        return
    try:
        with redirect_stdout(sys.stderr):  # standard output is the tool's
            loaded = loading.load(modules)
    except loading.CannotImport as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        remedies = {
            Exit.MISSING: "Is the name right, and is this the folder to import it from?",
            Exit.IMPORT: "See the message, and the traceback above if there is one.",
        }
        yield Result("error", "program", str(error), remedies[error.code], error.code)
        return
    declared = declared_queues()
    if not declared:
        yield Result("error", "program", *hints.no_jobs(loaded), Exit.USAGE)
        return
    queues = shorten(sorted(fetched_queues()))
    text = f"job types: {shorten(declared)}; a worker without -q fetches their queues: {queues}"
    yield Result("ok", "program", text)
    yield from periodic()


def periodic() -> Iterator[Result]:
    """Say how many schedules the program declares, and which tick comes next."""
    from ...jobs.ticks import schedules  # the core may be missing

    declared = schedules()
    if not declared:
        return
    now = datetime.now(UTC)
    ticks = [(next(each.ticks(now), None), each.name) for each in declared]
    ahead = [(tick.astimezone(UTC), tick, name) for tick, name in ticks if tick is not None]
    what = output.counted(len(declared), "schedule")
    if not ahead:
        yield Result("warning", "periodic", f"{what}, and none has a tick ahead", "Remove them.")
        return
    _, tick, name = min(ahead)
    yield Result("ok", "periodic", f"{what}; the next tick: {clip(name)} at {tick.isoformat()}")


def declared_queues() -> dict[str, str]:
    """Return the queue that each registered job type goes to unless its push says otherwise."""
    from ...jobs import registry

    return registry.queues()


def fetched_queues() -> set[str]:
    """Return the queues that a worker of the program fetches without -q."""
    from ...jobs import registry

    return registry.fetched_queues()


def address(given: str | None) -> tuple[Address | None, Result]:
    from ...client import settings
    from ...wire.address import DEFAULT_URL, parse

    provider = os.environ.get("FAKTORY_PROVIDER", "")
    try:
        url = given or settings.current.find_url()
        address = parse(url)
    except ValueError as error:
        return None, error_result("address", error, f"Write it like {DEFAULT_URL}.", Exit.USAGE)
    if settings.current.ssl_context is not None and not (given or address.tls):
        text = f"faktory.configure has an ssl_context, and {address} is an address without TLS"
        remedy = "Every client without an address fails by that: begin it with tcp+tls://."
        return None, Result("error", "address", text, remedy, Exit.USAGE)
    source = "--url" if given else provider or "FAKTORY_URL"
    if not given and settings.current.url:
        source = "faktory.configure"
    elif not given and not provider and not os.environ.get("FAKTORY_URL"):
        source = "the default: FAKTORY_URL is not set"
    return address, Result("ok", "address", f"{address} ({source})")


def reach(address: Address) -> tuple[Client | None, Result]:
    from ...client import Client

    client = Client(address.url)
    started = time.monotonic()
    try:
        client.connect()
    except FaktoryAuthenticationError as error:
        return None, error_result("password", error, "Ask the server's operator.", Exit.REFUSED)
    except FaktoryError as error:
        if address.tls and _is_untrusted(error.__cause__):
            remedy = "Set the variable SSL_CERT_FILE to the file of its authority's certificate."
            return None, Result("error", "tls", _split(error)[0], remedy, Exit.UNREACHABLE)
        remedy = "Is the address right, and can this machine reach it?"
        return None, error_result("server", error, remedy, Exit.UNREACHABLE)
    taken = time.monotonic() - started
    return client, Result("ok", "server", f"{address.place} answers after {taken * 1000:.0f} ms")


def _is_untrusted(cause: BaseException | None) -> bool:
    import ssl  # costly, and only needed here

    return isinstance(cause, ssl.SSLCertVerificationError)


def tls(address: Address) -> Result:
    if not address.tls:
        if _is_here(address):
            return Result("ok", "tls", "none, on this machine")
        return Result(
            "note",
            "tls",
            f"none: others on the network to {address.host} can read all jobs",
            "If the network is not private, use TLS on the server, and tcp+tls:// here.",
        )
    if os.environ.get("FAKTORY_DISABLE_HOSTNAME_VERIFICATION"):
        return Result(
            "warning",
            "tls",
            "FAKTORY_DISABLE_HOSTNAME_VERIFICATION is set, so any server that answers at "
            f"{address.place} is trusted",
            "Unset it, and set SSL_CERT_FILE to the certificate of the server's authority.",
        )
    return Result("ok", "tls", "the certificate is valid for this host")


def _is_here(address: Address) -> bool:
    return address.host in ("localhost", "::1") or address.host.startswith("127.")


def password(address: Address) -> Result:
    if address.password is not None and _requires_password(address):
        return Result("ok", "password", "required, and the one in the address is right")
    if address.password is None and _is_here(address):
        return Result("ok", "password", "none required, on this machine")
    text = f"{address.place} requires none, so anyone who reaches it can read and delete all jobs"
    if address.password is not None:
        text += ", though the address has one"
    return Result(
        "warning", "password", text, "Start the server with the variable FAKTORY_PASSWORD set."
    )


def _requires_password(address: Address) -> bool:
    """Return whether the server refuses a client without the password."""
    from ...client import Client

    client = Client(address._replace(password=None).url)
    try:
        client.connect()
    except FaktoryAuthenticationError:
        return True
    client.close()
    return False


def version(info: Mapping[str, Any]) -> Result:
    server = info.get("server")
    if not isinstance(server, dict):
        text = f"the server does not say which version it is: its server is {show(server)}"
        return Result("note", "version", text)
    version = clip(str(server.get("faktory_version", "")))
    text = f"{clip(str(server.get('description', 'Faktory')))} {version}"
    numbers = tuple(map(int, re.findall(r"[0-9]+", version)[:3]))
    if not numbers:
        return Result("note", "version", "the server does not say which version it is")
    lacks = [feature for since, feature in FEATURES if numbers < since]
    if not lacks:
        return Result("ok", "version", text)
    return Result(
        "warning",
        "version",
        f"{text} is old; it lacks: {', '.join(lacks)}",
        "Upgrade the server to 1.10.0 or newer.",
    )


def clock(info: Mapping[str, Any], here: float) -> Result:
    """Compare the server's clock with `here`, this machine's in the middle of the request."""
    there = None
    with suppress(KeyError, TypeError, ValueError, OverflowError, OSError):
        there = datetime.fromisoformat(info["now"]).timestamp()
    if there is None:
        return Result("note", "clock", "the server does not show its time")
    skew = there - here
    if abs(skew) < MAX_SKEW:
        return Result("ok", "clock", f"{abs(skew):.1f} s from the server's")
    direction, effect = ("ahead of", "early") if skew > 0 else ("behind", "late")
    return Result(
        "warning",
        "clock",
        f"the server's is {output.duration(abs(skew))} {direction} this machine's: jobs scheduled "
        f"here (perform_in, perform_at) run that much too {effect}",
        "Synchronize both machines by NTP; a container has the clock of its host.",
    )


def shorten(names: Iterable[str]) -> str:
    """Return the names in one line, the first MAX_NAMES of them."""
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMES:,} more" if len(listed) > MAX_NAMES else ""
    return ", ".join(listed[:MAX_NAMES]) + more


def error_result(check: str, error: BaseException, remedy: str, code: Exit) -> Result:
    """Make the result of an error; the remedy in its message, if any, replaces `remedy`."""
    text, own = _split(error)
    return Result("error", check, text, own or remedy, code)


def _split(error: BaseException) -> tuple[str, str]:
    """Split a message into its first sentence, which is the problem, and the rest: the remedy."""
    text, stop, rest = str(error).partition(". ")
    return text + stop.rstrip(), rest
