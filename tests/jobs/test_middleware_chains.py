"""Chains of middleware; the two chains of a process are in test_middleware.py and in worker/."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any

import pytest

from faktory.jobs import Chain, ClientChain, Next
from faktory.jobs import middleware as middleware_module

Middleware = Callable[[list[str], Next], Any]


def named(name: str) -> Middleware:
    """Return a middleware that logs its begin and its end."""

    def middleware(log: list[str], call_next: Next) -> Any:
        log.append(f"{name}(")
        try:
            return call_next()
        finally:
            log.append(f"){name}")

    middleware.__qualname__ = name
    return middleware


a, b, c, d = map(named, "abcd")


def names(chain: Chain[Middleware]) -> str:
    return "".join(middleware.__qualname__ for middleware in chain)


def chain_of(*middleware: Middleware) -> Chain[Middleware]:
    chain: Chain[Middleware] = Chain()
    for each in middleware:
        chain.add(each)
    return chain


def job(log: list[str]) -> str:
    log.append("job")
    return "result"


# The chain


def test_the_first_middleware_is_the_outermost() -> None:
    log: list[str] = []
    assert chain_of(a, b, c).run(job, log) == "result"
    assert log == ["a(", "b(", "c(", "job", ")c", ")b", ")a"]


def test_an_empty_chain_calls_only_the_innermost() -> None:
    assert Chain[Middleware]().run(job, []) == "result"


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda chain: chain.add(d), "abcd"),
        (lambda chain: chain.add(a), "bca"),
        (lambda chain: chain.prepend(d), "dabc"),
        (lambda chain: chain.prepend(c), "cab"),
        (lambda chain: chain.insert_before(b, d), "adbc"),
        (lambda chain: chain.insert_before(a, c), "cab"),
        (lambda chain: chain.insert_before(c, a), "bac"),
        (lambda chain: chain.insert_before(d, c), "cab"),
        (lambda chain: chain.insert_after(b, d), "abdc"),
        (lambda chain: chain.insert_after(c, a), "bca"),
        (lambda chain: chain.insert_after(a, c), "acb"),
        (lambda chain: chain.insert_after(d, a), "bca"),
        (lambda chain: chain.remove(b), "ac"),
        (lambda chain: chain.remove(d), "abc"),
        (lambda chain: chain.clear(), ""),  # without built-in middleware
    ],
)
def test_a_chain_can_be_changed_at_any_place(
    change: Callable[[Chain[Middleware]], object], left: str
) -> None:
    chain = chain_of(a, b, c)
    change(chain)
    assert names(chain) == left
    assert len(chain) == len(left)
    assert [each in chain for each in (a, b, c, d)] == [name in left for name in "abcd"]
    log: list[str] = []
    chain.run(job, log)
    assert log == [f"{name}(" for name in left] + ["job"] + [f"){name}" for name in reversed(left)]


def test_a_chain_shows_what_is_in_it() -> None:
    class Tenant:
        def __call__(self, log: list[str], call_next: Next) -> Any:
            return call_next()

        def __repr__(self) -> str:
            return "<tenant>"

    assert repr(chain_of(a, Tenant())) == "<middleware: a, <tenant>>"
    assert repr(Chain()) == "<middleware: none>"


def test_adding_works_as_a_decorator() -> None:
    chain: Chain[Middleware] = Chain()

    @chain.add
    def middleware(log: list[str], call_next: Next) -> Any:
        return call_next()

    assert list(chain) == [middleware]


def test_a_bound_method_is_found_again() -> None:
    class Tenants:
        def around(self, log: list[str], call_next: Next) -> Any:
            log.append("tenant")
            return call_next()

    tenants, log = Tenants(), list[str]()
    chain = chain_of(tenants.around, tenants.around)
    chain.run(job, log)
    assert log == ["tenant", "job"]
    assert tenants.around in chain
    chain.remove(tenants.around)
    assert len(chain) == 0


@pytest.mark.parametrize("method", ["add", "prepend", "insert_before", "insert_after"])
def test_a_middleware_must_be_callable(method: str) -> None:
    chain = chain_of(a)
    args = (a, "tenant") if method.startswith("insert") else ("tenant",)
    with pytest.raises(TypeError, match="'tenant' is not a middleware"):
        getattr(chain, method)(*args)
    assert list(chain) == [a]


async def waits(log: list[str], call_next: Next) -> Any:
    return call_next()


def yields(log: list[str], call_next: Next) -> Any:
    yield call_next()


class Waits:
    async def __call__(self, log: list[str], call_next: Next) -> Any:
        return call_next()


@pytest.mark.parametrize("method", ["add", "prepend", "insert_before", "insert_after"])
@pytest.mark.parametrize(
    ("middleware", "what"),
    [(waits, "an async"), (Waits(), "an async"), (yields, "a generator")],
)
def test_an_async_or_generator_function_is_not_a_middleware(
    method: str, middleware: Any, what: str
) -> None:
    chain = chain_of(a)
    args = (a, middleware) if method.startswith("insert") else (middleware,)
    with pytest.raises(TypeError, match=f"is {what} function, and its call would not continue"):
        getattr(chain, method)(*args)
    assert list(chain) == [a]


def test_a_middleware_may_change_its_arguments() -> None:
    def change(log: list[str], call_next: Next) -> Any:
        log[:] = ["changed"]
        return call_next()

    log = ["first"]
    chain_of(change).run(job, log)
    assert log == ["changed", "job"]


def test_a_middleware_that_does_not_continue_stops_the_chain_and_returns_its_own_value() -> None:
    log: list[str] = []
    chain = chain_of(a, lambda log, call_next: "stopped", b)
    assert chain.run(job, log) == "stopped"
    assert log == ["a(", ")a"]


def test_a_middleware_may_replace_the_result() -> None:
    assert chain_of(lambda log, call_next: f"<{call_next()}>").run(job, []) == "<result>"


def test_a_middleware_may_continue_twice() -> None:
    def again(log: list[str], call_next: Next) -> Any:
        call_next()
        return call_next()

    log: list[str] = []
    assert chain_of(again, a).run(job, log) == "result"
    assert log == ["a(", "job", ")a"] * 2


def test_an_exception_passes_through_all_middleware() -> None:
    log: list[str] = []

    def fail(log: list[str]) -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        chain_of(a, b).run(fail, log)
    assert log == ["a(", "b(", ")b", ")a"]


def test_a_middleware_may_catch_an_exception() -> None:
    def catch(log: list[str], call_next: Next) -> Any:
        try:
            return call_next()
        except KeyError:
            return "caught"

    def fail(log: list[str]) -> None:
        raise KeyError

    assert chain_of(catch, a).run(fail, []) == "caught"


def test_a_run_that_is_under_way_does_not_see_changes() -> None:
    chain: Chain[Middleware] = Chain()

    def change(log: list[str], call_next: Next) -> Any:
        chain.clear()
        chain.add(c)
        return call_next()

    chain.add(change)
    chain.add(b)
    first, second = list[str](), list[str]()
    chain.run(job, first)
    chain.run(job, second)
    assert first == ["b(", "job", ")b"]
    assert second == ["c(", "job", ")c"]


def test_a_chain_may_be_run_inside_itself() -> None:
    log: list[str] = []
    chain = chain_of(a, b)

    def outer(log: list[str]) -> Any:
        return chain.run(job, log)

    assert chain.run(outer, log) == "result"
    assert log == ["a(", "b(", "a(", "b(", "job", ")b", ")a", ")b", ")a"]


def test_threads_that_change_a_chain_at_once_lose_nothing() -> None:
    chain: Chain[Middleware] = Chain()
    mine = [[named(f"{thread}.{number}") for number in range(100)] for thread in range(4)]
    together = Barrier(4)

    def add(middleware: list[Middleware]) -> None:
        together.wait()
        for each in middleware:
            chain.add(each)

    threads = [Thread(target=add, args=(each,)) for each in mine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(chain) == {each for middleware in mine for each in middleware}
    for middleware in mine:
        places = [list(chain).index(each) for each in middleware]
        assert places == sorted(places)


def test_runs_in_several_threads_do_not_mix() -> None:
    chain, together = chain_of(a), Barrier(2)
    logs: list[list[str]] = [[], []]

    def wait(log: list[str]) -> None:
        together.wait()
        log.append(str(id(log)))

    threads = [Thread(target=chain.run, args=(wait, log)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logs == [["a(", str(id(log)), ")a"] for log in logs]


def test_a_chain_is_composed_when_it_changes_and_not_when_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    composed: list[object] = []
    around = middleware_module._around

    def compose(middleware: Any, inner: Any) -> Any:
        composed.append(middleware)
        return around(middleware, inner)

    monkeypatch.setattr(middleware_module, "_around", compose)
    chain = chain_of(a, b)
    assert composed != []
    composed.clear()
    for _ in range(3):
        chain.run(job, [])
    assert composed == []


def test_a_chain_has_a_bulk_form_while_each_middleware_has_one() -> None:
    def tag(payload: dict[str, Any], call_next: Any) -> Any:
        return call_next()

    def tag_many(fields: dict[str, Any], count: int, call_next: Any) -> Any:
        return call_next()

    chain = ClientChain({tag: tag_many})
    assert chain.bulk is not None
    assert chain.abulk is not None
    chain.add(other := lambda payload, call_next: call_next())
    assert chain.bulk is chain.abulk is None
    chain.add(other, bulk=tag_many)
    assert chain.bulk is not None
    chain.add(other)  # without it from now on
    assert chain.bulk is None
    chain.clear()
    assert list(chain) == [tag]
    chain.remove(tag)
    chain.add(tag)  # the built-in one keeps its own
    assert chain.bulk is not None


@pytest.mark.parametrize("remove", [ClientChain.remove, lambda chain, _: chain.clear()])
def test_a_removed_middleware_is_let_go_of_with_its_forms(
    remove: Callable[[ClientChain, Any], None],
) -> None:
    class Tags:
        def tag(self, payload: dict[str, Any], call_next: Any) -> Any:
            return call_next()

        def tag_many(self, fields: dict[str, Any], count: int, call_next: Any) -> Any:
            return call_next()

    tags = Tags()
    chain = ClientChain()
    chain.add(tags.tag, bulk=tags.tag_many)
    remove(chain, tags.tag)
    chain.prepend(tags.tag)
    assert chain.bulk is None  # nobody has said so this time
    remove(chain, tags.tag)
    known = weakref.ref(tags)
    del tags
    gc.collect()
    assert known() is None


@pytest.mark.parametrize("bulk", [5, waits, Waits(), yields])
def test_a_wrong_bulk_form_is_refused(bulk: Any) -> None:
    chain = ClientChain()
    with pytest.raises(TypeError, match="bulk is"):
        chain.add(lambda payload, call_next: call_next(), bulk=bulk)
    assert len(chain) == 0
