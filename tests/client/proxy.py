"""A proxy with one fault: it cuts, stalls, splits or corrupts a connection at a planned byte.

Rules: a fault belongs to one connection and happens once. Bytes are counted from the moment that it
is planned, separately in each direction. Everything before it is forwarded as it comes.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Literal, NamedTuple

GAP = 0.0003
"""Seconds between the two pieces of split data, so that they are received apart."""

Way = Literal["request", "reply"]


class Fault(NamedTuple):
    """What happens in one direction of a connection after `offset` bytes.

    cut      both ends see the connection closed
    reset    the client gets an error instead
    stall    nothing more is forwarded, in either direction, until the client sends something new:
             then all that was held back arrives, as from a slow network
    split    a short pause
    corrupt  the next byte becomes `byte`
    """

    kind: Literal["cut", "reset", "stall", "split", "corrupt"]
    way: Way
    offset: int
    byte: int = 0


class Link:
    """One connection through the proxy, and the fault that is planned for it, if any."""

    def __init__(self, client: socket.socket, server: socket.socket, fault: Fault | None) -> None:
        self.ends: dict[Way, tuple[socket.socket, socket.socket]] = {
            "request": (client, server),
            "reply": (server, client),
        }
        self.moved: dict[Way, bytes] = {"request": b"", "reply": b""}
        self.fault = fault
        self.held: dict[Way, bytes] | None = None

    def close(self, reset: bool = False) -> None:
        client, server = self.ends["request"]
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        client.close()


class Proxy:
    """Forwards 127.0.0.1:`port` to a server's port."""

    def __init__(self, server_port: int) -> None:
        self.opened = 0
        """How many connections there have been."""
        self.happened = Event()
        """Set once the fault that was planned last has happened."""
        self._server_port = server_port
        self._link: Link | None = None
        self._next: Fault | None = None
        self._make: Callable[[], Fault | None] = lambda: None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()

    def plan(self, fault: Fault | None) -> None:
        """Plan a fault for the connection that was opened last, which must be idle."""
        assert self._link is not None
        self.happened.clear()
        self._link.moved = {"request": b"", "reply": b""}
        self._link.fault = fault

    def plan_next(self, fault: Fault | None) -> None:
        """Plan a fault for the connection that will be opened next."""
        self.happened.clear()
        self._next = fault

    def plan_each(self, make: Callable[[], Fault | None]) -> None:
        """Plan a fault for each connection from now on: what `make` returns, in another thread."""
        self._make = make

    @property
    def moved(self) -> dict[Way, bytes]:
        """What came through the connection that was opened last, since a fault was planned."""
        assert self._link is not None
        return self._link.moved

    def stop(self) -> None:
        self._wake.close()
        self._thread.join()

    def _run(self) -> None:
        with self._listener, self._woken, self._selector:
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(self._woken, selectors.EVENT_READ)
            links: list[Link] = []
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is self._woken:
                        for link in links:
                            link.close()
                        return
                    if key.fileobj is self._listener:
                        links.append(self._accept())
                    else:
                        link, way = key.data
                        # Its other direction may have closed it in this same round.
                        if link in links and not self._forward(link, way):
                            links.remove(link)

    def _accept(self) -> Link:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._server_port))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._link = link = Link(client, server, self._next or self._make())
        self._next = None
        self.opened += 1
        for way, (source, _target) in link.ends.items():
            self._selector.register(source, selectors.EVENT_READ, (link, way))
        return link

    def _forward(self, link: Link, way: Way) -> bool:
        """Forward received data; return False if the connection is closed now."""
        source, target = link.ends[way]
        data = b""
        with suppress(ConnectionError):
            data = source.recv(65536)
        try:
            if not data:
                return self._close(link)
            if link.held is not None:
                return self._hold(link, way, data)
            before = len(link.moved[way])
            link.moved[way] += data
            fault = link.fault
            offset = fault.offset - before if fault is not None and fault.way == way else -1
            last = len(data) - (fault is not None and fault.kind == "corrupt")
            if fault is None or not 0 <= offset <= last:
                target.sendall(data)
                return True
            return self._cause(link, fault, data[:offset], data[offset:])
        except ConnectionError:  # the other end has just closed
            return self._close(link)

    def _cause(self, link: Link, fault: Fault, before: bytes, after: bytes) -> bool:
        link.fault = None
        target = link.ends[fault.way][1]
        if fault.kind == "corrupt":
            target.sendall(before + bytes([fault.byte]) + after[1:])
        else:
            target.sendall(before)
        if fault.kind in ("cut", "reset"):
            self._close(link, reset=fault.kind == "reset")
        elif fault.kind == "stall":
            link.held = {"request": b"", "reply": b""}
            link.held[fault.way] = after
        elif fault.kind == "split":
            time.sleep(GAP)
            target.sendall(after)
        self.happened.set()
        return fault.kind not in ("cut", "reset")

    def _hold(self, link: Link, way: Way, data: bytes) -> bool:
        assert link.held is not None
        link.held[way] += data
        if way == "request":
            held, link.held = link.held, None
            for name, late in held.items():
                link.ends[name][1].sendall(late)
        return True

    def _close(self, link: Link, reset: bool = False) -> bool:
        for source, _ in link.ends.values():
            self._selector.unregister(source)
        link.close(reset)
        return False
