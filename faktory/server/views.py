"""What an embedded server has, as copies: oldest or soonest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ..proto import load_json
from .go import time as go_time
from .job import StoredJob
from .state import ServerState
from .store import Store

T = TypeVar("T")


class Views:
    """The properties of EmbeddedServer that show its jobs, workers and commands."""

    def _call(self, function: Callable[[ServerState], T]) -> T:
        raise NotImplementedError

    @property
    def commands(self) -> list[tuple[str, str]]:
        """What clients sent, oldest first, as verb and the text after it; the last 16 MiB."""
        lines = self._call(lambda state: list(state.log.entries))
        return [
            (verb.decode(errors="replace"), line[len(verb) + 1 :].decode(errors="replace"))
            for verb, line in lines
        ]

    def clear_commands(self) -> None:
        """Forget what clients sent."""
        self._call(lambda state: state.log.clear())

    @property
    def queues(self) -> dict[str, list[dict[str, Any]]]:
        """The jobs of each queue."""

        def copy(state: ServerState) -> dict[str, list[bytes]]:
            return {
                name: [job.payload for job in jobs] for name, jobs in state.store.queues.items()
            }

        payloads = self._call(copy)
        return {name: [load_json(payload) for payload in jobs] for name, jobs in payloads.items()}

    @property
    def scheduled(self) -> list[dict[str, Any]]:
        """Jobs whose time has not come."""
        return self._members(lambda store: store.scheduled)

    @property
    def retries(self) -> list[dict[str, Any]]:
        """Jobs that failed and will be tried again."""
        return self._members(lambda store: store.retries)

    @property
    def dead(self) -> list[dict[str, Any]]:
        """Jobs that failed too often."""
        return self._members(lambda store: store.dead)

    @property
    def working(self) -> list[dict[str, Any]]:
        """Jobs that workers have: `job`, `wid`, `reserved_at`, `expires_at`."""

        def copy(state: ServerState) -> list[tuple[bytes, str, int, int]]:
            return [
                (each.job.payload, each.wid, each.reserved_at, each.expires_at)
                for _, _, each in state.store.working
            ]

        return [
            {
                "job": load_json(payload),
                "wid": wid,
                "reserved_at": go_time.write(reserved_at),
                "expires_at": go_time.write(expires_at),
            }
            for payload, wid, reserved_at, expires_at in self._call(copy)
        ]

    @property
    def workers(self) -> list[dict[str, Any]]:
        """Workers: `wid`, `hostname`, `pid`, `labels`, `rss_kb`, `state`, `connections`."""
        return self._call(
            lambda state: [
                {
                    "wid": worker.wid,
                    "hostname": worker.hostname,
                    "pid": worker.pid,
                    "labels": list(worker.labels),
                    "rss_kb": worker.rss_kb,
                    "state": worker.state or "running",
                    "connections": len(worker.peers),
                }
                for worker in state.workers.table.values()
            ]
        )

    @property
    def sizes(self) -> dict[str, int]:
        """How many jobs are `queued`, `scheduled`, `retries`, `dead` and `working`."""

        def count(state: ServerState) -> dict[str, int]:
            store = state.store
            return {
                "queued": sum(map(len, store.queues.values())),
                "scheduled": len(store.scheduled),
                "retries": len(store.retries),
                "dead": len(store.dead),
                "working": len(store.working),
            }

        return self._call(count)

    @property
    def processed(self) -> int:
        """How many jobs ended, in success or failure, as INFO counts them."""
        return self._call(lambda state: state.store.processed)

    @property
    def failures(self) -> int:
        """How many times jobs failed."""
        return self._call(lambda state: state.store.failures)

    def _members(
        self, jobs: Callable[[Store], Iterable[tuple[int, bytes, StoredJob]]]
    ) -> list[dict[str, Any]]:
        payloads = self._call(lambda state: [payload for _, payload, _ in jobs(state.store)])
        return [load_json(payload) for payload in payloads]
