"""The async client of the running loop, through which `aperform` and its like push.

`LoopClients` is the same for another server.

Rules: each loop has one, made with its first push, of the settings of that moment. It closes with
its loop: an asynchronous generator ends where `asyncio.run`, and every other runner, shuts down
those that are left. A change of the settings replaces it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

from ..client import fork, network, settings
from .client import AsyncClient


class _Default(NamedTuple):
    client: AsyncClient
    made_of: settings.Settings
    end: AsyncGenerator[None, None]


class LoopClients:
    """A client of each event loop; `make` makes one, of the settings of that moment."""

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self._make = make
        self._of_loops: dict[asyncio.AbstractEventLoop, _Default] = {}
        fork.register(self)

    async def client(self) -> AsyncClient:
        """Return the client of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._of_loops.get(loop)
        if found is not None and found.made_of is settings.current:
            return found.client
        client = self._make()
        if network.current.in_process:  # a test mode leaves nothing behind
            return client
        for each in list(self._of_loops):
            if each.is_closed():
                self._of_loops.pop(each, None)
        end = self._until_the_loop_ends(loop, client)
        self._of_loops[loop] = _Default(client, client._settings, end)
        await anext(end)
        if found is not None:
            await found.end.aclose()
        return client

    async def _until_the_loop_ends(
        self, loop: asyncio.AbstractEventLoop, client: AsyncClient
    ) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            found = self._of_loops.get(loop)
            if found is not None and found.client is client:
                del self._of_loops[loop]
            await client.aclose()

    def reset_after_fork(self) -> None:
        """Leave the loops to the parent, in a forked child."""
        _of_parents.append(self._of_loops)
        self._of_loops = {}


_of_parents: list[object] = []

default_client = LoopClients(AsyncClient).client
"""Return the client that this process pushes through on the running loop."""
