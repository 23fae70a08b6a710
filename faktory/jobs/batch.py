"""Batches: jobs that belong together, and callbacks for when they are done. Faktory Enterprise.

Rules: a job that is pushed inside `with batch.jobs():` joins the batch. The batch is committed at
the end of the block; if the block raises, it is not, and the server forgets it after 30 minutes.
The open batch is a context variable, so blocks nest, and threads do not see each other's. Settings
are checked where they are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from ..client import BatchStatus, Pool, defaults
from ..exceptions import FaktoryPayloadError
from ..wire.payload import prepare
from .message import JobChain, Message
from .spec import DeclaredJob, spec_of
from .validation import check_pool

Callback = DeclaredJob | Message | JobChain | str | Mapping[str, object] | None
"""A declared job that takes no arguments, a message, the name of a job type, or a job as a dict."""

_SETTINGS: Final = ("description", "success", "complete", "parent")
_TYPO: Final = 0.75
"""Likeness from which a name is a misspelt setting: "completed" is one, "component" is not."""

open_batch: Final[ContextVar[str | None]] = ContextVar("faktory_open_batch", default=None)
"""The bid of the batch that jobs pushed here join."""


class Batch:
    """A new batch or, with a `bid`, an existing one.

    The server pushes `complete` when all jobs have run, whether they failed or not, and `success`
    when all have succeeded; at least one of them is required. Each is a declared job, a message,
    the name of a job type, or a dict with `jobtype` and more. With a `parent` the batch is a member
    of that batch, whose callbacks wait for it. All settings can be changed until the first
    `jobs()`.
    """

    description: str | None
    success: Callback
    complete: Callback
    parent: Batch | str | None

    def __init__(
        self,
        bid: str | None = None,
        *,
        description: str | None = None,
        success: Callback = None,
        complete: Callback = None,
        parent: Batch | str | None = None,
        pool: Pool | None = None,
    ) -> None:
        check_pool(pool)
        if bid is not None and not (isinstance(bid, str) and bid.isprintable() and bid.split()):
            raise FaktoryPayloadError(f"bid is {bid!r}: it must be the `bid` of a batch, as text.")
        self._bid: str | None = None
        self._pool = pool
        self.description = description
        self.success = success
        self.complete = complete
        self.parent = parent
        given = [name for name in _SETTINGS if getattr(self, name) is not None]
        if bid is not None and given:
            raise RuntimeError(
                f"Batch({bid!r}, ...) is the existing batch of that id, which keeps its settings: "
                f"it takes no {given[0]}=. For a new one pass keywords only."
            )
        self._bid = bid

    def __repr__(self) -> str:
        return f"<faktory.Batch {self._bid or 'not created yet'}>"

    def __setattr__(self, name: str, value: object) -> None:
        if name in _SETTINGS:
            if self._bid is not None:
                raise RuntimeError(
                    f"the batch {self._bid} exists on the server and cannot be changed any more."
                )
            if value is not None:
                _check_setting(name, value, self._pool)
        elif close := get_close_matches(name, _SETTINGS, 1, _TYPO):
            raise AttributeError(f"a batch has no {name}. Did you mean {close[0]}?")
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # type checkers report it themselves

        def __enter__(self):
            raise TypeError("a batch is not a context manager: write `with batch.jobs():`.")

        def __exit__(self, *_): ...

    @property
    def bid(self) -> str | None:
        """The batch's id; None before the first `jobs()`."""
        return self._bid

    @contextmanager
    def jobs(self) -> Iterator[Batch]:
        """Create the batch, or open it again; jobs pushed in the `with` block join it."""
        pool = self._pool or defaults.default_pool()
        with pool.client() as client:
            if self._bid is None:
                self._bid = client.batch_new(**self._definition())
            else:
                client.batch_open(self._bid)
        bid = self._bid
        token = open_batch.set(bid)
        try:
            yield self
        finally:
            open_batch.reset(token)
        with pool.client() as client:
            client.batch_commit(bid)

    def status(self) -> BatchStatus:
        """Return how many jobs are left, and more, from the server; see `Client.batch_status`."""
        if self._bid is None:
            raise RuntimeError("the batch does not exist yet: `with batch.jobs():` creates it.")
        with (self._pool or defaults.default_pool()).client() as client:
            return client.batch_status(self._bid)

    def _definition(self) -> dict[str, Any]:
        callbacks = {"success": self.success, "complete": self.complete}
        parent = self.parent.bid if isinstance(self.parent, Batch) else self.parent
        if self.parent is not None and parent is None:
            raise RuntimeError(
                "the parent does not exist yet: create this batch inside its `with parent.jobs():`."
            )
        return {
            "description": self.description,
            "parent_bid": parent,
            **{
                name: _callback(name, job, self._pool)
                for name, job in callbacks.items()
                if job is not None
            },
        }


def _check_setting(name: str, value: object, pool: Pool | None) -> None:
    """Raise if a batch cannot have this setting."""
    if name in ("success", "complete"):
        _callback(name, value, pool)
    elif not isinstance(value, str) and not (name == "parent" and isinstance(value, Batch)):
        what = "text" if name == "description" else "a batch, or the bid of one"
        raise FaktoryPayloadError(f"{name} is {value!r}: it must be {what}.")


def _callback(name: str, job: object, pool: Pool | None) -> dict[str, Any]:
    """Return the wire dict of a callback, which the server of the batch pushes."""
    if isinstance(job, str):
        job = {"jobtype": job}
    if isinstance(job, Mapping):
        payload = {"args": [], **job}
        try:
            prepare(payload)
        except FaktoryPayloadError as error:
            raise FaktoryPayloadError(f"{name}: {error}") from None
        return payload
    if isinstance(job, (Message, JobChain)):
        first = job.messages[0] if isinstance(job, JobChain) else job
        _check_callback(name, first._job, pool)
        return job.payload()
    spec = spec_of(job)
    if spec is not None:
        _check_callback(name, spec, pool)
        return spec.payload(())
    raise FaktoryPayloadError(
        f"{name} is {job!r}: pass a declared job, a message (job.message(...)), the name of a job "
        "type, or a dict with 'jobtype'."
    )


def _check_callback(name: str, job: Any, pool: Pool | None) -> None:
    """Raise for a callback that only a push by this program could make what it is to be."""
    if "debounce" in job.options:
        raise FaktoryPayloadError(
            f"{name}, {job.jobtype}, is debounced, and the server pushes it once when the batch is "
            "done: set(debounce=None)."
        )
    if getattr(job, "pool", None) not in (None, pool):
        raise ValueError(
            f"{name}, {job.jobtype}, has a pool of its own, and the server of the batch pushes it: "
            "leave set(pool=...) out, or pass that pool to the batch, Batch(pool=...)."
        )
