"""`faktory.configure`, for all that is made without an address."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest

import faktory
from faktory.client import Client, Pool, Producer, defaults
from faktory.server import EmbeddedServer
from faktory.worker import Worker

from ..support import wait_until

VARIABLES = ("PROVIDER", "URL", "TIMEOUT", "TCP_KEEPALIVE", "ENTERPRISE")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has configured nothing."""
    for name in VARIABLES:
        monkeypatch.delenv(f"FAKTORY_{name}", raising=False)
    with defaults.configured():
        yield


def of_pool() -> Client:
    with Pool().client() as client:
        return client


def of_default_pool() -> Client:
    with faktory.pool().client() as client:
        return client


def of_worker() -> Client:
    return Worker()._make_client()


MAKERS = [Client, faktory.get_client, of_pool, of_default_pool, of_worker]


def shown(client: Client) -> tuple[Any, ...]:
    return (client.faktory.url, client.timeout, client.tcp_keepalive, client.ssl_context)


@pytest.mark.parametrize("make", MAKERS)
def test_configure_counts_for_every_client_without_an_address(
    make: Callable[[], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(make()) == ("tcp://localhost:7419", 10, 15, None)
    monkeypatch.setenv("FAKTORY_URL", "tcp://variable:1")
    monkeypatch.setenv("FAKTORY_TIMEOUT", "3")
    monkeypatch.setenv("FAKTORY_TCP_KEEPALIVE", "4")
    faktory.configure()  # the default pool has been made
    assert shown(make()) == ("tcp://variable:1", 3, 4, None)
    context = ssl.create_default_context()
    faktory.configure(url="tcp+tls://c:2", timeout=5, tcp_keepalive=6, ssl_context=context)
    assert shown(make()) == ("tcp+tls://c:2", 5, 6, context)


def test_a_wrong_variable_does_not_matter_where_configure_has_the_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(f"FAKTORY_{name}", "nonsense")
    with pytest.raises(ValueError, match="FAKTORY_TIMEOUT is 'nonsense': it must be"):
        Client("tcp://somewhere")
    faktory.configure(url="tcp://c:2", timeout=5, tcp_keepalive=6)
    assert shown(Client()) == ("tcp://c:2", 5, 6, None)


@pytest.mark.parametrize("make", [Client, lambda *a, **k: Worker(*a, **k)._make_client()])
def test_arguments_go_before_configure_each_by_itself(make: Callable[..., Client]) -> None:
    context, other = ssl.create_default_context(), ssl.create_default_context()
    faktory.configure(url="tcp+tls://c:2", timeout=5, tcp_keepalive=6, ssl_context=context)
    assert shown(make("tcp+tls://d:3")) == ("tcp+tls://d:3", 5, 6, context)
    assert shown(make(timeout=7)) == ("tcp+tls://c:2", 7, 6, context)
    assert shown(make(tcp_keepalive=8)) == ("tcp+tls://c:2", 5, 8, context)
    assert shown(make(ssl_context=other)) == ("tcp+tls://c:2", 5, 6, other)


def test_an_ssl_context_is_left_out_for_another_address_without_tls() -> None:
    context = ssl.create_default_context()
    faktory.configure(ssl_context=context)
    assert Client("tcp://inside").ssl_context is None
    with pytest.raises(ValueError, match="an address without TLS"):
        Client()  # which should have TLS, as it seems
    with pytest.raises(ValueError, match="an address without TLS"):
        Client("tcp://inside", ssl_context=context)


def test_clients_and_workers_keep_the_settings_they_were_made_with() -> None:
    faktory.configure(url="tcp://before:1", timeout=5)
    client, worker = Client(), Worker()
    faktory.configure(url="tcp://after:2", timeout=6)
    assert shown(client) == ("tcp://before:1", 5, 15, None)
    assert shown(worker._make_client()) == ("tcp://before:1", 5, 15, None)
    assert shown(Worker()._make_client()) == ("tcp://after:2", 6, 15, None)


def test_a_pool_without_an_address_follows_configure() -> None:
    pool, other = Pool(), Pool(Client)
    explicit = Pool(lambda: Client(timeout=5))
    with EmbeddedServer() as before, EmbeddedServer() as after:
        faktory.configure(url=before.url)
        with pool.client() as first, pool.client() as second, other.client() as third:
            for client in (first, second, third):
                client.connect()
        with pool.client() as used, explicit.client() as kept:
            kept.connect()
            faktory.configure(url=after.url)
            assert used.command("INFO")  # what is in use stays connected until it is released
            with pool.client() as next_one:
                assert next_one.faktory.url == after.url
        assert not any(client.is_connected for client in (first, second))
        for _ in range(2):
            with pool.client() as client:
                assert client.faktory.url == after.url
        with explicit.client() as client:
            assert client is kept
        for each in (pool, other, explicit):
            each.close()
        assert (pool._made, explicit._made) == (0, 0)


def test_a_thread_that_waits_for_an_outdated_client_may_make_a_new_one() -> None:
    pool = Pool(size=1, timeout=20)
    faktory.configure(url="tcp://before:1")
    found = []

    def wait() -> None:
        with pool.client() as client:
            found.append(client.faktory.host)

    with pool.client():
        faktory.configure(url="tcp://after:2")
        waiter = Thread(target=wait)
        waiter.start()
        wait_until(lambda: pool._waiters)
    waiter.join(20)
    assert found == ["after"]


def test_a_producer_without_an_address_pushes_to_the_configured_server() -> None:
    with EmbeddedServer() as server, Producer() as producer:
        faktory.configure(url=server.url)
        producer.push({"jobtype": "work", "args": []}).result(20)
        assert [verb for verb, _ in server.commands] == ["HELLO", "PUSHB"]


def test_a_worker_without_an_address_works_for_the_configured_server() -> None:
    with EmbeddedServer() as server:
        faktory.configure(url=server.url)
        worker = Worker()
        worker.register("work", worker.stop)
        with faktory.connection() as client:
            client.push({"jobtype": "work", "args": []})
        worker.run()
        assert "ACK" in [verb for verb, _ in server.commands]


def test_pool_returns_the_pool_that_jobs_are_pushed_through() -> None:
    faktory.configure(url="tcp://c:2", pool_size=3)
    assert faktory.pool() is faktory.pool() is defaults.default_pool()
    assert faktory.pool().size == 3
    before = faktory.pool()
    faktory.configure(pool_size=4)
    assert faktory.pool() is not before


def test_configured_settings_are_all_restored() -> None:
    faktory.configure(url="tcp://c:2", timeout=5, enterprise=True)
    before = defaults.settings.current
    with defaults.configured(url="tcp://d:3"):
        assert shown(Client()) == ("tcp://d:3", 10, 15, None)
        assert not defaults.settings.current.knows_enterprise()
    assert defaults.settings.current is before


def test_enterprise_is_a_setting_and_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def knows() -> bool:
        return defaults.settings.current.knows_enterprise()

    assert not knows()
    for text in ("0", "false", "False", "no", "OFF", "", " "):
        monkeypatch.setenv("FAKTORY_ENTERPRISE", text)
        assert not knows()
    for text in ("1", "true", "yes", " On "):
        monkeypatch.setenv("FAKTORY_ENTERPRISE", text)
        assert knows()
    for text in ("nope", "2", "none", "faktory"):
        monkeypatch.setenv("FAKTORY_ENTERPRISE", text)
        with pytest.raises(ValueError, match=f"FAKTORY_ENTERPRISE is '{text}': it is 1, true"):
            knows()
    faktory.configure(enterprise=False)
    assert not knows()
    faktory.configure(enterprise=True)
    assert knows()
    for wrong in (1, "1"):
        with pytest.raises(ValueError, match="it is True or False"):
            faktory.configure(enterprise=wrong)  # type: ignore[arg-type]
