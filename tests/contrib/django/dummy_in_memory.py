"""The backend in the place of Django's DummyBackend, for Django's own tests of its tasks.

Its jobs are kept by `faktory.testing.fake()`. What those tests ask of DummyBackend beyond its
contract is added: `results`, the tasks whose jobs wait, and `clear`.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import faktory.testing
from faktory.contrib.django import FaktoryBackend

faktory.testing.fake()

_of_jobs: dict[str, Any] = {}


class DummyBackend(FaktoryBackend):
    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self.priority_queues = {100: "critical", 0: "default", -100: "low"}
        self.supports_priority = True

    def _note_enqueued(self, result: Any) -> None:
        super()._note_enqueued(result)
        _of_jobs[result.id] = deepcopy(result)

    @property
    def results(self) -> list[Any]:
        return [_of_jobs[job["jid"]] for job in faktory.testing.jobs]

    def clear(self) -> None:
        faktory.testing.clear_all()
