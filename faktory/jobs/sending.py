"""A job's wire dict on its way: through the middleware to a pool's client, or to a producer.

Rules: every job passes `client_middleware` as it will be sent. A job with Enterprise options is not
sent to an open-source server, which would ignore them without an error. No error of a job that a
producer has taken is lost: it is logged if nobody has the future.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from ..client import Client, Pool, Producer, defaults, network, settings
from ..exceptions import FaktoryEnterpriseRequired, FaktoryPayloadError
from ..proto import new_jid
from ..wire.log import Log
from ..wire.types import ServerInfo
from . import options as job_options
from . import schedule
from .middleware import client_middleware
from .schedule import OnePush
from .signature import Signature
from .spec import JobSpec
from .validation import check_pool

if TYPE_CHECKING:
    from ..aio import AsyncClient

_enterprise: WeakSet[Pool | Producer | AsyncClient] = WeakSet()
"""Those whose server is known to be a Faktory Enterprise."""

_log: Final = Log(logging.getLogger("faktory.producer"))


class Sender(JobSpec):
    """A job type with options, and where its jobs are sent."""

    def __init__(
        self,
        jobtype: str,
        signature: Signature,
        options: Mapping[str, Any],
        pool: Pool | Producer | None = None,
        once: OnePush | None = None,
    ) -> None:
        check_pool(pool, producer=True)
        super().__init__(jobtype, signature, options, once)
        self._pool = pool

    def __repr__(self) -> str:
        shown = super().__repr__()
        return shown if self._pool is None else f"{shown[:-1]} pool={self._pool!r}>"

    def __getstate__(self) -> dict[str, Any]:
        if self._pool is not None:
            raise TypeError(
                f"{self._jobtype} has a pool of its own, and connections cannot be pickled: "
                "use set(pool=...) in the process that pushes."
            )
        return super().__getstate__()

    @property
    def pool(self) -> Pool | Producer | None:
        """The pool or producer given to `set`; None for that of the process."""
        return self._pool

    def push_payload(self, payload: dict[str, Any]) -> str:
        """Push a wire dict of this job, through the middleware; return as `perform_async`."""
        try:
            return client_middleware.run(self._send, payload)  # type: ignore[no-any-return]
        except FaktoryPayloadError as error:
            explained = self._signature.explain(error, payload.get("args"))
            if explained is None or error._raised_by_job:
                raise
            raise explained from None

    def push_payload_to(self, producer: Producer, payload: dict[str, Any]) -> Future[str]:
        """Push a wire dict of this job through a producer, and the middleware.

        If a middleware stops the push, the future's result is what the middleware returned.
        """
        taken: list[Future[str]] = []

        def send(payload: dict[str, Any]) -> str:
            taken.append(self._hand_over(producer, payload))
            return payload["jid"]  # type: ignore[no-any-return]

        returned = self.run_middleware(payload, send)
        if not taken:
            stopped: Future[Any] = Future()
            stopped.set_result(returned)
            return stopped
        return taken[0]

    def run_middleware(self, payload: dict[str, Any], keep: Callable[..., object]) -> object:
        """Run the middleware with `keep` in the place of the push; return what it returns."""
        return client_middleware.run(keep, payload)

    def check_enterprise(self, pool: Pool | Producer | None) -> None:
        """Raise FaktoryEnterpriseRequired if the server would ignore options of the job."""
        if self._checked[2] and not network.current.in_process:
            pool = pool or defaults.default_pool()
            with pool.client() as client:
                self._check_enterprise(client, pool)

    def _send(self, payload: dict[str, Any]) -> str:
        pool = self._pool or defaults.default_pool()
        if isinstance(pool, Producer):
            return self._push_through(pool, payload)
        if self._once is not None or "custom" in payload:
            self.complete(payload)
        with pool.client() as client:
            self._check_enterprise(client, pool)
            return client.push(payload)

    async def apush_payload(self, payload: dict[str, Any]) -> str:
        """Push a wire dict of this job on the running event loop; return as `aperform`."""
        self._check_no_pool()
        try:
            return await client_middleware.arun(self._asend, payload)  # type: ignore[no-any-return]
        except FaktoryPayloadError as error:
            explained = self._signature.explain(error, payload.get("args"))
            if explained is None or error._raised_by_job:
                raise
            raise explained from None

    async def arun_middleware(
        self, payload: dict[str, Any], keep: Callable[..., Awaitable[object]]
    ) -> object:
        """Do the same on an event loop, where `keep` is awaited."""
        return await client_middleware.arun(keep, payload)

    async def acheck_enterprise(self) -> None:
        """Raise FaktoryEnterpriseRequired if the server would ignore options of the job."""
        if self._checked[2] and not network.current.in_process:
            client = await async_client()
            if self._has_to_ask(client):
                self._judge_server(await client.info(), client)

    async def _asend(self, payload: dict[str, Any]) -> str:
        client = await async_client()
        if self._once is not None or "custom" in payload:
            self.complete(payload)
        await self.acheck_enterprise()
        return await client.push(payload)

    def _check_no_pool(self) -> None:
        if self._pool is not None:
            raise TypeError(
                f"{self._jobtype} has a pool of its own, whose clients block the event loop: push "
                "with perform_async, or by an AsyncClient of the same server: "
                "await client.push(job.message(...).to_dict())."
            )

    def _push_through(self, producer: Producer, payload: dict[str, Any]) -> str:
        """Push through a producer; return the jid before the job is sent."""
        future = self._hand_over(producer, payload)
        if network.current.in_process and future.done():
            return future.result()  # raises what went wrong
        jid: str = payload["jid"]
        future.add_done_callback(partial(_log_failure, f"{self._jobtype} {jid}"))
        return jid

    def _hand_over(self, producer: Producer, payload: dict[str, Any]) -> Future[str]:
        self.complete(payload)
        if producer not in _enterprise:
            self.check_enterprise(producer)
        payload.setdefault("jid", new_jid())
        return producer.push(payload)

    def complete(self, payload: dict[str, Any]) -> None:
        """Write into a wire dict what depends on the whole of it, after the middleware.

        A debounced job gets its jid again, since a middleware may have changed the job.
        """
        if self._once is not None and self._once.window is not None:
            schedule.debounce(payload, self._once.window)
        if "custom" in payload:
            fix_expiry(payload)

    def _check_enterprise(self, client: Client, pool: Pool | Producer) -> None:
        """Raise FaktoryEnterpriseRequired if the job needs it and the server would ignore that."""
        if self._has_to_ask(pool):
            self._judge_server(client.info(), pool)

    def _has_to_ask(self, pool: Pool | Producer | AsyncClient) -> bool:
        """Return whether it is unknown if the server knows the options of the job."""
        # The answer of a test mode must not be remembered as that of the pool's server.
        if not self._checked[2] or pool in _enterprise or network.current.in_process:
            return False
        return not settings.current.knows_enterprise()

    def _judge_server(self, info: ServerInfo, pool: Pool | Producer | AsyncClient) -> None:
        needed = self._checked[2]
        if not settings.is_enterprise(info):
            raise FaktoryEnterpriseRequired(
                f"the job {self._jobtype} is not pushed: this server is not a Faktory Enterprise "
                f"and would ignore {', '.join(needed)}. Leave that out, or "
                f"set({needed[0]}=None). If the server knows it by a plug-in, say so: "
                "faktory.configure(enterprise=True), or FAKTORY_ENTERPRISE=1."
            )
        _enterprise.add(pool)


async def async_client() -> AsyncClient:
    """Return the client of the running event loop."""
    from ..aio.defaults import default_client  # imports asyncio, which takes long

    return await default_client()


def fix_expiry(payload: dict[str, Any]) -> None:
    """Make a job's `expires_in` a time, see `options.fix_expiry`, for a server."""
    if not network.current.in_process:  # a test mode's server counts by its own clock
        job_options.fix_expiry(payload)


def _log_failure(job: str, future: Future[str]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        _log.error("%s, which a Producer has taken, is not queued: %s", job, error)
