"""Arguments by annotation, wherever a worker runs its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

import faktory
from faktory.client import defaults
from faktory.server import EmbeddedServer

from .conftest import Push, Reported, RunProgram, Start, WaitUntil

pytest.importorskip("msgspec")

JOBS = """
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

@dataclass
class Item:
    name: str
    price: Decimal

@faktory.job
def ship(item: Item, *to: UUID):
    note("ship", item, *to, current_job().args[0])

class Ship(faktory.Job):
    def perform(self, item: Item):
        note("Ship", item, self._context.args[0])

if __name__ == "__main__":
    Worker(URL, **{}).run()
"""


@pytest.mark.parametrize(
    "options",
    [
        "use_threads=True",
        "use_threads=False",
        "executor=ProcessPoolExecutor",
        "executor=ThreadPoolExecutor",
    ],
)
def test_a_job_gets_its_arguments_by_annotation_and_fails_with_the_path(
    server: EmbeddedServer, run_program: RunProgram, push: Push, reported: Reported, options: str
) -> None:
    to = "9c87c28d-873b-43c5-baaa-628baf57a38b"
    wire = {"name": "a", "price": "1.50"}
    jids = [
        push("ship", wire, to),
        push("Ship", wire),
        push("ship", {"name": "a", "price": "cheap"}),
        push("ship", wire, to, 5),
    ]
    program = run_program(JOBS.replace("**{}", f"{options}, concurrency=1"))
    reported(jids, "ACK", "ACK", "FAIL", "FAIL")
    item = "Item(name='a', price=Decimal('1.50'))"
    assert program.notes == [f"ship {item} {to} {wire}", f"Ship {item} {wire}"]
    failures = [job["failure"] for job in sorted(server.retries, key=lambda job: job["args"][1:])]
    assert [failure["errtype"] for failure in failures] == ["FaktoryPayloadError"] * 2
    assert [failure["message"].partition(". ")[0] for failure in failures] == [
        "args[0].price is 'cheap': invalid decimal string",
        "args[2] is 5 (int): expected `uuid`, got `int`",
    ]


@dataclass
class Item:
    name: str
    price: Decimal


def test_arguments_come_back_from_a_real_server(
    real_server_url: str, start: Start, wait_until: WaitUntil
) -> None:
    ran: list[tuple[Item, UUID]] = []
    queue = f"typed-{uuid4().hex}"

    @faktory.job(queue=queue)
    def ship(item: Item, to: UUID) -> None:
        ran.append((item, to))

    expected = [(Item(f"<é{n}>", Decimal(f"{n}.50")), uuid4()) for n in range(3)]
    with defaults.configured(url=real_server_url):
        ship.perform_async(*expected[0])
        ship.perform_bulk(expected[1:])
        start(faktory.Worker(real_server_url, queues=[queue], concurrency=1))
        wait_until(lambda: len(ran) == 3)
    assert ran == expected
