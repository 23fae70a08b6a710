"""Where a job is declared, by which a second declaration in one execution of a module is noticed.

Rules: what is in doubt is not a second declaration. Only what an import, or the start of a program,
executes is looked at: each time that has a code object of its own. `exec`, prompts and the cells of
notebooks may run the same code again. A function inside of another one may be declared with each
call. A class that a decorator makes again (of dataclasses, of attrs) has the same `perform`. What
is declared in an `except` takes the place of what the `try` has declared.
"""

from __future__ import annotations

import inspect
import sys
from types import CodeType
from typing import Any, NamedTuple
from weakref import ReferenceType, ref


class Declaration(NamedTuple):
    """Where a function or a class is declared."""

    execution: ReferenceType[CodeType]
    """The code of its module, while that is executed."""

    body: int
    """The line of the function, or of the class's `perform`."""

    line: int
    """The line of the declaration."""

    def is_same_execution(self, other: Declaration) -> bool:
        """Return whether both are declared in one execution of a module."""
        return self.execution() is not None and self.execution() is other.execution()


def find_declaration(definition: Any, function: object) -> Declaration | None:
    """Return where a function, or a class with its own `perform`, is declared; None in doubt."""
    definition = inspect.unwrap(definition)
    code = getattr(inspect.unwrap(function), "__code__", None)  # type: ignore[arg-type]
    if code is None or "<locals>" in definition.__qualname__ or sys.exception() is not None:
        return None
    line = 0 if isinstance(definition, type) else code.co_firstlineno
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == definition.__module__:
            line = line or frame.f_lineno
            if frame.f_code.co_name == "<module>":
                caller = frame.f_back
                if caller is not None and not caller.f_code.co_filename.startswith("<frozen "):
                    return None  # not the import system, nor runpy
                return Declaration(ref(frame.f_code), code.co_firstlineno, line)
        frame = frame.f_back  # type: ignore[assignment]
    return None
