"""A small program: an order is confirmed, and reviewed a day later."""

import faktory


class Confirm(faktory.Job):
    faktory_options = {"queue": "mail", "retry": 2}

    def perform(self, order: int) -> None:
        if order <= 0:
            raise ValueError(f"there is no order {order}")
        sent.append(f"order {order} is confirmed")
        review.perform_in(86_400, order)


@faktory.job(queue="mail")
def review(order: int) -> None:
    sent.append(f"how was order {order}?")


sent: list[str] = []
"""The mails that were sent."""
