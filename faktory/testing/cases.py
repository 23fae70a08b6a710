"""Mixins for unittest: each test of a class in a mode of its own.

class ImportTest(FakeMixin, unittest.TestCase):
    def test_it(self):
        Import.perform_async("cats.csv")
        self.assertEqual(len(self.faktory.jobs), 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .memory import MemoryServer
from .modes import fake, inline
from .real import RealServer, served

if TYPE_CHECKING:
    from unittest import TestCase as _TestCase
else:
    _TestCase = object


class FakeMixin(_TestCase):
    """Each test in fake mode; `self.faktory` holds what it pushed."""

    faktory: MemoryServer

    def setUp(self) -> None:
        super().setUp()
        self.faktory = self.enterContext(fake())


class InlineMixin(_TestCase):
    """Each test in inline mode."""

    faktory: MemoryServer

    def setUp(self) -> None:
        super().setUp()
        self.faktory = self.enterContext(inline())


class ServerMixin(_TestCase):
    """Each test with an embedded server of its own: `self.faktory.url`, `.drain()`, `.travel()`."""

    faktory: RealServer

    def setUp(self) -> None:
        super().setUp()
        self.faktory = self.enterContext(served())
