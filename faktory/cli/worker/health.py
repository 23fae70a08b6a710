"""`--health`: the port of probes and metrics, of a worker or of the supervisor of several."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Sequence
from typing import Final

from ...worker import counts
from ...worker.counts import Page
from ...worker.health import Answer, HealthServer, as_json
from ...worker.status import Probes
from ..exits import Exit, ExitError
from . import logs

NEEDED: Final = "the metrics need prometheus_client: pip install 'faktory-worker[metrics]'"


def start(options: Namespace) -> HealthServer:
    """Serve for the worker of this process from a thread, until the process ends or `close`."""
    counted = counts.enable()
    counted.dropped = logs.dropped
    server = _listen(options, Probes([counted.page]))
    try:
        server.start()
    except RuntimeError as error:
        server.close()
        raise ExitError(Exit.CANNOT_START, f"no thread for --health: {error}") from None
    return server


def listen(options: Namespace, count: int) -> HealthServer:
    """Return what the supervisor of so many workers is to serve."""
    pages = [Page(options.concurrency) for _ in range(count)]
    return _listen(options, Probes(pages, supervised=True), own_log=True)


def _listen(options: Namespace, probes: Probes, own_log: bool = False) -> HealthServer:
    host, port = options.health
    log = logging.getLogger("faktory.parent" if own_log else "faktory.worker")

    def metrics(accept: str) -> Answer:
        return _metrics(probes.pages, logs.dropped() if own_log else 0, accept)

    try:
        server = HealthServer((host, port), probes, metrics, log)
    except OSError as error:
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror
        text = f"--health: it cannot listen on {place}: {why}. --health 0 takes a free port"
        raise ExitError(Exit.CANNOT_START, text) from None
    log.info("health: %s has /livez, /readyz and /metrics", server.url)
    return server


def _metrics(pages: Sequence[Page], dropped: int, accept: str) -> Answer:
    try:
        from ...contrib import prometheus
    except ImportError:
        return as_json(501, {"reason": "not installed", "text": NEEDED})
    return Answer(200, *prometheus.render(pages, dropped, accept))
