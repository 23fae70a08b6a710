"""Mixins for unittest: each test of a class has its own mode or server.

class ImportTest(FakeMixin, unittest.TestCase):
    def test_it(self):
        Import.perform_async("cats.csv")
        self.assertEqual(len(self.faktory.jobs), 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .embedded import EmbeddedTestServer, served
from .memory import MemoryServer
from .modes import fake, inline

if TYPE_CHECKING:
    from unittest import TestCase as _TestCase
else:
    _TestCase = object


class FakeMixin(_TestCase):
    """Each test in fake mode; `self.faktory` keeps the jobs that it pushes."""

    faktory: MemoryServer

    def setUp(self) -> None:
        super().setUp()
        self.faktory = self.enterContext(fake())


class InlineMixin(_TestCase):
    """Each test in inline mode: a job runs where it is pushed."""

    faktory: MemoryServer

    def setUp(self) -> None:
        super().setUp()
        self.faktory = self.enterContext(inline())


class ServerMixin(_TestCase):
    """Each test with its own embedded server: `self.faktory.url`, `.drain()`, `.travel()`."""

    faktory: EmbeddedTestServer

    def setUp(self) -> None:
        super().setUp()
        self.faktory = self.enterContext(served())
