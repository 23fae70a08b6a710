"""One browser for all tests of a process, and for each test a server with its pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faktory.server import EmbeddedServer

from .support import Person, Shop, browsing, serving


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def shop() -> Iterator[Shop]:
    with EmbeddedServer() as server:
        yield Shop(server)


@pytest.fixture
def pages(shop: Shop) -> Iterator[tuple[str, Any]]:
    """The address of the pages, and their streams."""
    with serving(shop.server) as found:
        yield found


@pytest.fixture
def person(driver: Any, pages: tuple[str, Any]) -> Iterator[Person]:
    someone = Person(driver, pages[0])
    someone.begin()
    yield someone
    driver.get("about:blank")  # closes its stream


@pytest.fixture(params=[True, False], ids=["script", "no script"])
def press(request: pytest.FixtureRequest, person: Person) -> Callable[..., None]:
    """Press a button, and confirm it where there is a question."""
    person.set(script=request.param)

    def press(text: str, within: str = "main") -> None:
        person.press(text, within)
        if request.param and person.asked():
            person.answer(yes=True)

    return press
