"""What other libraries call our methods and options: for the errors of those who know them.

Celery, RQ, Dramatiq, Sidekiq, procrastinate, TaskIQ. An attribute is missing as before: `hasattr`
is False. The methods are descriptors, so that no other attribute is looked up more slowly.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

_PUSH: Final = "perform_async(...)"
_LATER: Final = "perform_in(seconds, ...) or perform_at(time, ...)"
_WITH_OPTIONS: Final = (
    f"{_PUSH}, with options set(queue=...).perform_async(...), for later {_LATER}"
)
_CALL: Final = "a plain call to run it here, or perform_async(...) to push it"

PUSHES: Final = {
    "delay": _PUSH,
    "send": _PUSH,
    "enqueue": _PUSH,
    "defer": _PUSH,
    "kiq": "aperform(...)",
    "defer_async": "aperform(...)",
    "perform_later": _PUSH,
    "apply_async": _WITH_OPTIONS,
    "send_with_options": _WITH_OPTIONS,
    "enqueue_in": "perform_in(seconds, ...)",
    "enqueue_at": "perform_at(time, ...)",
    "s": "message(...)",
    "si": "message(...)",
}
"""Methods of jobs elsewhere, and what to use here."""

METHODS: Final = {
    **PUSHES,
    "push": _PUSH,
    "schedule": _LATER,
    "signature": "message(...)",
    "configure": "set(queue=...)",
    "map": "perform_bulk(rows)",
    "starmap": "perform_bulk(rows)",
    "apply": _CALL,
    "perform": _CALL,
    "retry": "raise faktory.Retry(after=seconds) in the job",
}
"""The same of functions; classes may well have some of these names themselves."""

OPTIONS: Final = {
    **dict.fromkeys(("queue_name", "routing_key", "priority"), "queue"),
    **dict.fromkeys(("max_retries", "dead"), "retry"),
    **dict.fromkeys(("autoretry_for", "retry_when"), "retry_on"),
    **dict.fromkeys(("throws", "dont_autoretry_for"), "discard_on"),
    **dict.fromkeys(
        ("default_retry_delay", "retry_backoff", "retry_jitter", "min_backoff", "max_backoff"),
        "backoff",
    ),
    **dict.fromkeys(("timeout", "job_timeout", "soft_time_limit"), "time_limit"),
    "visibility_timeout": "reserve_for",
    **dict.fromkeys(("expires", "max_age", "ttl"), "expires_in"),
    **dict.fromkeys(("unique", "lock", "lock_ttl", "queueing_lock"), "unique_for"),
    **dict.fromkeys(("actor_name", "task_name", "jobtype"), "name"),
    **dict.fromkeys(("headers", "meta", "tags"), "custom"),
    **dict.fromkeys(("job_id", "task_id"), "jid"),
}
"""Options of jobs elsewhere, and the option that stands for it here."""

REMEDIES: Final = {
    **dict.fromkeys(("countdown", "delay"), "A push says when it runs: perform_in(seconds, ...)."),
    **dict.fromkeys(("eta", "run_at"), "A push says when it runs: perform_at(time, ...)."),
    "bind": "The running job is faktory.current_job().",
    "rate_limit": "A queue can have a limit: faktory-worker -q api,limit=2.",
    **dict.fromkeys(
        ("ignore_result", "store_results", "result_ttl"), "A job has no result to be kept."
    ),
    "acks_late": "A job is always acknowledged when it has ended.",
    "depends_on": "One job runs after another in a faktory.chain(...).",
}
"""Options elsewhere that have none here in their place, and what there is instead."""


class Elsewhere:
    """An attribute that is missing, and the error says which one to use.

    Unless a base of the class behind `owner` has it.
    """

    def __init__(self, owner: type, name: str, remedy: str) -> None:
        self._owner, self._name, self._remedy = owner, name, remedy

    def __get__(self, instance: object, owner: type) -> object:
        behind: Any = super(self._owner, owner if instance is None else instance)
        with suppress(AttributeError):
            return getattr(behind, self._name)
        job = getattr(instance, "_jobtype", owner.__name__)
        raise AttributeError(f"the job {job} has no {self._name!r}: use {self._remedy}.")


def add_hints(owner: type, methods: dict[str, str]) -> None:
    """Have each of these be missing from a class, with an error that says what to use."""
    for name, remedy in methods.items():
        setattr(owner, name, Elsewhere(owner, name, remedy))
