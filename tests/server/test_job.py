import json

import pytest

from faktory.server.go import json as go_json
from faktory.server.job import JOB, StoredJob

MINIMAL = '"jid":"j","queue":"","jobtype":"T"'


def made(text):
    return StoredJob(go_json.read_struct(JOB, go_json.load(text)))


def test_fields_come_out_in_the_order_of_the_struct():
    text = (
        '{"retry":2,"failure":{"failed_at":"f","next_at":"n","message":"m","errtype":"e",'
        '"backtrace":["b"],"retry_count":1,"remaining":1},"custom":{"a":1},"jid":"j","queue":"q",'
        '"jobtype":"T","created_at":"c","enqueued_at":"e","at":"a","args":[1],"reserve_for":60,'
        '"backtrace":5}'
    )
    backwards = json.dumps(dict(reversed(json.loads(text).items())))
    assert made(backwards).render() == text.encode()


def test_empty_fields_are_left_out_except_those_of_every_job():
    job = made('{"jid":"j","jobtype":"T","args":[],"custom":{},"at":"","reserve_for":0}')
    assert job.render() == b'{"retry":25,%b,"args":[]}' % MINIMAL.encode()


def test_an_empty_failure_keeps_its_numbers():
    job = made('{"jid":"j","jobtype":"T","args":[],"failure":{}}')
    failure = b'{"failed_at":"","retry_count":0,"remaining":0}'
    assert job.render() == b'{"retry":25,"failure":%b,%b,"args":[]}' % (failure, MINIMAL.encode())


def test_a_job_without_retry_gets_25_whatever_other_jobs_have():
    assert made('{"retry":3}').retry == 3
    assert made("{}").retry == 25
    assert made('{"retry":null}').retry == 25


@pytest.mark.parametrize("field", ['"args":[1e999]', '"custom":{"a":[-1e999]}'])
def test_a_number_beyond_doubles_is_rejected(field):
    with pytest.raises(ValueError, match="range"):
        made(f"{{{field}}}")


def test_a_number_beyond_doubles_in_an_unknown_field_is_ignored():
    assert made('{"unknown":1e999}').args is None
