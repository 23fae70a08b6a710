"""A network between namespaces: a thread that carries packets, and loses those that a test names.

Each end is a TUN device inside a namespace, so this needs neither `tc netem` nor a packet filter,
which many kernels lack. Rules: a lost packet leaves no trace, as in a real network: nobody gets an
ICMP message or a reset. Both directions have the same faults. The faults are plain attributes,
which a test sets while packets flow.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import selectors
import struct
import subprocess
from contextlib import suppress
from itertools import count
from socket import inet_aton
from threading import Thread
from time import monotonic

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
TCP, SYN, ACK = 6, 0x02, 0x10

BUFFER = 2.5
"""Seconds of packets that the buffer of a slow network holds; more are dropped."""

_numbers = count()


class Network(Thread):
    """Carries IPv4 packets between namespaces, each of which has the given address.

    `hole`     all packets are lost
    `loss`     this share of them is
    `delay`    seconds for each packet, one way
    `rate`     bits a second, in each direction
    `forgets`  as a NAT or load balancer: a TCP connection without a packet for this many seconds is
               forgotten, and its packets are lost from then on
    `routes`   address -> the namespace that has it; None loses the packets to it and from it
    """

    def __init__(self, ends: dict[str, str], seed: int) -> None:
        super().__init__(name="network", daemon=True)
        self.hole = False
        self.loss = 0.0
        self.delay = 0.0
        self.rate: float | None = None
        self.forgets: float | None = None
        self.routes: dict[str, str | None] = {address: name for name, address in ends.items()}
        self.lost = 0
        self._random = random.Random(seed)
        self._flows: dict[bytes, float] = {}
        self._free_at: dict[str, float] = {}
        self._due: list[tuple[float, int, str, bytes]] = []
        self._order = count()
        self._stopped = False
        self._ends: dict[str, int] = {}
        for name, address in ends.items():
            self._ends[name] = _attach(name, address)

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for name, end in self._ends.items():
                selector.register(end, selectors.EVENT_READ, name)
            while not self._stopped:
                pause = self._due[0][0] - monotonic() if self._due else 0.1
                for key, _ in selector.select(max(0.0, min(pause, 0.1))):
                    with suppress(BlockingIOError):
                        while True:
                            self._take(key.data, os.read(key.fd, 4096))
                self._deliver()

    def stop(self) -> None:
        self._stopped = True
        if self.is_alive():
            self.join()
        for end in self._ends.values():
            os.close(end)

    def _take(self, came_from: str, packet: bytes) -> None:
        """Lose a packet, or set the time when it arrives."""
        if packet[0] >> 4 != 4:
            return  # the kernel's own IPv6 messages
        routes = {inet_aton(address): name for address, name in self.routes.items()}
        to = routes.get(packet[16:20])
        now = monotonic()
        if (
            self.hole
            or to is None
            or routes.get(packet[12:16]) != came_from
            or (self.forgets is not None and self._is_forgotten(packet, now))
            or (self.loss and self._random.random() < self.loss)
        ):
            self.lost += 1
            return
        due = now
        if self.rate is not None:
            due = max(now, self._free_at.get(to, 0.0))
            if due - now > BUFFER:
                self.lost += 1
                return
            due += len(packet) * 8 / self.rate
            self._free_at[to] = due
        heapq.heappush(self._due, (due + self.delay, next(self._order), to, packet))

    def _is_forgotten(self, packet: bytes, now: float) -> bool:
        if packet[9] != TCP:
            return False
        header = (packet[0] & 15) * 4
        ports = packet[header : header + 4]
        ends = sorted((packet[12:16] + ports[:2], packet[16:20] + ports[2:]))
        flow = b"".join(ends)
        is_new = packet[header + 13] & (SYN | ACK) == SYN
        assert self.forgets is not None
        if not is_new and now - self._flows.get(flow, -1e9) > self.forgets:
            return True
        self._flows[flow] = now
        return False

    def _deliver(self) -> None:
        while self._due and self._due[0][0] <= monotonic():
            _, _, to, packet = heapq.heappop(self._due)
            with suppress(OSError):  # the device is full, or its namespace is gone
                os.write(self._ends[to], packet)


def _attach(namespace: str, address: str) -> int:
    """Create a TUN device, move it into a namespace, and return the end of it that stays here."""
    name = f"fk{os.getpid()}n{next(_numbers)}"
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
        run("ip", "link", "set", name, "netns", namespace)
        inside = ("ip", "-n", namespace)
        run(*inside, "address", "add", f"{address}/24", "dev", name)
        run(*inside, "link", "set", name, "up")
        run(*inside, "link", "set", "lo", "up")
    except BaseException:
        os.close(end)
        raise
    return end


def run(*command: str) -> None:
    """Run a command; raise OSError with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
