"""Batches of jobs, as Faktory Enterprise has them; an approximation.

A batch has two stages, complete and success, each with or without a callback job. A stage is
pending (""), its callback is enqueued ("1"), or it is done ("2"): the callback was acknowledged, or
there is none. Rules:

- Nothing happens before COMMIT. A batch that is not committed is forgotten 30 minutes after NEW, a
  committed one 30 days after its last COMMIT.
- Complete is due when each member has been executed once, successfully or not; success is due when
  each was acknowledged and complete is done.
- A stage waits until the same stage of all child batches is done. A child that is never committed
  therefore keeps its parent from ending.
- Each callback is enqueued at most once. Before the last one, any client may open the batch and add
  to it, committed or not (the documentation allows it to the batch's own jobs only, but the real
  server was seen to allow it to all). After that, nothing can be added.
- A member that expires counts as failed. A member that MUTATE or QUEUE REMOVE deletes stays
  pending.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import islice
from typing import Final

from ..errors import CommandError
from ..go import time as go_time
from ..go.time import SECOND
from ..job import StoredJob
from ..slices import Steps
from ..sorted_set import SortedSet
from .options import set_custom

UNCOMMITTED_FOR: Final = 30 * 60
"""Seconds that a batch has from NEW to COMMIT [wiki: Ent-Batches]."""

COMMITTED_FOR: Final = 30 * 86400
"""Seconds until a committed batch is forgotten."""

PENDING: Final = ""
ENQUEUED: Final = "1"
DONE: Final = "2"


class Stage:
    """Complete or success: its callback, its state, how many child batches it waits for."""

    __slots__ = ("callback", "children", "state")

    def __init__(self, callback: StoredJob | None) -> None:
        self.callback = callback
        self.state = PENDING
        self.children = 0

    def status(self) -> str:
        """Return the state as STATUS shows it: only a callback has one."""
        return self.state if self.callback is not None else PENDING


class StoredBatch:
    """One batch; `members` are the jids not yet acknowledged, with whether each has failed."""

    __slots__ = (
        "bid",
        "committed",
        "created_at",
        "description",
        "failed",
        "members",
        "parent_bid",
        "stages",
        "total",
    )

    def __init__(self, parent_bid: str, description: str, stages: list[Stage], now: int) -> None:
        self.bid = f"b-{secrets.token_hex(8)}"
        self.parent_bid = parent_bid
        self.description = description
        self.stages = stages
        """Complete, then success."""
        self.created_at = now
        self.committed = False
        self.total = 0
        self.failed = 0
        self.members: dict[str, bool] = {}

    def is_closed(self) -> bool:
        """Return whether the last callback has been enqueued."""
        last = [stage for stage in self.stages if stage.callback is not None][-1]
        return last.state != PENDING

    def must_wait(self, stage: Stage) -> bool:
        """Return whether a stage has to wait for members or child batches."""
        pending = len(self.members)
        if stage is self.stages[0]:
            pending -= self.failed
        return pending > 0 or stage.children > 0


class Batches:
    """All batches by bid; `push` enqueues a callback."""

    def __init__(self, push: Callable[[StoredJob], None]) -> None:
        self._push = push
        self.table: SortedSet[StoredBatch] = SortedSet()

    def new(
        self,
        parent_bid: str,
        description: str,
        complete: StoredJob | None,
        success: StoredJob | None,
        now: int,
    ) -> str:
        """Begin a batch with at least one callback; return its bid."""
        parent = self.require_open(parent_bid) if parent_bid else None
        batch = StoredBatch(parent_bid, description, [Stage(complete), Stage(success)], now)
        for name, callback in (("complete", complete), ("success", success)):
            if callback is not None:
                options = {"_bid": batch.bid, "_cb": name, "_pbid": parent_bid or None, "bid": None}
                set_custom(callback, options)
        if parent is not None:
            for stage in parent.stages:
                stage.children += 1
        self.table.add(now + UNCOMMITTED_FOR * SECOND, batch.bid.encode(), batch)
        return batch.bid

    def find(self, bid: str) -> StoredBatch:
        """Return a batch; CommandError if there is none with this bid."""
        batch = self.table.get(bid.encode())
        if batch is None:
            raise CommandError(f"No such batch {bid}")
        return batch

    def require_open(self, bid: str) -> StoredBatch:
        """Return a batch that jobs and child batches can be added to."""
        batch = self.find(bid)
        if batch.is_closed():
            raise CommandError(f"Batch {bid} has enqueued its last callback: nothing can be added")
        return batch

    def commit(self, bid: str, now: int) -> None:
        """Enqueue each callback from now on when it is due."""
        batch = self.find(bid)
        batch.committed = True
        self.table.add(now + COMMITTED_FOR * SECOND, bid.encode(), batch)
        self._advance(batch)

    def status(self, bid: str) -> dict[str, object]:
        """Return the reply to STATUS, without empty options."""
        batch = self.find(bid)
        complete, success = batch.stages
        status: dict[str, object] = {
            "bid": bid,
            "created_at": go_time.write(batch.created_at),
            "total": batch.total,
            "pending": len(batch.members),
            "failed": batch.failed,
            "complete_st": complete.status(),
            "success_st": success.status(),
        }
        if batch.parent_bid:
            status["parent_bid"] = batch.parent_bid
        if batch.description:
            status["description"] = batch.description
        return status

    # Called when something happens to a job. The batch may be forgotten by then.

    def add_member(self, batch: StoredBatch, jid: str) -> None:
        """Add a job that was pushed; one that is pushed twice counts once."""
        if jid not in batch.members:
            batch.members[jid] = False
            batch.total += 1

    def on_success(self, bid: str, jid: str) -> None:
        """Count a member as acknowledged."""
        batch = self.table.get(bid.encode())
        if batch is not None and jid in batch.members:
            batch.failed -= batch.members.pop(jid)
            self._advance(batch)

    def on_failure(self, bid: str, jid: str) -> None:
        """Count a member as failed or expired."""
        batch = self.table.get(bid.encode())
        if batch is not None and batch.members.get(jid) is False:
            batch.members[jid] = True
            batch.failed += 1
            self._advance(batch)

    def on_callback(self, bid: str, jid: str) -> None:
        """End the stage whose callback was acknowledged."""
        batch = self.table.get(bid.encode())
        if batch is None:
            return
        for stage in batch.stages:
            callback = stage.callback
            if stage.state == ENQUEUED and callback is not None and callback.jid == jid:
                parent = self._finish(batch, stage)
                self._advance(batch)
                self._advance(parent)
                return

    def _advance(self, batch: StoredBatch | None) -> None:
        """Advance the stages of a batch that need not wait, and those of its parents."""
        while batch is not None and batch.committed:
            parent = None
            for stage in batch.stages:
                if stage.state == PENDING and not batch.must_wait(stage):
                    if stage.callback is None:
                        parent = self._finish(batch, stage)
                    else:
                        stage.state = ENQUEUED
                        self._push(stage.callback)
                if stage.state != DONE:
                    break
            batch = parent

    def _finish(self, batch: StoredBatch, stage: Stage) -> StoredBatch | None:
        """End a stage; return the parent, which waits for one child less."""
        stage.state = DONE
        parent = self.table.get(batch.parent_bid.encode())
        if parent is not None:
            parent.stages[batch.stages.index(stage)].children -= 1
        return parent

    # Time.

    def first(self) -> int | None:
        """Return when `sweep` will next have something to do."""
        return self.table.first()

    def sweep(self, now: int, limit: int | None = None) -> None:
        """Forget the batches whose time is over, at most `limit`."""
        for _ in islice(self.table.pop_until(now), limit):
            pass

    def clear(self) -> Steps[None]:
        """Forget all."""
        return self.table.clear()
