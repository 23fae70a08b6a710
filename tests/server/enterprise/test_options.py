import json

import pytest

from faktory.server.enterprise.options import EnterpriseOptions, read_options, set_custom
from faktory.server.go.time import SECOND
from faktory.server.store import CommandError


def test_a_job_without_custom_has_no_options():
    assert (
        read_options(None)
        == read_options("{}")
        == read_options('{"bid":null,"locale":"en"}')
        == EnterpriseOptions()
    )


@pytest.mark.parametrize(
    ("custom", "marks"),
    [
        ('{"bid":"b-1"}', EnterpriseOptions(bid="b-1")),
        ('{"bid":""}', EnterpriseOptions()),
        ('{"_bid":"b-1","_cb":"success"}', EnterpriseOptions(callback_of="b-1")),
        ('{"unique_for":600}', EnterpriseOptions(unique_for=600 * SECOND)),
        ('{"unique_for":0.5}', EnterpriseOptions(unique_for=SECOND // 2)),
        ('{"unique_for":0.0000015}', EnterpriseOptions(unique_for=1500)),
        (
            '{"unique_for":60.0,"unique_until":"start"}',
            EnterpriseOptions(unique_for=60 * SECOND, until_start=True),
        ),
        ('{"unique_until":"success"}', EnterpriseOptions()),
        ('{"expires_at":"1970-01-01T01:00:01+01:00"}', EnterpriseOptions(expires_at=SECOND)),
        ('{"expires_in":1000000000}', EnterpriseOptions(expires_in=10**18)),
        ('{"track":1}', EnterpriseOptions(track=True)),
        ('{"track":true}', EnterpriseOptions(track=True)),
        ('{"track":0}', EnterpriseOptions()),
        ('{"track":false}', EnterpriseOptions()),
    ],
)
def test_options_are_read(custom, marks):
    assert read_options(custom) == marks


@pytest.mark.parametrize(
    ("custom", "complaint"),
    [
        ('{"bid":7}', "custom.bid must be a string, not 7"),
        ('{"_bid":[]}', r"custom._bid must be a string, not \[\]"),
        ('{"unique_for":"600"}', 'custom.unique_for must be a number of seconds .* not "600"'),
        ('{"unique_for":true}', "custom.unique_for must be .* not true"),
        ('{"unique_for":0}', "custom.unique_for must be .* not 0"),
        ('{"unique_for":-1}', "custom.unique_for must be .* not -1"),
        ('{"expires_in":1000000001}', "custom.expires_in must be .* not 1000000001"),
        ('{"expires_in":1e300}', "custom.expires_in must be .* not 1e"),
        ('{"unique_until":"end"}', 'custom.unique_until must be "success" or "start", not "end"'),
        ('{"unique_until":[]}', 'custom.unique_until must be "success" or "start"'),
        ('{"expires_at":1}', "custom.expires_at must be a string, not 1"),
        ('{"expires_at":"soon"}', "invalid timestamp for 'custom.expires_at': \"soon\": parsing"),
    ],
)
def test_an_invalid_option_is_rejected(custom, complaint):
    with pytest.raises(CommandError, match=complaint):
        read_options(custom)


def test_setting_an_option_leaves_the_others_as_they_are(new_job):
    job = new_job("job-0001", custom={"a": 1.5, "bid": "b-1"})
    set_custom(job, {"_bid": "b-2", "bid": None, "other": None})
    assert json.loads(job.custom) == {"a": 1.5, "_bid": "b-2"}
    set_custom(job, {"_bid": None, "a": None})
    assert job.custom is None
