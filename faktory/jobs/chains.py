"""Chains: jobs that run one after another, each pushed by the worker when the one before is done.

On the wire a job carries the rest of its chain in `custom["faktory_chain"]`: complete jobs in their
order, each with its jid, which is fixed when the chain is pushed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..wire.payload import prepare, usable_jid
from ..wire.validate import show

KEY: Final = "faktory_chain"
"""The key of `custom` that has the jobs that follow. No job may set it by its options."""


class ChainBroken(ValueError):
    """The next job of a chain cannot be pushed: the error type of the FAIL of the one before."""


def next_job(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the job to push after this one, with the rest of the chain; None if there is none.

    `payload` is a fetched job, with any contents. ChainBroken, with what is wrong.
    """
    chain = (payload.get("custom") or {}).get(KEY)
    if chain is None or chain == []:
        return None
    if not isinstance(chain, list):
        raise ChainBroken(f"custom.{KEY} is {show(chain)}: it must be a list of jobs.")
    first = chain[0]
    if not isinstance(first, dict) or usable_jid(first) is None:
        raise ChainBroken(f"custom.{KEY}[0] is {show(first)}: it must be a job with a jid.")
    try:
        job = prepare(first)
    except ValueError as error:
        raise ChainBroken(f"custom.{KEY}[0] cannot be pushed: {error}") from None
    custom = dict(job.get("custom") or {})
    own = custom.pop(KEY, None) or []
    if not isinstance(own, list):
        raise ChainBroken(f"custom.{KEY}[0].custom.{KEY} is {show(own)}: it must be a list.")
    if rest := [*own, *chain[1:]]:
        custom[KEY] = rest
    if custom or job.get("custom"):
        job["custom"] = custom
    return job
