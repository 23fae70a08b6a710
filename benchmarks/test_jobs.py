"""Measure the cost of declared jobs beside a plain push, over a transport in memory.

Nothing is sent, so this is only our own work (`peers/push_nowhere.py`).
"""

from __future__ import annotations

from .conftest import IMPLEMENTATIONS

ROUNDS = 15


def ways_of(child, works: dict[str, str], count: int) -> dict:
    programs = {name: child("push_nowhere.py", FAKTORY_IMPL=name) for name in IMPLEMENTATIONS}

    def turn(name: str, work: str):
        took = programs[name].turn(work, count)
        return {"us CPU/job": took["us CPU/job"]}

    return {
        f"{about}, {name}": lambda name=name, work=work: turn(name, work)
        for about, work in works.items()
        for name in IMPLEMENTATIONS
    }


def test_one(contest, child):
    works = {
        "client.push": "push",
        "perform_async": "perform_async",
        "by keywords": "by_keywords",
        "of a class": "of_a_class",
        "perform_in": "perform_in",
        "set, perform_async": "set_first",
    }
    contest("Declared jobs, one by one, nothing sent", ways_of(child, works, 1000), ROUNDS)


def test_many(contest, child):
    works = {"template alone": "template", "perform_bulk": "perform_bulk"}
    contest(
        "Declared jobs, 20,000 of one type, nothing sent", ways_of(child, works, 20_000), ROUNDS
    )
