"""The tests of the blocking client, with an async one behind an adapter, on each kind of loop."""

from __future__ import annotations

import pytest

from ..client import test_client
from ..client.conftest import SHORT
from ..client.test_client import queue, real  # noqa: F401
from .support import Adapter

NOT_THE_ASYNC_CLIENTS = {
    "test_connection_and_get_client_make_clients": "they make blocking clients",
    "test_no_password_is_shown": "its text names the class: see test_async_client.py",
    "test_a_push_that_was_not_sent_completely_is_sent_again": "the loop does not say how much left",
    "test_an_interrupt_between_send_and_answer_drops_the_connection": "tasks are cancelled instead",
    "test_an_interrupt_while_connecting_leaves_nothing_open": "tasks are cancelled instead",
    "test_threads_share_a_client_and_each_gets_its_own_answers": "tasks do",
    "test_disconnect_waits_for_the_command_in_progress": "two threads",
    "test_a_fork_while_a_thread_waits_for_an_answer_does_not_block_the_child": "threads",
    "test_a_forked_child_has_a_connection_of_its_own": "see test_fork.py",
    "test_a_child_that_ends_or_closes_does_not_end_the_parents_connection": "see test_fork.py",
    "test_a_grandchild_has_a_connection_of_its_own_too": "see test_fork.py",
    "test_a_generator_is_consumed_at_most_a_chunk_ahead": "see test_bulk.py",
}

for name, test in vars(test_client).items():
    if name.startswith("test_") and name not in NOT_THE_ASYNC_CLIENTS:
        globals()[name] = test


class ImpatientAdapter(Adapter):
    """Waits SHORT for each answer, though not for the handshake."""

    def _run(self, coroutine):
        async def run():
            connection = self._client._connection
            opened = connection._opened

            def impatient(opening):
                opened(opening)
                if connection._transport is not None:
                    connection._transport._timeout = SHORT

            connection._opened = impatient
            return await coroutine

        return super()._run(run())


@pytest.fixture
def impatient(adapter, monkeypatch):
    monkeypatch.setattr(test_client, "Client", ImpatientAdapter)


@pytest.fixture(autouse=True)
def with_adapters(adapter, monkeypatch):
    monkeypatch.setattr(test_client, "Client", adapter)
    monkeypatch.setattr(test_client.faktory, "Client", adapter)


def test_what_is_left_out_is_there():
    assert NOT_THE_ASYNC_CLIENTS.keys() <= vars(test_client).keys()
