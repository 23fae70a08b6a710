"""The jobs of shop.py, tested in all four ways: pytest examples/testing"""

import pytest
import shop

from faktory.testing import assert_enqueued, assert_not_enqueued


@pytest.fixture(autouse=True)
def _no_mails():
    shop.sent.clear()


# A plain call: only the function, without Faktory.


def test_a_customer_is_asked_for_a_review():
    shop.review(7)
    assert shop.sent == ["how was order 7?"]


# Inline: each job runs where it is pushed, and so do the jobs that it pushes.


def test_an_order_is_confirmed_and_reviewed(faktory_inline):
    shop.Confirm.perform_async(7)
    assert shop.sent == ["order 7 is confirmed", "how was order 7?"]


def test_an_unknown_order_is_an_error_at_once(faktory_inline):
    with pytest.raises(ValueError, match="no order 0"):
        shop.Confirm.perform_async(0)


# Fake: pushed jobs are kept, and run when the test drains them.


def test_a_confirmation_is_enqueued_for_the_mailer(faktory_fake):
    shop.Confirm.perform_async(7)
    assert_enqueued(shop.Confirm, args=(7,), queue="mail", count=1)
    assert_not_enqueued(shop.review)

    shop.Confirm.drain()
    assert shop.sent == ["order 7 is confirmed"]
    assert_enqueued(shop.review, args=(7,))


# The real protocol: an embedded server, a worker, and a clock that the test moves.


def test_the_review_comes_a_day_later(faktory_worker, faktory_clock):
    shop.Confirm.perform_async(7)
    faktory_worker.drain()
    assert shop.sent == ["order 7 is confirmed"]

    faktory_clock.travel(86_400)
    faktory_worker.drain()
    assert shop.sent == ["order 7 is confirmed", "how was order 7?"]


def test_an_unknown_order_is_tried_three_times(faktory_server, faktory_worker, faktory_clock):
    jid = shop.Confirm.perform_async(0)
    for _ in range(3):
        faktory_worker.drain()
        faktory_clock.travel(86_400)
    assert len(faktory_worker.errors) == 3
    assert [job["jid"] for job in faktory_server.dead] == [jid]
