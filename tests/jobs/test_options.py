from __future__ import annotations

from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faktory.exceptions import FaktoryPayloadError
from faktory.jobs.options import NAMES, check, merge, to_wire

customs = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.lists(inner),
    max_leaves=8,
)
options = st.fixed_dictionaries({}, optional={"queue": st.text(), "custom": customs})


def test_every_option_there_is_is_accepted() -> None:
    check(dict.fromkeys(NAMES), "here")


@pytest.mark.parametrize(
    ("name", "closest"),
    [("retries", "retry"), ("reserve", "reserve_for"), ("expire_in", "expires_in")],
)
def test_an_unknown_option_is_refused_with_the_closest_name(name: str, closest: str) -> None:
    with pytest.raises(TypeError) as caught:
        check({name: 1}, "@faktory.job")
    assert str(caught.value) == f"@faktory.job has no option {name!r}. Did you mean {closest!r}?"


def test_an_unknown_option_like_no_other_is_refused_with_all_there_are() -> None:
    with pytest.raises(TypeError, match=r"no option 'xyzzy'\. There are \['backtrace', 'custom'"):
        check({"xyzzy": 1}, "@faktory.job")


def test_later_options_win() -> None:
    assert merge({"queue": "a", "retry": 1}, {"queue": "b"}) == {"queue": "b", "retry": 1}


def test_custom_adds_up_at_every_depth() -> None:
    base = {"custom": {"a": {"x": 1, "y": [1]}, "b": 1}}
    over = {"custom": {"a": {"y": [2], "z": 3}, "c": 4}}
    assert merge(base, over) == {
        "custom": {"a": {"x": 1, "y": [2], "z": 3}, "b": 1, "c": 4},
    }


def test_what_is_no_dict_on_either_side_is_replaced() -> None:
    assert merge({"custom": {"a": 1}}, {"custom": None}) == {"custom": None}
    assert merge({"custom": None}, {"custom": {"a": 1}}) == {"custom": {"a": 1}}


def test_any_mapping_becomes_a_dict() -> None:
    frozen = MappingProxyType({"a": MappingProxyType({"b": 1})})
    merged = merge({}, {"custom": frozen})
    assert merged == {"custom": {"a": {"b": 1}}}
    assert type(merged["custom"]) is type(merged["custom"]["a"]) is dict


def containers(value: Any) -> set[int]:
    """The identities of all that could be changed in place."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = {id(value)} if isinstance(value, (dict, list)) else set()
    return own.union(*map(containers, inner))


@given(options, options)
def test_what_is_merged_shares_nothing_with_what_it_was_made_of(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    assert not containers(merge(base, over)) & (containers(base) | containers(over))


@given(options)
def test_each_jobs_fields_share_nothing_with_the_options(declared: dict[str, Any]) -> None:
    assert not containers(to_wire(declared)) & containers(declared)
    assert to_wire(declared) == declared


def test_options_of_the_enterprise_server_travel_in_custom() -> None:
    declared = {
        "queue": "q",
        "custom": {"a": 1, "unique_for": 1},
        "unique_for": timedelta(minutes=1),
        "unique_until": "start",
        "expires_in": 3600.9,
        "track": True,
    }
    assert to_wire(declared) == {
        "queue": "q",
        "custom": {
            "a": 1,
            "unique_for": 60,
            "unique_until": "start",
            "expires_in": 3600,
            "track": 1,
        },
    }


def test_no_custom_is_made_of_options_that_are_none() -> None:
    assert to_wire({"unique_for": None, "track": None}) == {}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("unique_for", 0),
        ("unique_for", True),
        ("unique_for", "60"),
        ("expires_in", -1),
        ("expires_in", float("nan")),
        ("expires_in", timedelta(milliseconds=1)),
        ("unique_until", "end"),
    ],
)
def test_an_enterprise_option_that_cannot_be_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(FaktoryPayloadError, match=option):
        to_wire({option: value})
