"""The pictures of the first page: with nothing, one point, and millions of jobs."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("jinja2", reason="needs the extra web")

from faktory.server.go.time import SECOND
from faktory.server.web.models import Counts, IndexPage, Point, Site
from faktory.server.web.rendering import Renderer

DAY = 86400 * SECOND
NOW = 20_000 * DAY + 3600 * SECOND


def index(by_day: list[Point], by_minute: list[Point], days: int = 30) -> str:
    page = IndexPage(days, by_day, by_minute, "1.10.0", 60, 1, 1, 50, [])
    counts = Counts(*[sum(point[n] for point in by_day) for n in (1, 2)], 0, 0, 0, 0, 0)
    site = Site("", "token", False, "1", "Faktory", None, "index", "", "")
    return Renderer().page("index", page=page, counts=counts, site=site, now=NOW)


def bars(text: str, kind: str) -> list[float]:
    """The heights of the bars, in hundredths of the axis."""
    return [float(each) for each in re.findall(rf'class="{kind}"[^>]* height="([0-9.]+)"', text)]


def axis(text: str) -> list[str]:
    """The texts of the two vertical axes, from the top."""
    return re.findall(r"<li>([^<]*)</li>", "".join(re.findall(r'class="y".*?</ol>', text, re.S)))


def test_nothing_has_an_axis_and_no_bar() -> None:
    for points in ([], [Point(20_000 * DAY, 0, 0)]):
        text = index(points, points)
        assert bars(text, "ok") == bars(text, "fail") == []
        assert axis(text) == ["2", "1", "0"] * 2
        assert "0 processed and 0 failed in 30 days" in text
        assert "client.push(" in text


def test_one_job_is_a_bar_and_a_dot() -> None:
    text = index([Point(20_000 * DAY, 1, 1)], [Point(NOW, 1, 0)])
    assert bars(text, "ok") == bars(text, "fail") == [50.0]
    assert 'x="291.5"' in text  # today is the last of 30
    assert 'class="ok dot" d="M600.0 50.0h.01"' in text
    assert "1 processed and 1 failed in 30 days" in text


@pytest.mark.parametrize("days", [7, 30, 90, 180])
@pytest.mark.parametrize("most", [9, 1_234, 15_000, 43_210_000, 9_876_543_210])
def test_bars_stay_within_the_axis_and_few_failures_are_seen(days: int, most: int) -> None:
    points = [
        Point((20_000 - days + 1 + n) * DAY, most * (n + 1) // days, min(n, 1)) for n in range(days)
    ]
    text = index(points, points[-60:], days)
    heights = bars(text, "ok")
    assert max(heights) <= 100
    assert max(heights) > 40
    assert len(bars(text, "fail")) == days - 1
    assert min(bars(text, "fail")) >= 1
    assert f"{most:,} processed on the busiest day" in text
    assert f"{days} days" in text
    assert all(len(each) <= 6 for each in axis(text))


def test_failures_beyond_the_processed_jobs_stay_within_the_picture() -> None:
    """FLUSH sets the counters back between two samples."""
    text = index([Point(20_000 * DAY, 1, 50)], [Point(NOW, 1, 50), Point(NOW + SECOND, 1, 50)])
    assert bars(text, "fail") == [100.0]
    assert "nan" not in text
    assert "-" not in "".join(re.findall(r' d="([^"]*)"', text))
