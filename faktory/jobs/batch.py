"""Batches: jobs that belong together, and callbacks for when they are done. Faktory Enterprise.

Rules: what is pushed inside `with batch.jobs():` is a member, and the batch is committed when that
block ends; a block that raises leaves it uncommitted, and the server forgets it after 30 minutes.
Which batch is open is a context variable, so blocks nest, and threads do not see each other's.
What is said of a batch is checked where it is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from ..client import BatchStatus, Pool, defaults
from ..exceptions import FaktoryPayloadError
from ..wire.payload import prepare
from .middleware import open_batch
from .push import check_pool, declared

Callback = Any
"""A declared job that takes no arguments, the name of a job type, or a job as a dict."""

_SETTINGS: Final = ("description", "success", "complete", "parent")
_TYPO: Final = 0.75
"""How like a setting a name is that must be meant for it: "completed" is, "component" is not."""


class Batch:
    """A batch to be made, or with a `bid` one that there is.

    `complete` is pushed when all jobs have run, whether they failed or not, `success` when all
    have succeeded; one of them is needed. Each is a declared job, the name of a job type, or a
    dict with `jobtype` and more. With a `parent` it is one of that batch's members, whose own
    callbacks wait for it. All of this can be set until the first `jobs()`.
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
            raise FaktoryPayloadError(f"bid is {bid!r}: it is the text that `bid` of a batch was.")
        self._bid: str | None = None
        self._pool = pool
        self.description = description
        self.success = success
        self.complete = complete
        self.parent = parent
        said = [name for name in _SETTINGS if getattr(self, name) is not None]
        if bid is not None and said:
            raise RuntimeError(
                f"Batch({bid!r}, ...) is the batch of that id, which is made already and keeps "
                f"its settings: it takes no {said[0]}=. For a new one pass keywords only."
            )
        self._bid = bid

    def __repr__(self) -> str:
        return f"<faktory.Batch {self._bid or 'not made yet'}>"

    def __setattr__(self, name: str, value: object) -> None:
        if name in _SETTINGS:
            if self._bid is not None:
                raise _created(self._bid)
            if value is not None:
                _check(name, value)
        elif close := get_close_matches(name, _SETTINGS, 1, _TYPO):
            raise AttributeError(f"a batch has no {name}. Did you mean {close[0]}?")
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # type checkers know that it is none

        def __enter__(self):
            raise TypeError("a batch is no context manager: write `with batch.jobs():`.")

        def __exit__(self, *_): ...

    @property
    def bid(self) -> str | None:
        """The batch's id; None before the first `jobs()`."""
        return self._bid

    @contextmanager
    def jobs(self) -> Iterator[Batch]:
        """Make the batch, or open it again; what is pushed in the `with` block belongs to it."""
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
        """Return how far it is, as the server says it; see `Client.batch_status`."""
        if self._bid is None:
            raise RuntimeError("the batch is not made yet: that is done by `with batch.jobs():`.")
        with (self._pool or defaults.default_pool()).client() as client:
            return client.batch_status(self._bid)

    def _definition(self) -> dict[str, Any]:
        callbacks = {"success": self.success, "complete": self.complete}
        parent = self.parent.bid if isinstance(self.parent, Batch) else self.parent
        if self.parent is not None and parent is None:
            raise RuntimeError(
                "the parent is not made yet: make this batch inside its `with parent.jobs():`."
            )
        return {
            "description": self.description,
            "parent_bid": parent,
            **{name: _callback(name, job) for name, job in callbacks.items() if job is not None},
        }


def _check(name: str, value: object) -> None:
    """Raise if a batch cannot have this setting."""
    if name in ("success", "complete"):
        _callback(name, value)
    elif not isinstance(value, str) and not (name == "parent" and isinstance(value, Batch)):
        what = "text" if name == "description" else "a batch, or the bid of one"
        raise FaktoryPayloadError(f"{name} is {value!r}: it must be {what}.")


def _callback(name: str, job: Callback) -> dict[str, Any]:
    """Return the wire dict of a callback."""
    if isinstance(job, str):
        job = {"jobtype": job}
    if isinstance(job, Mapping):
        made = {"args": [], **job}
        try:
            prepare(made)
        except FaktoryPayloadError as error:
            raise FaktoryPayloadError(f"{name}: {error}") from None
        return made
    push = declared(job)
    if push is not None:
        return push.payload(())
    raise FaktoryPayloadError(
        f"{name} is {job!r}: pass a declared job, the name of a job type, or a dict with 'jobtype'."
    )


def _created(bid: str) -> RuntimeError:
    return RuntimeError(f"the batch {bid} is made, and cannot be changed any more.")
