"""What `DEMO_WEB=1 make demo` goes on with: jobs to look at in a browser, of a small shop."""

from __future__ import annotations

import logging
from contextlib import suppress
from threading import Event, Thread

import faktory

_QUEUES = ["mails", "images", "reports"]


def show(url: str) -> None:
    """Push jobs and run them until Ctrl-C, or TERM."""
    ended = Event()
    _push(ended)
    log = logging.getLogger("faktory.demo")
    worker = faktory.Worker(url, queues=_QUEUES, concurrency=3, log=log, labels=["demo"])
    thread = Thread(target=worker.run, name="demo-worker")
    thread.start()
    try:
        print("  Ctrl-C ends it.", flush=True)
        with suppress(KeyboardInterrupt):
            Event().wait()
    finally:
        ended.set()
        worker.stop()
        thread.join()


def _push(ended: Event) -> None:
    """Push jobs that fail, wait, are dead, are due later, and one that runs until the end."""

    @faktory.job(name="SendReceipt", queue="mails")
    def send_receipt(order: int, _to: str) -> None:
        if order % 3 == 0:
            raise ConnectionError(f"smtp.example.com:587 did not answer (receipt of order {order})")

    @faktory.job(name="ResizeImage", queue="images", retry=-1)
    def resize_image(path: str, _width: int) -> None:
        if path.endswith(".tiff"):
            raise ValueError(f"{path} is not an image: its header is empty")

    @faktory.job(name="YearlyReport", queue="reports")
    def yearly_report(_year: int) -> None:
        ended.wait()

    @faktory.job(name="Newsletter", queue="newsletter")
    def newsletter(_issue: int, _to: str) -> None: ...

    yearly_report.perform_async(2026)
    for order in range(4711, 4720):
        send_receipt.perform_async(order, f"customer-{order}@example.com")
    for path in ("cat.png", "scan-7.tiff", "scan-8.tiff"):
        resize_image.perform_async(path, 200)
    for hours in range(1, 6):
        send_receipt.perform_in(hours * 3600, 4800 + hours, f"customer-{hours}@example.com")
    newsletter.perform_bulk((12, f"reader-{number}@example.com") for number in range(60))
