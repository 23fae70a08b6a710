"""Job ids: random, of one form, and unique, also in threads and after fork."""

from __future__ import annotations

import os
import re
import threading
from types import ModuleType

import pytest


def test_a_jid_is_24_hex_digits(proto: ModuleType) -> None:
    for _ in range(1000):
        jid = proto.new_jid()
        assert type(jid) is str
        assert re.fullmatch("[0-9a-f]{24}", jid)


def test_jids_differ(proto: ModuleType) -> None:
    assert len({proto.new_jid() for _ in range(10_000)}) == 10_000


def test_every_digit_of_a_jid_is_random(proto: ModuleType) -> None:
    jids = [proto.new_jid() for _ in range(2000)]
    for place in range(24):
        seen = [jid[place] for jid in jids]
        # 125 of each are expected; 50 is seven standard deviations away.
        assert min(seen.count(digit) for digit in "0123456789abcdef") > 50


def test_jids_come_from_the_random_source_of_the_system(
    proto: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def source(count: int) -> bytes:
        counts.append(count)
        return bytes(range(256)) * (count // 256)

    monkeypatch.setattr(os, "urandom", source)
    jids = {proto.new_jid() for _ in range(600)}
    monkeypatch.undo()
    assert counts == [3072] * len(counts)
    assert len(counts) in (2, 3)
    assert "000102030405060708090a0b" in jids
    assert "f4f5f6f7f8f9fafbfcfdfeff" in jids
    while proto.new_jid() in jids:  # use up these jids, so that no other test gets them
        pass


def test_threads_never_share_a_jid(proto: ModuleType) -> None:
    made: list[list[str]] = [[] for _ in range(8)]
    start = threading.Barrier(8)

    def make(mine: list[str]) -> None:
        start.wait()
        mine.extend(proto.new_jid() for _ in range(5000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({jid for mine in made for jid in mine}) == 40_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_makes_its_own_jids(proto: ModuleType) -> None:
    proto.new_jid()  # the parent has some in stock now
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, "".join(proto.new_jid() for _ in range(100)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    mine = {proto.new_jid() for _ in range(600)}
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    theirs = {text[start : start + 24] for start in range(0, len(text), 24)}
    assert len(theirs) == 100
    assert not theirs & mine


def test_a_template_makes_its_jids_the_same_way(proto: ModuleType) -> None:
    _, jids = proto.JobTemplate("Send", {}).encode_bulk([()] * 1000)
    assert len(set(jids)) == 1000
    assert all(re.fullmatch("[0-9a-f]{24}", jid) for jid in jids)
