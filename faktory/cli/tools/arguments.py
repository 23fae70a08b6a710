"""Arguments that several tools have, and the types of their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def add_json(add: Callable[..., Any], what: str) -> None:
    """Add --json; `what` it prints."""
    add("--json", action="store_true", help=f"for programs: {what}")


def seconds(text: str) -> float:
    """Return a number of seconds, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return number
