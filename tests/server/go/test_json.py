import json

import pytest

from faktory.server.go import json as go_json
from faktory.server.go.json import INT, STRING, STRINGS, UINT8, GoType, JSONError

THING = GoType(
    "pkg.Thing",
    dict,
    {
        "name": STRING,
        "count": INT,
        "small": UINT8,
        "words": STRINGS,
        "inner": GoType("pkg.Inner", dict, {"count": INT}),
    },
)


def through(text):
    return go_json.dump(go_json.load(text))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("9007199254740993", "9007199254740992"),
        ("123456789012345683968", "123456789012345680000"),
        ("999999999999999999999", "1e+21"),
        ("-1e21", "-1e+21"),
        ("1e20", "100000000000000000000"),
        ("1.0", "1"),
        ("-0", "-0"),
        ("-0.0", "-0"),
        ("0e5", "0"),
        ("1e-5", "0.00001"),
        ("1.5e-6", "0.0000015"),
        ("1e-7", "1e-7"),
        ("1e-10", "1e-10"),
        ("5e-324", "5e-324"),
        ('{"b":1e-7,"a":"1e-7"}', '{"a":"1e-7","b":1e-7}'),
    ],
)
def test_numbers_pass_through_a_double_and_are_written_as_go_does(text, written):
    assert through(text) == written


def test_characters_that_are_special_in_html_and_javascript_are_escaped():
    assert go_json.dump("<a&b>\u2028\u2029é") == r'"\u003ca\u0026b\u003e\u2028\u2029é"'


def test_a_text_that_resembles_an_internal_number_stays_a_text():
    assert through('"\\udfff1e-7\\udfff"') == '"\ufffd1e-7\ufffd"'


def test_each_byte_that_is_not_utf8_becomes_a_replacement_character():
    assert go_json.decode(b"a\xff\xe2\x82b\xed\xa0\x80") == "a���b���"


def test_a_number_beyond_doubles_can_be_read_but_not_written():
    value = go_json.load('{"a":1e400,"b":1}')
    assert value["b"] == 1
    with pytest.raises(ValueError, match="range"):
        go_json.dump(value)


def test_fields_are_found_in_any_case_and_null_is_ignored():
    given = {"NAME": "x", "Count": None, "unknown": 1.5, "words": ["a", None]}
    assert go_json.read_struct(THING, given) == {"name": "x", "words": ["a", ""]}
    assert go_json.read_struct(THING, None) == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"name":1}', "number into Go struct field Thing.name of type string"),
        ('{"NAME":true}', "bool into Go struct field Thing.name of type string"),
        ('{"count":1.0}', "number 1.0 into Go struct field Thing.count of type int"),
        ('{"count":-0.0}', "number -0 into Go struct field Thing.count of type int"),
        ('{"count":1e3}', "number 1000.0 into Go struct field Thing.count of type int"),
        ('{"count":0.0000015}', "number 0.0000015 into Go struct field Thing.count of type int"),
        ('{"count":1e400}', "number inf into Go struct field Thing.count of type int"),
        (
            '{"count":9223372036854775808}',
            "number 9223372036854775808 into Go struct field Thing.count of type int",
        ),
        ('{"small":256}', "number 256 into Go struct field Thing.small of type uint8"),
        ('{"small":-1}', "number -1 into Go struct field Thing.small of type uint8"),
        ('{"words":["a",[]]}', "array into Thing.words.1 of type string"),
        ('{"words":[0.0000015]}', "number into Thing.words.0 of type string"),
        ('{"inner":{"count":""}}', "string into Go struct field Thing.inner.count of type int"),
        ('{"x":1,"inner":[],"name":1}', "array into Go struct field Thing.inner of type pkg.Inner"),
        ("[]", "array into Go value of type pkg.Thing"),
    ],
)
def test_the_error_for_a_value_that_does_not_fit_names_its_place(text, complaint):
    with pytest.raises(JSONError) as refused:
        go_json.read_struct(THING, go_json.load(text))
    assert str(refused.value) == f"json: cannot unmarshal {complaint}"


@pytest.mark.parametrize(
    "number", [0, 1234567890123456789, 9223372036854775807, -9223372036854775808]
)
def test_an_integer_for_an_int_does_not_pass_through_a_double(number):
    text = f'{{"count":{number}}}'.replace(":0", ":-0")
    given = go_json.read_struct(THING, go_json.load(text))
    assert (type(given["count"]), given) == (int, {"count": number})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{}", "object into Go value of type []pkg.Thing"),
        ("[{},[]]", "array into .1 of type pkg.Thing"),
        ('[{"inner":{"count":""}}]', "string into Go struct field .0.inner.count of type int"),
    ],
)
def test_the_error_for_a_value_in_a_list_names_its_place(text, complaint):
    things = GoType("[]pkg.Thing", list, items=THING)
    with pytest.raises(JSONError) as refused:
        go_json.read_structs(things, go_json.load(text))
    assert str(refused.value) == f"json: cannot unmarshal {complaint}"
    assert go_json.read_structs(things, None) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{bad", "invalid character 'b' looking for beginning of object key string"),
        ("bad", "invalid character 'b' looking for beginning of value"),
        ("{\"a\":'b'}", 'invalid character "\'" looking for beginning of value'),
        ("", "unexpected end of JSON input"),
        ("[1.5e-", "Expecting ',' delimiter: line 1 column 5 (char 4)"),
        ("[1.5.2]", "Expecting ',' delimiter: line 1 column 5 (char 4)"),
        ('{"a":"x\\u12', "Invalid \\uXXXX escape: line 1 column 9 (char 8)"),
        ('{"a":{"b":["]",1}}', "Expecting ',' delimiter: line 1 column 17 (char 16)"),
        ('["\\é"]', "Invalid \\escape: line 1 column 3 (char 2)"),
        ("{} x", "Extra data: line 1 column 4 (char 3)"),
        ("Infinity", "invalid value Infinity"),
        ("[-Infinity]", "invalid value -Infinity"),
        ("[" * 200_000, "exceeded max depth"),
    ],
)
def test_the_error_for_broken_json_names_the_problem_and_its_place(text, complaint):
    with pytest.raises(JSONError) as refused:
        go_json.load(text)
    assert str(refused.value) == complaint


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ('a"\\b', r'"a\"\\b"'),
        ("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"'),
        ("\x00\x7f\xa0é😀", r'"\x00\x7f\u00a0é😀"'),
        ("\u2028\U000e0001", r'"\u2028\U000e0001"'),
    ],
)
def test_texts_are_quoted_as_go_does(text, quoted):
    assert go_json.quote(text) == quoted


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        ("3.0", 3),
        ("-0", 0),
        ("0.5", 0.5),
        ("0.0000015", 1.5e-6),
        ("2e-9", 2e-9),
        ("1e300", 1e300),
        ("true", None),
        ('"3"', None),
        ("null", None),
        ("[3]", None),
    ],
)
def test_only_a_number_is_converted_to_a_float(text, number):
    assert go_json.to_float(go_json.load(text)) == number


@pytest.mark.parametrize(
    "text", ["[" * 10_001, "[" * 10_001 + "]" * 10_001, '{"[":' * 10_001 + "1" + "}" * 10_001]
)
def test_deeper_nesting_than_go_reads_is_rejected_by_every_python(text):
    with pytest.raises(JSONError, match="exceeded max depth"):
        go_json.load(text)


def test_brackets_in_strings_and_side_by_side_are_not_deep():
    wide = [[]] * 10_001 + ["[{" * 10_001 + '\\"[']
    assert go_json.load(json.dumps(wide)) == wide
