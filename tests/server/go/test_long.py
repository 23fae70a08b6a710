"""Long JSON in slices: the same as `load` and `dump`, through a window of a few bytes."""

from random import Random

import pytest

from faktory.server.go import json as go_json
from faktory.server.go import long
from faktory.server.go.json import JSONError, Rendered
from faktory.server.go.long import load_in_slices
from faktory.server.slices import finish

PIECES = ["a", "é", "😀", "\\n", "\\\\", '\\"', "\\ud83d\\ude00", "\\ud83d", "\\ude00", "\\u0041"]
PIECES += ["<", "\u2028", "x" * 20, "\udc80", "\udcff\udce2", "\\/"]
SCALARS = ["null", "true", "-0", "1.0", "1e5", "0.1e-7", "123456789012345678", "-0.0", "2E+3", "7"]
BREAKS = [b"", b"x", b"\\", b'"', b"}", b"]", b"\x00", b"\xe2", b","]


class Texts:
    """Random JSON, with white space in each place, as text whose surrogates are broken UTF-8."""

    def __init__(self, seed):
        self.random = Random(seed)

    def space(self):
        return self.random.choice(["", "", "", "", " ", "\n \t", " " * 50])

    def string(self):
        return '"' + "".join(self.random.choices(PIECES, k=self.random.randrange(12))) + '"'

    def value(self, depth):
        kind = self.random.randrange(10 if depth else 6)
        if kind < 3:
            return self.random.choice(SCALARS)
        if kind < 6:
            return self.string()
        items = [
            (self.string() + self.space() + ":" if kind == 9 else "")
            + self.space()
            + self.value(depth - 1)
            + self.space()
            for _ in range(self.random.randrange(5))
        ]
        text = self.space() + f",{self.space()}".join(items)
        return f"{{{text}}}" if kind == 9 else f"[{text}]"


def read(data):
    return finish(load_in_slices(b"PUSH " + data, 5))


def comparable(value):
    """Return a value with `args` and `custom` as text, which is how they are kept."""
    if type(value) is list:
        return [comparable(item) for item in value]
    if type(value) is dict:
        return {
            key: go_json.dump(item) if key.casefold() in ("args", "custom") else comparable(item)
            for key, item in value.items()
        }
    return value


def check(data):
    """Check that both read the same, unless a key does not fit into the small window."""
    expected = comparable(go_json.load(go_json.decode(data)))
    try:
        found = comparable(read(data))
    except JSONError as error:
        if "a key is broken or too long" not in str(error):
            raise
    else:
        assert repr(found) == repr(expected)


@pytest.mark.parametrize("window", [48, 64, 100])
def test_random_json_is_read_the_same_in_slices(monkeypatch, window):
    monkeypatch.setattr(long, "_WINDOW", window)
    texts = Texts(window)
    for _ in range(1500):
        form = texts.random.choice(
            ["%s", '{"args":%s}', '{"x":1,"CUSTOM":%s}', '[{"args":%s},2]', '{"y":%s}']
        )
        data = (form % texts.value(4)).encode("utf-8", "surrogateescape")
        check(data)


def test_broken_json_is_broken_in_slices(monkeypatch):
    monkeypatch.setattr(long, "_WINDOW", 48)
    texts = Texts(1)
    refused = 0
    for _ in range(1500):
        data = f'{{"args":{texts.value(4)}}}'.encode("utf-8", "surrogateescape")
        place = texts.random.randrange(len(data) + 1)
        data = data[:place] + texts.random.choice(BREAKS) + data[place + 1 :]
        try:
            go_json.load(go_json.decode(data))
        except JSONError:
            with pytest.raises(JSONError):
                read(data)
            refused += 1
        else:
            check(data)
    assert refused > 100


def test_what_is_not_kept_as_objects_is_rendered():
    data = b'{"args":[%s],"custom":{%s},"jid":"x"}' % (
        b",".join(b'{"b":[1],"a":"<"}' for _ in range(5000)),
        b",".join(b'"k%d":%d' % (number * 7919 % 5003, number) for number in range(5000)),
    )
    value = read(data)
    whole = go_json.load(data.decode())
    assert value["args"] == Rendered(list, go_json.dump(whole["args"]))
    assert value["custom"] == Rendered(dict, go_json.dump(whole["custom"]))
    assert value["jid"] == "x"


def test_items_are_passed_on_one_by_one():
    found = []
    steps = load_in_slices(
        b"[" + b",".join(b'{"n":%d}' % n for n in range(9000)) + b"]", 0, found.append
    )
    next(steps)
    assert 0 < len(found) < 9000
    assert finish(steps) == []
    assert found == [{"n": number} for number in range(9000)]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"[" + b"1" * 100_000 + b"]", "a number has more than 16384 digits"),
        (b'{"' + b"x" * 100_000 + b'":1}', "a key is broken or too long"),
        (
            b'{"args":' + b"[1," * 1100 + b'"' + b"x" * 30_000 + b'"' + b"]" * 1100 + b"}",
            "max depth",
        ),
        (b"[" * 100_000, "exceeded max depth"),
        (b'{"x":"' + b"x" * 100_000, "unexpected end of JSON input"),
        (b'["' + b"x" * 100_000 + b'\\q"]', "escape"),
        (b'["' + b"x" * 100_000 + b'\n"]', "control character"),
        (b"[" + b"[1e400]," * 9000 + b"1] 2", "after top-level value"),
        (b'{"args":[[1e400],"' + b"x" * 100_000 + b'"]}', "beyond the range of float64"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(data, error):
    with pytest.raises(JSONError, match=error):
        read(data)


def test_keys_that_must_be_held_are_limited(monkeypatch):
    monkeypatch.setattr(long, "MAX_KEYS", 3000)
    keys = b",".join(b'"key-%d":1' % number for number in range(3001))
    with pytest.raises(JSONError, match="more than 3000 keys"):
        read(b'{"args":[{%s}]}' % keys)


def test_what_becomes_objects_is_limited(monkeypatch):
    monkeypatch.setattr(long, "MAX_PARSED", 100_000)
    read(b'{"args":[' + b'"",' * 20_000 + b'""]}')
    read(b"[" + b'"",' * 9000 + b'""]')
    with pytest.raises(JSONError, match="more than 100000 bytes beside args and custom"):
        read(b"[" + b'"",' * 20_000 + b'""]')
