import time

import pytest

from faktory.server.go import time as go_time


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_767_323_045_678_901_234, "2026-01-02T03:04:05.678901234Z"),
        (1_767_323_045_100_000_000, "2026-01-02T03:04:05.1Z"),
        (1_767_323_045_000_000_000, "2026-01-02T03:04:05Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
    ],
)
def test_an_instant_is_written_without_zeros_at_its_end(instant, text):
    assert go_time.write(instant) == text
    assert go_time.read(text) == instant


def test_the_present_time_reads_back_as_it_was_written():
    now = time.time_ns()
    assert go_time.read(go_time.write(now)) == now


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-01-02T03:04:05+01:30", "2026-01-02T01:34:05Z"),
        ("2026-01-02T03:04:05-24:60", "2026-01-03T04:04:05Z"),
        ("2026-01-02T3:04:05,5Z", "2026-01-02T03:04:05.5Z"),
        ("2026-01-02T03:04:05.1234567899Z", "2026-01-02T03:04:05.123456789Z"),
    ],
)
def test_offsets_and_the_forms_that_only_go_accepts_are_read(text, same):
    assert go_time.read(text) == go_time.read(same)


def test_the_year_0_is_read_as_past():
    assert go_time.read("0000-02-29T00:00:00Z") < 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", 'parsing time "" as "2006-01-02T15:04:05.999999999Z07:00": cannot parse "" as "2006"'),
        (
            "2026-é",
            r'parsing time "2026-\xc3\xa9" as "2006-01-02T15:04:05.999999999Z07:00": '
            r'cannot parse "\xc3\xa9" as "01"',
        ),
        ("2026-02-29T00:00:00Z", 'parsing time "2026-02-29T00:00:00Z": day out of range'),
        ("2026-13-40x", 'parsing time "2026-13-40x": month out of range'),
        (
            "2026-01-01T00:00:00+25:61x",
            'parsing time "2026-01-01T00:00:00+25:61x": time zone offset minute out of range',
        ),
        ("2026-01-01T00:00:00Z\n", r'parsing time "2026-01-01T00:00:00Z\x0a": extra text: "\x0a"'),
    ],
)
def test_an_invalid_instant_is_rejected_in_gos_words(text, complaint):
    with pytest.raises(ValueError, match="parsing time") as refused:
        go_time.read(text)
    assert str(refused.value) == complaint
