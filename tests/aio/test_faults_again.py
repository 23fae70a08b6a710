"""The fault proxy of the blocking client, over an async one, on each kind of loop.

Signal handlers are not among its faults: a loop calls them between two callbacks.
"""

from __future__ import annotations

import pytest

from ..client import test_faults
from ..client.test_faults import CASES, rig, sweep, tally  # noqa: F401
from .support import Adapter

test_in_the_handshake = test_faults.test_one_fault_anywhere_in_the_handshake_sends_nothing


class PlainAdapter(Adapter):
    """Has one timeout for all commands, as the rig needs it."""

    def __getattr__(self, name):
        client = self.__dict__["_client"]
        if not self.__dict__.get("plain"):
            self.plain = True
            exchange = client._connection.exchange

            async def plain_exchange(*sent):
                for command in sent:
                    command.min_timeout = 0.0
                if client._connection._transport is not None:
                    client._connection._transport._stop_clock()  # the rig has set another timeout
                return await exchange(*sent)

            client._connection.exchange = plain_exchange
        return super().__getattr__(name)

    def queue(self, jobtype, args, queue, _priority, jid):
        return self.push({"jobtype": jobtype, "args": args, "queue": queue, "jid": jid}) == jid


@pytest.fixture(autouse=True)
def with_adapters(adapter, monkeypatch):
    monkeypatch.setattr(test_faults, "PlainClient", PlainAdapter)


@pytest.mark.parametrize("share", [20, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_fault_anywhere_neither_hangs_nor_mismatches_nor_loses_a_job(rig, case, share, tally):  # noqa: F811
    tally.update(sweep(rig, case, share=share))
