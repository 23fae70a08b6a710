"""What the tests of data files share: all that a store has as plain values, copies of files."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from faktory.server.enterprise.store import EnterpriseStore
from faktory.server.store import Store


def contents(store: Store) -> dict[str, Any]:
    """Return all that a store has; of reservations those that a job belongs to."""
    found: dict[str, Any] = {
        "queues": {name: [job.payload for job in jobs] for name, jobs in store.queues.items()},
        "paused": sorted(store.paused),
        "working": [
            (at, each.job.payload, each.wid, each.reserved_at) for at, _, each in store.working
        ],
        "found by jid": {
            jid: each.job.payload
            for jid, each in store.reservations.items()
            if store.working.get(each.member) is not None
        },
        "counts": (store.processed, store.failures, store.expired, store.enqueued),
    }
    found["working"].sort()
    found["days"] = {day: counts for day, counts in store.series.days.items() if any(counts)}
    everywhere = [each.job for _, _, each in store.working]
    for queue in store.queues.values():
        everywhere += queue
    for name in ("scheduled", "retries", "dead"):
        jobs = getattr(store, name)
        everywhere += [job for _, _, job in jobs]
        found[name] = [(at, payload, job.render()) for at, payload, job in jobs]
    found["runs"] = sorted(
        (job.jid, job.runs.dropped, job.runs.kept) for job in everywhere if job.runs is not None
    )
    if isinstance(store, EnterpriseStore):
        found["batches"] = [(at, bid, _batch(batch)) for at, bid, batch in store.batches.table]
        found["locks"] = list(store.locks._held)
        found["tracks"] = [
            (at, jid, track.state, track.percent, track.desc, track.updated_at)
            for at, jid, track in store.tracks._known
        ]
    return found


def _batch(batch: Any) -> dict[str, Any]:
    fields = {name: getattr(batch, name) for name in batch.__slots__}
    fields["stages"] = [
        (stage.callback and stage.callback.jid, stage.state, stage.children)
        for stage in batch.stages
    ]
    return fields


def copy(path: Path, to: Path) -> Path:
    """Copy a data file as it is at this moment, as a crash would leave it."""
    for ending in ("", "-wal"):
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{path}{ending}", f"{to}{ending}")
    return to
