"""What a type checker makes of declared jobs; read by mypy alone, never run.

A line with `# type: ignore[...]` is one that must be refused: mypy --strict complains about an
ignore that is of no use.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import assert_type

import faktory
from faktory import Pool


@faktory.job
def bare(image: int, size: str = "thumb") -> bool:
    return True


@faktory.job(queue="images", retry=3, reserve_for=timedelta(minutes=1), custom={"a": 1}, name="X")
def with_options(image: int, *sizes: str) -> None: ...


class Resize(faktory.Job):
    faktory_options = {"queue": "images"}

    def perform(self, image: int, size: str = "thumb") -> None:
        assert_type(self.jid, str)
        assert_type(self.bid, str | None)


def functions(pool: Pool) -> None:
    assert_type(bare(1, size="full"), bool)
    assert_type(bare.perform_async(1, size="full"), str)
    assert_type(bare.perform_in(60, 1, "full"), str)
    assert_type(bare.perform_in(timedelta(minutes=1), image=1), str)
    assert_type(bare.perform_at(datetime.now(UTC), 1), str)
    assert_type(bare.perform_at("2030-01-01T00:00:00Z", 1), str)
    assert_type(bare.perform_bulk([(1, "full"), [2]]), list[str])
    assert_type(bare.set(queue="low", retry=0, pool=pool).perform_async(1), str)
    assert_type(bare.set(queue="low").set(retry=1).perform_in(1.5, 1), str)
    assert_type(bare.jobtype, str)
    assert_type(with_options.perform_async(1, "a", "b"), str)


def wrong_use_of_functions() -> None:
    bare("1")  # type: ignore[arg-type]
    bare.perform_async()  # type: ignore[call-arg]
    bare.perform_async("1")  # type: ignore[arg-type]
    bare.perform_async(1, size=2)  # type: ignore[arg-type]
    bare.perform_async(1, "full", 3)  # type: ignore[call-arg]
    bare.perform_async(1, colour="red")  # type: ignore[call-arg]
    bare.perform_in("60", 1)  # type: ignore[arg-type]
    bare.perform_in(60, "1")  # type: ignore[arg-type]
    bare.perform_at(timedelta(hours=1), 1)  # type: ignore[arg-type]
    bare.set(queue=1)  # type: ignore[arg-type]
    bare.set(colour="red")  # type: ignore[call-arg]
    bare.set(queue="low").perform_async("1")  # type: ignore[arg-type]
    with_options.perform_async(1, 2)  # type: ignore[arg-type]
    faktory.job(retries=1)  # type: ignore[call-overload]


def classes(pool: Pool) -> None:
    assert_type(Resize.perform_async(1, size="full"), str)
    assert_type(Resize.perform_in(60, 1, "full"), str)
    assert_type(Resize.perform_at(datetime.now(UTC), 1), str)
    assert_type(Resize.perform_bulk([(1, "full"), [2]]), list[str])
    assert_type(Resize.set(queue="low", pool=pool).perform_async(1), str)


def wrong_use_of_classes() -> None:
    Resize.perform_async()  # type: ignore[call-arg]
    Resize.perform_async("1")  # type: ignore[arg-type]
    Resize.perform_async(1, size=2)  # type: ignore[arg-type]
    Resize.perform_in(60, "1")  # type: ignore[arg-type]
    Resize.perform_at(timedelta(hours=1), 1)  # type: ignore[arg-type]
    Resize.set(colour="red")  # type: ignore[call-arg]
    Resize.set(queue="low").perform_async("1")  # type: ignore[arg-type]


def context() -> None:
    job = faktory.current_job()
    assert_type(job, faktory.JobContext)
    assert_type(job.attempt, int)
