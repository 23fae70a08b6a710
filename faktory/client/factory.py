"""Functions that make clients: those of faktory 1.0.0, and what pools and producers are passed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any, ParamSpec, TypeVar

from ..wire.address import parse
from . import settings
from .client import Client

P = ParamSpec("P")
T = TypeVar("T")


class _OfAddress:
    """Makes clients of an address."""

    def __init__(self, url: str) -> None:
        self._url, self._address = url, parse(url)

    def __call__(self) -> Client:
        return Client(self._url)

    def __str__(self) -> str:
        return str(self._address)


def client_factory(make: str | Callable[[], Client]) -> Callable[[], Client]:
    """Return a function that makes clients of an address, or the function that is passed."""
    if isinstance(make, str):
        return _OfAddress(make)
    if not callable(make):
        raise TypeError(f"{make!r} is not an address, nor a function that makes a client.")
    return make


def shown_factory(make: Callable[[], Client]) -> str:
    """Return which clients a function makes: their address, without its password, or its name."""
    if isinstance(make, _OfAddress):
        return str(make)
    if make is not Client:
        return f"of {getattr(make, '__qualname__', type(make).__qualname__)}"
    try:
        return str(parse(settings.current.find_url()))
    except ValueError:  # of the variables; a client says what is wrong
        return "without a valid address"


def _takes_arguments_of(
    model: Callable[P, object],
) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Give a function the signature of another, to which it passes its arguments."""

    def decorate(function: Callable[..., T]) -> Callable[P, T]:
        update_wrapper(function, model, (), ())  # for inspect.signature
        return function

    return decorate


@_takes_arguments_of(Client)
def get_client(*args: Any, **kwargs: Any) -> Client:
    """Make a client, not connected yet; see `Client` for the arguments."""
    return Client(*args, **kwargs)


@_takes_arguments_of(Client)
@contextmanager
def connection(*args: Any, **kwargs: Any) -> Iterator[Client]:
    """Connect a client for a `with` block and disconnect it after; see `Client`."""
    with Client(*args, **kwargs) as client:
        yield client
