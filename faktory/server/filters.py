"""The filters of MUTATE: which jobs of a set are meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import CommandError
from .go import json as go_json
from .slices import ITEMS, Steps, chunks
from .sorted_set import Glob, PatternTooLong

Matches = Callable[[bytes], Steps[bool]]
"""Whether the payload of a job is meant."""

_LONG_PAYLOAD = 64 * 1024
"""Bytes of a payload that is matched in slices."""

_JID = b'"jid":"'


def compile_filter(job_filter: dict[str, Any] | None) -> Steps[Matches | None]:
    """Compile a filter of MUTATE; None where every job matches [Go: server/mutate.go].

    jids win over everything else. A pattern is matched against the whole payload; so is a job type
    without a pattern, wildcards included. CommandError for a pattern that is too long.
    """
    if job_filter is None:
        return None
    jids = job_filter.get("jids")
    if jids:
        return (yield from _compile_jids(jids))
    pattern, jobtype = job_filter.get("regexp", ""), job_filter.get("jobtype", "")
    text = _in_payload("jobtype", jobtype) if jobtype else b""
    if not pattern:
        pattern, text = ("*" + text.decode() + "*" if jobtype else "*"), b""
    try:
        matcher = Glob(pattern.encode())
    except PatternTooLong as error:
        raise CommandError(f"{error}: that is the limit of this embedded server") from None

    def matches(payload: bytes) -> Steps[bool]:
        if text not in payload:
            return False
        if len(payload) > _LONG_PAYLOAD:
            return (yield from matcher.steps(payload))
        return matcher(payload)

    return matches


def _compile_jids(jids: list[str]) -> Steps[Matches]:
    """Match payloads that hold `"jid":"..."` of one of these jids, wherever it is."""
    wanted: dict[int, set[bytes]] = {}  # by length: what follows `"jid":"`
    for some in chunks(jids):
        for jid in some:
            text = _in_payload("jid", jid)[len(_JID) :]
            wanted.setdefault(len(text), set()).add(text)
        yield

    def matches(payload: bytes) -> Steps[bool]:
        position = payload.find(_JID)
        while position >= 0:
            position += len(_JID)
            for number, (length, texts) in enumerate(wanted.items()):
                if payload[position : position + length] in texts:
                    return True
                if number % ITEMS == ITEMS - 1:
                    yield
            if position > _LONG_PAYLOAD:
                yield
            position = payload.find(_JID, position)
        return False

    return matches


def _in_payload(field: str, value: str) -> bytes:
    return f'"{field}":{go_json.quote(value)}'.encode()
