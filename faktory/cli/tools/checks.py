"""What `doctor` looks at: this installation, the program, the way to the server, the server.

Rules: each check gives findings and raises nothing for a fault that it looks for; it changes
nothing. A finding that is not in order carries its remedy.
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
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from ...exceptions import FaktoryAuthenticationError, FaktoryError
from .. import conflict, loading
from ..exits import Exit
from . import output

if TYPE_CHECKING:
    from ...client import Client
    from ...wire.address import Address

Level = Literal["ok", "note", "warning", "error"]

MOST_SKEW = 5.0
"""Seconds: as often the server looks for scheduled jobs that are due (`manager/scheduler.go`)."""

TELL = 10
"""Names that a finding lists at most."""

SINCE = (
    ((1, 5, 0), "pausing of queues"),
    ((1, 6, 0), "bulk pushes (perform_bulk, push_bulk, Producer)"),
    ((1, 6, 1), "removing of queues"),
    ((1, 9, 2), "how long jobs wait"),
    ((1, 10, 0), "outliving a malformed command"),
)
"""What the server has since which version, by its own change log."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `code` is the exit code where it is an error."""

    level: Level
    check: str
    text: str
    remedy: str = ""
    code: Exit = Exit.DONE


def core() -> Finding:
    try:
        from ... import proto
    except ImportError as error:
        return failed("core", error, "Unset FAKTORY_IMPL.", Exit.USAGE)
    name, reason = proto.implementation, proto.implementation_info()["reason"]
    text = f"{name}: {reason}"
    if name == "cython":
        return Finding("ok", "core", text)
    if os.environ.get("FAKTORY_IMPL") == "python":
        return Finding("note", "core", text, "For the faster compiled core unset FAKTORY_IMPL.")
    return Finding(
        "warning",
        "core",
        f"{text}. Everything works, slower",
        "Install a wheel for this platform, or build with a C compiler and "
        "FAKTORY_REQUIRE_EXTENSIONS=1 to see what fails.",
    )


def packages() -> Finding:
    if (found := conflict.fault()) is not None:
        return Finding("error", "packages", found, conflict.REMEDY, Exit.FAILED)
    return Finding("ok", "packages", f"no package {conflict.OTHER!r} beside faktory-worker")


def program(modules: Sequence[str]) -> Iterator[Finding]:
    if not modules:
        return
    try:
        with redirect_stdout(sys.stderr):  # standard output is the tool's
            loading.load(modules)
    except loading.CannotImport as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        remedies = {
            Exit.MISSING: "Is it spelt right, and is this the folder that it is imported from?",
            Exit.IMPORT: "The message, and a traceback if there is one above, say where.",
        }
        yield Finding("error", "program", str(error), remedies[error.code], error.code)
        return
    declared = declared_queues()
    if not declared:
        yield Finding(
            "error",
            "program",
            "no job type is registered, so every job would fail",
            "Name the module that defines jobs: -r app.jobs",
            Exit.USAGE,
        )
        return
    names = sorted(set(declared.values()))
    flags = " ".join(f"-q {name}" for name in names)
    yield Finding("ok", "program", f"job types: {some(declared)}; a worker for all needs {flags}")


def declared_queues() -> dict[str, str]:
    """Return the queue that each registered job type goes to unless its push says otherwise."""
    from ...jobs import push, registry

    queues = {}
    for jobtype in registry.names():
        found: Any = registry.find(jobtype)
        # A class is registered through what runs it.
        declared = push.declared(found) or push.declared(getattr(found, "_class", None))
        if declared is not None:
            queues[jobtype] = declared._fields().get("queue", "default")
    return queues


def address(given: str | None) -> tuple[Address | None, Finding]:
    from ...wire.address import DEFAULT_URL, find_url, parse

    provider = os.environ.get("FAKTORY_PROVIDER", "")
    try:
        url = given or find_url(os.environ)
        address = parse(url)
    except ValueError as error:
        return None, failed("address", error, f"Write it like {DEFAULT_URL}.", Exit.USAGE)
    if not given and provider and not os.environ.get(provider):
        return address, Finding(
            "warning",
            "address",
            f"FAKTORY_PROVIDER names the variable {provider}, which is not set, so {address} is "
            "used instead",
            f"Set {provider} to the address, or unset FAKTORY_PROVIDER.",
        )
    source = "--url" if given else provider or "FAKTORY_URL"
    if not given and not provider and not os.environ.get("FAKTORY_URL"):
        source = "the default: FAKTORY_URL is not set"
    return address, Finding("ok", "address", f"{address} ({source})")


def reach(address: Address) -> tuple[Client | None, Finding]:
    from ...client import Client

    client = Client(address.url)
    started = time.monotonic()
    try:
        client.connect()
    except FaktoryAuthenticationError as error:
        return None, failed("password", error, "Ask whoever runs the server.", Exit.REFUSED)
    except FaktoryError as error:
        if address.tls and _is_untrusted(error.__cause__):
            remedy = "Name the file of whoever signed it by the variable SSL_CERT_FILE."
            return None, Finding("error", "tls", _split(error)[0], remedy, Exit.UNREACHABLE)
        remedy = "Is the address right, and may one get there from here?"
        return None, failed("server", error, remedy, Exit.UNREACHABLE)
    taken = time.monotonic() - started
    return client, Finding("ok", "server", f"{address.place} answers, after {taken * 1000:.0f} ms")


def _is_untrusted(cause: BaseException | None) -> bool:
    import ssl  # costly, and only of use here

    return isinstance(cause, ssl.SSLCertVerificationError)


def tls(address: Address) -> Finding:
    if not address.tls:
        if _is_here(address):
            return Finding("ok", "tls", "none, on this machine")
        return Finding(
            "note",
            "tls",
            f"none: whoever is on the way to {address.host} may read all jobs",
            "Where that is no private network: TLS before the server, and tcp+tls:// here.",
        )
    if os.environ.get("FAKTORY_DISABLE_HOSTNAME_VERIFICATION"):
        return Finding(
            "warning",
            "tls",
            f"FAKTORY_DISABLE_HOSTNAME_VERIFICATION is set, so whoever answers at "
            f"{address.place} is trusted",
            "Unset it, and name the certificate's authority by the variable SSL_CERT_FILE.",
        )
    return Finding("ok", "tls", "the certificate is valid and for this host")


def _is_here(address: Address) -> bool:
    return address.host in ("localhost", "::1") or address.host.startswith("127.")


def password(address: Address) -> Finding:
    if address.password is not None and _demands_password(address):
        return Finding("ok", "password", "asked for, and ours is right")
    if address.password is None and _is_here(address):
        return Finding("ok", "password", "none asked for, on this machine")
    text = f"{address.place} asks for none, so whoever reaches it may read and delete all jobs"
    if address.password is not None:
        text += ", though the address here has one"
    return Finding(
        "warning", "password", text, "Start the server with the variable FAKTORY_PASSWORD set."
    )


def _demands_password(address: Address) -> bool:
    """Tell whether the server turns us away without the password; else it asks for none."""
    from ...client import Client

    client = Client(address._replace(password=None).url)
    try:
        client.connect()
    except FaktoryAuthenticationError:
        return True
    client.close()
    return False


def version(info: Mapping[str, Any]) -> Finding:
    server = info.get("server", {})
    version = str(server.get("faktory_version", ""))
    text = f"{server.get('description', 'Faktory')} {version}"
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if not numbers:
        return Finding("note", "version", "the server does not say which version it is")
    lacks = [what for since, what in SINCE if numbers < since]
    if not lacks:
        return Finding("ok", "version", text)
    return Finding(
        "warning",
        "version",
        f"{text} is old; it lacks: {', '.join(lacks)}",
        "Upgrade the server to 1.10.0 or newer.",
    )


def clock(info: Mapping[str, Any], here: float) -> Finding:
    """Compare the server's clock with ours, as it was in the middle of asking."""
    there = None
    with suppress(KeyError, TypeError, ValueError):
        there = datetime.fromisoformat(info["now"]).timestamp()
    if there is None:
        return Finding("note", "clock", "the server does not say what time it has")
    skew = there - here
    if abs(skew) < MOST_SKEW:
        return Finding("ok", "clock", f"{abs(skew):.1f} s from the server's")
    way, effect = ("ahead of", "early") if skew > 0 else ("behind", "late")
    return Finding(
        "warning",
        "clock",
        f"the server's is {output.duration(abs(skew))} {way} this machine's: jobs pushed from here "
        f"for later (perform_in, perform_at) come that much too {effect}",
        "Let both machines keep their time by NTP; a container has its host's.",
    )


def some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - TELL:,} more" if len(listed) > TELL else ""
    return ", ".join(listed[:TELL]) + more


def failed(check: str, error: BaseException, remedy: str, code: Exit) -> Finding:
    """Make a finding of an error whose message may have the remedy in it."""
    fault, own = _split(error)
    return Finding("error", check, fault, own or remedy, code)


def _split(error: BaseException) -> tuple[str, str]:
    """Take a message apart: its first sentence is the fault, what follows teaches what to do."""
    fault, stop, rest = str(error).partition(". ")
    return fault + stop.rstrip(), rest
