"""The relay: pushes the jobs of an outbox's table, and deletes those that the server has.

Rules: a row leaves the table after the server's answer, never before, so each committed job is
pushed once at least. What became of pushed jobs is kept until it is written, and written before
anything else is claimed. No error ends the relay but a wrong password, and a driver that it does
not know. It has no watermark: a transaction that commits late makes rows visible whose ids are
lower than those of rows that are gone already.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Sequence
from threading import Event
from time import monotonic
from typing import Any, Final, NamedTuple

from ..client import Client, network, settings
from ..exceptions import (
    FaktoryAuthenticationError,
    FaktoryError,
    FaktoryOutcomeUnknown,
    FaktoryServerError,
)
from ..jobs import options
from ..jobs.chains import KEY as FOLLOWING
from ..proto import encode_push, load_json
from ..wire import commands
from ..wire.log import Log
from ..wire.payload import prepare
from ..wire.recovery import backoff
from ..wire.validate import brief, clip
from .database import INTERVAL, AnotherRelay, Database, DatabaseAway
from .sql import Row

MAX_BATCH: Final = 10_000
"""Rows that are claimed at once: the server has 5 seconds for a PUSHB (`server/commands.go`)."""

MAX_BYTES: Final = 4_000_000
"""Bytes of one PUSHB, if it has more than one job."""

REASON_INTERVAL: Final = 60.0
"""Seconds between two lines of the log about one outage, if its reason changes."""

_PASSING: Final = re.compile(
    r"^(?:LOADING|BUSY|OOM|MISCONF|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS|NOAUTH)\b"
    r"|context (?:deadline exceeded|canceled)|connection (?:refused|reset|pool)|broken pipe"
    r"|i/o timeout|use of closed|max number of clients|too many open files|\bdial (?:unix|tcp)\b"
    r"|\bEOF\b|^redis: |shutdown in progress|too many connections"
)
"""Reasons that are not about the job: its time for a PUSHB was over, or its Redis has a problem
(go-redis and Go's net). The job is pushed again."""


class _Ready(NamedTuple):
    """A row whose job can be pushed, with the line of its PUSH."""

    row: Row
    job: dict[str, Any]
    line: bytes


class _Outage:
    """A time in which something cannot be used: a line in the log at its begin and at its end."""

    def __init__(self, log: Log, begin: str, end: str) -> None:
        self._log = log
        self._begin, self._end = begin, end
        self._since: float | None = None
        self._last = ("", 0.0)

    def begins(self, reason: str) -> None:
        now = monotonic()
        if self._since is None:
            self._since = now
        elif reason == self._last[0] or now - self._last[1] < REASON_INTERVAL:
            return
        self._last = (reason, now)
        self._log.warning(self._begin, clip(reason, 1000))

    def ends(self) -> None:
        if self._since is not None:
            self._log.info(self._end, monotonic() - self._since)
            self._since = None


class Relay:
    """Pushes the rows of one table by one client, in one thread."""

    def __init__(
        self, connect: Callable[[], Database], client: Client, table: str, batch: int
    ) -> None:
        if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= MAX_BATCH:
            raise ValueError(f"batch is {batch!r}: it is the rows of a round, 1 to {MAX_BATCH}.")
        self._connect = connect
        self._client = client
        self._table = table
        self._batch = batch
        self._log = log = Log(logging.getLogger("faktory.outbox"))
        where = f"the outbox {table}"
        self._server = _Outage(
            log,
            f"{where} cannot push now, trying until it can: %s",
            f"{where} pushes again after %.1f s",
        )
        self._outage = _Outage(
            log,
            f"{where} cannot use its database now, trying until it can: %s",
            f"{where} has its database again after %.1f s",
        )
        self._other = _Outage(
            log,
            f"{where} has another relay, which holds %s: this one waits until that ends",
            f"{where} is relayed here now, after %.1f s",
        )
        self._database: Database | None = None
        self._sent: list[Row] = []
        self._refused: list[tuple[Row, str]] = []
        self._unknown: set[str] = set()  # jids that may be queued already
        self._is_enterprise: bool | None = None
        self.accepted = 0
        """How many jobs the server has accepted."""

    def run(self, stop: Event) -> None:
        """Relay until `stop` is set."""
        attempt = 0
        self._log.info("the outbox %s is relayed to %s", self._table, self._client.faktory)
        try:
            while not stop.is_set():
                try:
                    if self._round():
                        attempt = 0
                        continue
                    attempt = 0
                    if self._database is not None:
                        self._database.wait(stop)
                except AnotherRelay as other:
                    self._other.begins(str(other))
                    stop.wait(INTERVAL)
                except FaktoryAuthenticationError:
                    raise
                except (DatabaseAway, FaktoryError) as error:
                    self._fails(error)
                    attempt += 1
                    stop.wait(backoff(attempt, random.random()))
        finally:
            self.close()

    def run_once(self) -> int:
        """Push what waits now; return how many jobs the server accepted. Its errors come out."""
        try:
            while self._round():
                pass
        finally:
            self.close()
        return self.accepted

    def close(self) -> None:
        """Close both connections."""
        if lost := len(self._sent):
            self._log.warning(
                "the outbox %s: %d jobs were pushed, and their rows could not be deleted: the next "
                "relay pushes them again",
                self._table,
                lost,
            )
        self._close_database()
        self._client.close()

    def _round(self) -> int:
        """Push one batch; return how many rows there were."""
        if not self._client.is_connected:  # before rows are locked: it may take a while
            self._ask()
        if self._database is None:
            self._database = self._connect()
            self._other.ends()
        database = self._database
        if self._sent or self._refused:
            self._settle(database)
        rows = database.claim(self._batch)
        self._outage.ends()
        if not rows:
            database.release()
            self._server.ends()
            return 0
        try:
            self._push(rows)
        finally:
            self._settle(database)
        self._server.ends()
        return len(rows)

    def _fails(self, error: Exception) -> None:
        if isinstance(error, DatabaseAway):
            self._outage.begins(str(error) or repr(error.__cause__))
            self._close_database()
        else:
            self._server.begins(str(error))

    def _close_database(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _settle(self, database: Database) -> None:
        """Write what became of jobs; the others can be claimed again."""
        if not (self._sent or self._refused):
            database.release()
            return
        database.write(self._sent, self._refused)
        if self._refused:
            row, reason = self._refused[0]
            self._log.error(
                "the outbox %s: %d jobs were refused, and are kept with the reason; the first is "
                "row %s, job %s: %s",
                self._table,
                len(self._refused),
                row.id,
                row.jid,
                clip(reason, 1000),
            )
        self._sent, self._refused = [], []

    def _ask(self) -> None:
        """Connect, and learn which server it is."""
        self._is_enterprise = settings.is_enterprise(self._client.info())

    def _push(self, rows: Sequence[Row]) -> None:
        """Push rows, in PUSHBs that are not too large."""
        ready: list[_Ready] = []
        size = 0
        for row in rows:
            try:
                job = _job_of(row)
                self._check_enterprise(job)
                line = encode_push(job)
            except (FaktoryError, ValueError) as error:
                self._refused.append((row, str(error)))
                continue
            if ready and size + len(line) > MAX_BYTES:
                self._push_chunk(ready)
                ready, size = [], 0
            ready.append(_Ready(row, job, line))
            size += len(line)
        if ready:
            self._push_chunk(ready)

    def _push_chunk(self, chunk: list[_Ready]) -> None:
        command = commands.push_bulk_of([each.line for each in chunk], [each.job for each in chunk])
        try:
            reasons = self._client.call(command)
        except FaktoryServerError as error:
            if _PASSING.search(error.message) or _PASSING.search(str(error)):
                raise
            if len(chunk) == 1:
                self._refused.append((chunk[0].row, str(error)))
                return
            # It refuses a whole array for one of its jobs.
            half = len(chunk) // 2
            self._push_chunk(chunk[:half])
            self._push_chunk(chunk[half:])
            return
        except FaktoryOutcomeUnknown:
            if len(self._unknown) > MAX_BATCH:
                self._unknown.clear()
            self._unknown.update(command.jids)
            raise
        later: str | None = None
        for row, job, _ in chunk:
            reason = reasons.get(job["jid"])
            if reason is None or self._is_own(job["jid"], str(reason)):
                self._sent.append(row)
                self.accepted += 1
            elif _PASSING.search(str(reason)):
                later = str(reason)
            else:
                self._refused.append((row, str(reason)))
        self._unknown.difference_update(command.jids)
        if later is not None:
            raise FaktoryServerError(later)

    def _is_own(self, jid: str, reason: str) -> bool:
        """Return whether it is the job itself, pushed before, that makes it not unique."""
        return jid in self._unknown and reason.startswith("NOTUNIQUE")

    def _check_enterprise(self, job: dict[str, Any]) -> None:
        """Raise if the server would ignore an option of the job, as a push does."""
        custom = job.get("custom")
        if not custom or self._is_enterprise is not False or network.current.in_process:
            return
        following = custom.get(FOLLOWING)
        for each in (job, *(following if isinstance(following, list) else ())):
            fields = each.get("custom") if isinstance(each, dict) else None
            needed = options.enterprise(fields) if isinstance(fields, dict) else None
            if needed and not settings.current.knows_enterprise():
                raise FaktoryServerError(
                    f"{each.get('jobtype')} is not pushed: this server is not a Faktory Enterprise "
                    f"and would ignore {', '.join(needed)}. If the server knows it by a plug-in, "
                    "say so: FAKTORY_ENTERPRISE=1"
                )


def _job_of(row: Row) -> dict[str, Any]:
    """Return the job of a row, checked: a program may have written the row by itself."""
    payload = row.payload
    if isinstance(payload, str):
        payload = payload.encode("utf-8", "surrogatepass")
    if isinstance(payload, bytes | bytearray | memoryview):
        payload = load_json(bytes(payload))
    if not isinstance(payload, dict):  # a column of type json comes as a dict
        raise ValueError(f"the payload is {brief(json.dumps(payload, default=repr))}: not a job.")
    payload.setdefault("jid", row.jid)
    return prepare(payload)
