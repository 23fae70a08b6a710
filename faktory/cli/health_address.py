"""The address of `--health`, as a worker listens on it and `faktory-worker health` asks it.

Rules: it imports nothing, since a probe must take no time.
"""

from __future__ import annotations

VARIABLE = "FAKTORY_WORKER_HEALTH"

LOOPBACK = "127.0.0.1"
"""Where a worker listens unless a host is named."""

_ANY = {"0.0.0.0": LOOPBACK, "::": "::1"}


def parse(text: str) -> tuple[str, int]:
    """Return host and port of "7431", ":7431", "host:7431" or "[::1]:7431".

    ValueError with the end of a sentence about the text.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("is not an address: a host with colons is in brackets, [::1]:7431")
    if any(each in host for each in "/[]@ "):
        raise ValueError("is not an address: 7431, host:7431 or [::1]:7431")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError("has no port from 0 to 65535: 7431, host:7431 or [::1]:7431")
    return host or LOOPBACK, int(port)


def asked_at(host: str) -> str:
    """Return where this machine reaches a worker that listens on a host."""
    return _ANY.get(host, host)
