"""What the forms do, in the server's thread; each returns the sentence that the next page shows.

Rules: the words are those of the buttons. That something is not there any more is said, and is not
an error; what makes no sense raises WebError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..errors import CommandError
from ..lookup import read_key, write_key
from ..slices import Steps
from ..state import ServerState
from .security import WebError

Work = Callable[[ServerState], Steps[str]]

_REQUEUE: Final = frozenset(("retry", "add to queue", "add_to_queue"))

_GONE: Final = "not here any more: a worker may have it, or somebody else was faster."

_SIGNALS: Final = {"quiet": "quiet", "terminate": "terminate", "stop": "terminate"}


def in_set(place: str, action: str, keys: Sequence[str]) -> Work:
    """Retry, delete, kill or add to their queues the jobs of a set with these keys, or `all`."""
    action = action.strip().lower()
    if action not in _REQUEUE and action not in ("delete", "kill"):
        raise _unknown(action)
    everything = list(keys) == ["all"]
    named = [key for key in keys if key != "all"]  # which means all where it is alone
    wanted = [key for key in map(read_key, named) if key is not None]
    if len(wanted) != len(named):
        raise WebError(400, "No such key", "A key is the time and the jid of a job: TIME|JID.")

    def work(state: ServerState) -> Steps[str]:
        if not keys:
            return "No job was ticked, so nothing was done."
        which = None if everything else wanted
        if action in _REQUEUE:
            try:
                count = yield from state.store.retry(place, which)
            except CommandError as error:
                return f"Not all was done: {error}."
            did = "moved to its queue" if count == 1 else "moved to their queues"
        elif action == "kill":
            count, did = (yield from state.store.kill(place, which)), "killed"
        else:
            count, did = (yield from state.store.discard(place, which)), "deleted"
        return _said(count, None if everything else len(set(wanted)), did)

    return work


def in_queue(name: str, action: str, jids: Sequence[str]) -> Work:
    """Clear, pause or resume a queue, or delete the jobs of it with these jids."""
    action = action.strip().lower()
    if jids:
        return _delete_queued(name, jids)
    if action == "delete ticked":
        return _nothing
    if action not in ("clear", "delete", "pause", "resume"):
        raise _unknown(action)

    def work(state: ServerState) -> Steps[str]:
        store = state.store
        if name not in store.queues:
            return f"There is no queue {name} any more."
        if action == "pause":
            store.pause(name)
            return f"The queue {name} is paused: its jobs are not handed out."
        if action == "resume":
            store.resume(name)
            return f"The queue {name} goes on."
        count = yield from store.clear_queue(name)
        return f"The queue {name} was cleared: {_said(count, None, 'deleted')}"

    return work


def _delete_queued(name: str, jids: Sequence[str]) -> Work:
    def work(state: ServerState) -> Steps[str]:
        count = yield from state.store.delete_queued(name, jids)
        return _said(count, len(set(jids)), "deleted")

    return work


def _nothing(_state: ServerState) -> Steps[str]:
    yield
    return "No job was ticked, so nothing was done."


def signal(wids: Sequence[str], name: str) -> Work:
    """Ask workers, or `all`, to be quiet or to stop."""
    state_name = _SIGNALS.get(name.strip().lower())
    if state_name is None:
        raise _unknown(name)

    def work(state: ServerState) -> Steps[str]:
        yield
        table = state.workers.table
        if list(wids) == ["all"]:
            records = list(table.values())
        else:
            records = [table[wid] for wid in dict.fromkeys(wids) if wid in table]
        for record in records:
            record.signal(state_name)
        if not records:
            return "That worker is not connected any more." if wids else "No worker was named."
        whom = "The worker was" if len(records) == 1 else f"{len(records):,} workers were"
        what = "be quiet" if state_name == "quiet" else "stop"
        return f"{whom} asked to {what}: it is answered to its next BEAT."

    return work


def on_job(jid: str, form: Mapping[str, str]) -> Work:
    """Do what a job's page asks: `place` and `key` name one of its copies, else it is the first."""
    action = form.get("action", "").strip().lower()
    place, key = form.get("place", ""), form.get("key", "")
    if action not in _REQUEUE and action not in ("delete", "kill"):
        raise _unknown(action)

    def work(state: ServerState) -> Steps[str]:
        for found in (yield from state.store.find(jid)):
            here = found.place
            if (place and here != place) or here == "busy":
                continue
            if here == "queue":
                if action == "delete":
                    return (yield from _delete_queued(found.job.queue, [jid])(state))
            elif not key or read_key(key) == (found.score, jid):
                return (yield from in_set(here, action, [write_key(found.score, jid)])(state))
        return f"That job is {_GONE}"

    return work


def _said(count: int, wanted: int | None, did: str) -> str:
    if wanted == 1 and not count:
        return f"That job is {_GONE}"
    text = "1 job was" if count == 1 else f"{count:,} jobs were"
    text = f"{text} {did}."
    if wanted is not None and count < wanted:
        return f"{text} Of those that were ticked {wanted - count:,} are {_GONE}"
    return text


def _unknown(action: str) -> WebError:
    return WebError(400, "No such action", f"There is no action {action[:50]!r} here.")
