"""Models become text: Jinja2 with all values escaped, and the filters of the templates.

Rules: a name that is not there is an error. Nothing in a template calls anything of a model.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from ..go import time as go_time
from ..go.time import SECOND

_TEMPLATES: Final = Path(__file__).parent / "templates"

_MAIN: Final = re.compile(r"<main\b.*</main>", re.DOTALL)
"""What changes in a page; what is escaped cannot end it."""


class Renderer:
    """The templates; safe to use from several threads."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(
            ago=ago,
            date=date,
            instant=instant,
            number=number,
            size=size,
            duration=duration,
            part=part,
        )
        for name in self._environment.list_templates():
            self._environment.get_template(name)  # so that the first page is not late

    def page(self, name: str, **values: Any) -> str:
        """Return a page; `now` is what `ago` counts from."""
        return self._environment.get_template(f"{name}.html").render(values)


def main_of(page: str) -> str:
    """Return the `<main>` of a page."""
    found = _MAIN.search(page)
    return "" if found is None else found[0]


@pass_context
def ago(context: Context, at: int | None) -> str:
    """Write an instant as "3 min ago" or "in 2 h", coarse so that it seldom changes."""
    if at is None:
        return ""
    seconds = (int(context["now"]) - at) // SECOND
    text = _coarse(abs(seconds))
    if text:
        text = f"{text} ago" if seconds > 0 else f"in {text}"
    return _time(at, text or "now")


def date(at: int) -> str:
    """Write the day of an instant, by UTC, as "2026-11-30"."""
    return _write(at)[:10]


def instant(at: int | None) -> str:
    """Write an instant as RFC 3339."""
    return "" if at is None else _time(at, _write(at // SECOND * SECOND))


def _time(at: int, text: str) -> Markup:
    exact = _write(at)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(exact, exact, text)


def _write(at: int) -> str:
    try:
        return go_time.write(at)
    except (ValueError, OverflowError, OSError):  # beyond what the system's gmtime takes
        return str(at)


def _coarse(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds // 10 * 10} s" if seconds >= 10 else ""
    return duration(seconds, parts=1)


def duration(seconds: float | int, parts: int = 2) -> str:
    """Write seconds as "3 min 4 s"; below one as "20 ms"."""
    if 0 < seconds < 1:
        return f"{round(seconds * 1000)} ms"
    left = int(seconds)
    texts = []
    for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= length:
            texts.append(f"{left // length} {name}")
            left %= length
    return " ".join(texts[:parts]) or "0 s"


def number(value: int) -> str:
    """Write a number as "1,234"."""
    return f"{value:,}"


def size(kilobytes: float | int) -> str:
    """Write kilobytes as "12 MB"."""
    names = iter(("kB", "MB", "GB"))
    name = next(names)
    while kilobytes >= 1000 and name != "GB":
        kilobytes, name = kilobytes / 1024, next(names)
    return f"{kilobytes:.0f} {name}" if kilobytes >= 10 else f"{kilobytes:.1f} {name}"


def part(text: str) -> str:
    """Percent-encode a text as one part of a path or query."""
    return quote(text, safe="", errors="replace")
