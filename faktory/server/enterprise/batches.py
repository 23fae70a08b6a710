"""Batches of jobs, as Faktory Enterprise has them; an approximation.

A batch has two stages, complete and success, each with a callback job or without. A stage is
pending (""), its callback is enqueued ("1"), or it is done ("2"): the callback was acknowledged, or
there is none. Rules:

- Nothing happens before COMMIT; a batch that is not committed is forgotten 30 minutes after NEW,
  a committed one 30 days after its last COMMIT.
- Complete comes when each member was executed once, in success or failure, and success when each
  was acknowledged; success comes after complete is done.
- A stage waits for the same stage of all child batches to be done. A child that is never committed
  thus holds up its parent for good.
- Each callback is enqueued at most once. While one is still to come, anyone may open the batch
  and add to it, committed or not; the documentation says that only its own jobs may, but the real
  server was seen not to mind. After that, nothing can be added.
- A member that expires counts as one that failed: it was dealt with, and it did not succeed. One
  that is deleted by MUTATE or QUEUE REMOVE stays pending.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from ..go import time as go_time
from ..go.time import SECOND
from ..job import Job
from ..sorted_set import SortedSet
from ..store import Refused
from .options import stamp

UNCOMMITTED_FOR: Final = 30 * 60
"""Seconds that a batch has from NEW to COMMIT [wiki: Ent-Batches]."""

COMMITTED_FOR: Final = 30 * 86400
"""Seconds until a committed batch is forgotten."""

PENDING: Final = ""
ENQUEUED: Final = "1"
DONE: Final = "2"


class Stage:
    """Complete or success: its callback, how far it is, how many child batches it waits for."""

    __slots__ = ("callback", "children", "state")

    def __init__(self, callback: Job | None) -> None:
        self.callback = callback
        self.state = PENDING
        self.children = 0

    def shown(self) -> str:
        """Return the state as STATUS shows it: of a callback, if there is one."""
        return self.state if self.callback is not None else PENDING


class Batch:
    """One batch; `members` are the jids that were not acknowledged, and whether each has failed."""

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

    def closed(self) -> bool:
        """Tell whether its last callback has been enqueued."""
        last = [stage for stage in self.stages if stage.callback is not None][-1]
        return last.state != PENDING

    def waits(self, stage: Stage) -> bool:
        """Tell whether a stage has to wait for members or child batches."""
        pending = len(self.members)
        if stage is self.stages[0]:
            pending -= self.failed
        return pending > 0 or stage.children > 0


class Batches:
    """All batches by bid; `push` enqueues a callback."""

    def __init__(self, push: Callable[[Job], None]) -> None:
        self._push = push
        self.table: SortedSet[Batch] = SortedSet()

    def new(
        self,
        parent_bid: str,
        description: str,
        complete: Job | None,
        success: Job | None,
        now: int,
    ) -> str:
        """Begin a batch with at least one callback; return its bid."""
        parent = self.to_fill(parent_bid) if parent_bid else None
        batch = Batch(parent_bid, description, [Stage(complete), Stage(success)], now)
        for name, callback in (("complete", complete), ("success", success)):
            if callback is not None:
                own = {"_bid": batch.bid, "_cb": name, "_pbid": parent_bid or None, "bid": None}
                stamp(callback, own)
        if parent is not None:
            for stage in parent.stages:
                stage.children += 1
        self.table.add(now + UNCOMMITTED_FOR * SECOND, batch.bid.encode(), batch)
        return batch.bid

    def find(self, bid: str) -> Batch:
        """Return a batch; Refused if there is none."""
        batch = self.table.get(bid.encode())
        if batch is None:
            raise Refused(f"No such batch {bid}")
        return batch

    def to_fill(self, bid: str) -> Batch:
        """Return a batch that jobs and child batches can be added to."""
        batch = self.find(bid)
        if batch.closed():
            raise Refused(f"Batch {bid} has enqueued its last callback: nothing can be added")
        return batch

    def commit(self, bid: str, now: int) -> None:
        """Let the callbacks come."""
        batch = self.find(bid)
        batch.committed = True
        self.table.add(now + COMMITTED_FOR * SECOND, bid.encode(), batch)
        self._advance(batch)

    def status(self, bid: str) -> dict[str, object]:
        """Return what STATUS answers; what is empty by choice is left out."""
        batch = self.find(bid)
        complete, success = batch.stages
        status: dict[str, object] = {
            "bid": bid,
            "created_at": go_time.write(batch.created_at),
            "total": batch.total,
            "pending": len(batch.members),
            "failed": batch.failed,
            "complete_st": complete.shown(),
            "success_st": success.shown(),
        }
        if batch.parent_bid:
            status["parent_bid"] = batch.parent_bid
        if batch.description:
            status["description"] = batch.description
        return status

    # What happens to jobs. A batch that is forgotten meanwhile is none of their business.

    def joined(self, batch: Batch, jid: str) -> None:
        """A job was pushed as a member; one that is pushed twice is one."""
        if jid not in batch.members:
            batch.members[jid] = False
            batch.total += 1

    def succeeded(self, bid: str, jid: str) -> None:
        """A member was acknowledged."""
        batch = self.table.get(bid.encode())
        if batch is not None and jid in batch.members:
            batch.failed -= batch.members.pop(jid)
            self._advance(batch)

    def failed(self, bid: str, jid: str) -> None:
        """A member was executed in vain, or will not be executed at all."""
        batch = self.table.get(bid.encode())
        if batch is not None and batch.members.get(jid) is False:
            batch.members[jid] = True
            batch.failed += 1
            self._advance(batch)

    def called_back(self, bid: str, jid: str) -> None:
        """A callback was acknowledged."""
        batch = self.table.get(bid.encode())
        if batch is None:
            return
        for stage in batch.stages:
            callback = stage.callback
            if stage.state == ENQUEUED and callback is not None and callback.jid == jid:
                parent = self._done(batch, stage)
                self._advance(batch)
                self._advance(parent)
                return

    def _advance(self, batch: Batch | None) -> None:
        """Do what the stages of a batch wait for no longer, here and in the batches above it."""
        while batch is not None and batch.committed:
            parent = None
            for stage in batch.stages:
                if stage.state == PENDING and not batch.waits(stage):
                    if stage.callback is None:
                        parent = self._done(batch, stage)
                    else:
                        stage.state = ENQUEUED
                        self._push(stage.callback)
                if stage.state != DONE:
                    break
            batch = parent

    def _done(self, batch: Batch, stage: Stage) -> Batch | None:
        """End a stage; return the batch above, which waits for one child less."""
        stage.state = DONE
        parent = self.table.get(batch.parent_bid.encode())
        if parent is not None:
            parent.stages[batch.stages.index(stage)].children -= 1
        return parent

    # Time passes.

    def first(self) -> int | None:
        """Return when `sweep` has something to do next."""
        return self.table.first()

    def sweep(self, now: int) -> None:
        """Forget what is old enough."""
        for _ in self.table.pop_until(now):
            pass

    def clear(self) -> None:
        """Forget all."""
        self.table.clear()
