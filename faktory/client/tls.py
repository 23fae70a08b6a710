"""TLS of a connection, and why a certificate is not trusted.

Rules: `ssl` is imported here and nowhere else, and only for addresses with TLS, since that takes
long. A certificate is verified unless the program, or the variable of the Ruby client, says not to.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final

from ..exceptions import FaktoryConnectionError, FaktoryHandshakeError
from ..wire.address import Address, switched_on
from ..wire.log import Log

_HOSTNAME_MISMATCH: Final = (62, 64)
"""OpenSSL's codes for a certificate of another host name, or address (X509_V_ERR_*_MISMATCH)."""

_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10

_TIME: Final = re.compile(rb"\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z")
"""A point in time in a certificate (RFC 5280, 4.1.2.5): the first two are its validity."""

_log = Log(logging.getLogger("faktory.connection"))


def secure(
    sock: socket.socket,
    address: Address,
    context: ssl.SSLContext | None,
    deadline: float,
    begun: Callable[[socket.socket], object],
) -> ssl.SSLSocket:
    """Begin TLS on a socket until then (`time.monotonic`).

    `begun` is called, before anything is sent, with the socket that takes the place of the other
    one; it may raise. FaktoryConnectionError, with the remedy, where the certificate is not
    trusted; FaktoryHandshakeError where the peer does not speak TLS; OSError as of any socket. The
    sockets are closed then.
    """
    peer = None
    present = sock
    try:
        peer = sock.getpeername()
        present = secured = (context or make_context(address)).wrap_socket(
            sock, server_hostname=address.host, do_handshake_on_connect=False
        )
        begun(secured)
        secured.do_handshake()
        return secured
    except BaseException as error:
        present.close()
        if not isinstance(error, (ssl.SSLError, ConnectionResetError)):
            raise
        raise explain(error, address, sock.family, peer, deadline) from error


def explain(
    error: ssl.SSLError | ConnectionResetError,
    address: Address,
    family: int,
    peer: Any,
    deadline: float,
) -> FaktoryConnectionError:
    """Return the error, with the remedy, of a handshake that failed.

    Where the certificate has expired this connects once more, to read it, until `deadline`.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _why_not_trusted(error, family, peer, address.host, deadline)
        return FaktoryConnectionError(
            f"the certificate of {address.place} cannot be trusted: {reason}"
        )
    return FaktoryHandshakeError(
        f"no TLS with {address.place} ({error}). Does the server use TLS? "
        "If not, the address begins with tcp:// instead of tcp+tls://."
    )


def make_context(address: Address) -> ssl.SSLContext:
    """Return the context of a client that was given none."""
    context = ssl.create_default_context()
    if switched_on(os.environ.get("FAKTORY_DISABLE_HOSTNAME_VERIFICATION")):
        _log.warning(
            "FAKTORY_DISABLE_HOSTNAME_VERIFICATION is set: any server at %s is trusted, "
            "and may read all that is sent. A private certificate needs ssl_context= instead.",
            address.place,
        )
        _trust_all(context)
    return context


def _trust_all(context: ssl.SSLContext) -> None:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE


def _why_not_trusted(
    error: ssl.SSLCertVerificationError, family: int, peer: Any, host: str, deadline: float
) -> str:
    reason = error.verify_message.rstrip(".")
    if error.verify_code in _HOSTNAME_MISMATCH:
        return f"{reason}. The address must name the host as the certificate does."
    if error.verify_code not in (_EXPIRED, _NOT_YET_VALID):
        return (
            f"{reason}. For a private one pass ssl_context=ssl.create_default_context(cafile=...)."
        )
    expired = error.verify_code == _EXPIRED
    validity: list[datetime] = []
    with suppress(OSError, ValueError):
        validity = _validity(family, peer, host, deadline)
    when = ""
    if len(validity) == 2:
        now = datetime.now(UTC)
        if expired and validity[1] < now:
            when = f"it expired on {validity[1]:%Y-%m-%d at %H:%M} UTC"
        elif not expired and validity[0] > now:
            when = f"it is not valid before {validity[0]:%Y-%m-%d at %H:%M} UTC"
    return (
        f"{when or reason + ' (it, or that of its issuer)'}. "
        f"{'The server needs a new one. ' if expired else ''}Is this machine's clock right?"
    )


def _validity(family: int, peer: Any, host: str, deadline: float) -> list[datetime]:
    """Connect once more, without trust and without sending anything, to read the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _trust_all(context)
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(max(deadline - monotonic(), 0.001))
        sock.connect(peer)
        with context.wrap_socket(sock, server_hostname=host) as secured:
            certificate = secured.getpeercert(binary_form=True) or b""
    times = [short or long for short, long in _TIME.findall(certificate)[:2]]
    return [
        # A year of two digits is 1950 to 2049.
        datetime.strptime(
            (("20" if time < b"5" else "19") if len(time) == 12 else "") + time.decode(),
            "%Y%m%d%H%M%S",
        ).replace(tzinfo=UTC)
        for time in times
    ]
