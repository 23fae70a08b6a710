"""Jobs that are not worth running any more after a time: `custom["expires_at"]`.

Faktory Enterprise drops them itself; on other servers the worker does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..wire.validate import check_instant, show


def has_expired(payload: Mapping[str, Any], now: datetime) -> bool:
    """Return whether the time of a fetched job is over; `now` is aware.

    ValueError for an `expires_at` that is not a time.
    """
    expires_at = (payload.get("custom") or {}).get("expires_at")
    if expires_at is None:
        return False
    if not isinstance(expires_at, str):
        raise ValueError(f"expires_at is {show(expires_at)}: it must be text, as RFC 3339 has it.")
    return datetime.fromisoformat(check_instant("expires_at", expires_at)) < now
