"""Fuzz the two implementations of the core against each other, guided by coverage.

    python tests/fuzz/fuzz_core.py [-max_total_time=60] [other options of libFuzzer]
    python tests/fuzz/fuzz_core.py crash-...       replay a stored crash

Builds the compiled twins twice in build/fuzz: with coverage (see coverage.c) for the search, then
with AddressSanitizer and UndefinedBehaviorSanitizer to replay every input that the search has kept.
A failing input is stored in a file crash-... Needs atheris, Cython and gcc.

The first byte of an input selects the kind of the rest: JSON, a value, a stream of replies, or what
the peer of an exchange does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "fuzz"
CORPUS = BUILD / "corpus"
WORDS = [
    *("+OK\r\n", "$-1\r\n", "$0\r\n\r\n", "\r\n", ":1\r\n", "-ERR ", "$5\r\n", "536870912"),
    *("null", "true", "false", "\\u", "\\ud83d\\ude00", "\\ud800", '"a":', "1e", "E400", "-0.0"),
    *("9007199254740993", "é", "[[[[[[[[", "{}", "[]", '""', '":', '","', "\\n", "NaN"),
]


def main() -> None:
    CORPUS.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (CORPUS / f"seed{number}").write_bytes(seed)
    found = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if not found:
        words = BUILD / "words"
        lines = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in WORDS)
        words.write_text("".join(f'"{line}"\n' for line in lines))
        options = [f"-dict={words}", "-max_len=4096", "-timeout=30", "-rss_limit_mb=4096"]
        # Code compiled for coverage calls libFuzzer, which is part of atheris.
        atheris = importlib.util.find_spec("atheris.core_with_libfuzzer")
        assert atheris is not None
        build("coverage", ["-fsanitize-coverage=trace-pc,trace-cmp"], "coverage.c", atheris.origin)
        run("coverage", [*options, *(sys.argv[1:] or ["-max_total_time=60"]), str(CORPUS)])
    build("sanitized", ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"])
    library = subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True).strip()
    run(
        "sanitized",
        found or [str(path) for path in sorted(CORPUS.iterdir())],
        LD_PRELOAD=library,
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="print_stacktrace=1",
        PYTHONMALLOC="malloc",
    )


def build(name: str, flags: list[str], source: str = "", library: str | None = None) -> None:
    """Build build/fuzz/<name>/faktory: the package with compiled twins with these flags."""
    package = BUILD / name / "faktory"
    (package / "wire").mkdir(parents=True, exist_ok=True)
    for path in [
        found for kind in ("*.py", "*.h", "wire/*.py") for found in ROOT.glob(f"faktory/{kind}")
    ]:
        (package / path.relative_to(ROOT / "faktory")).write_bytes(path.read_bytes())
    compiler = ["gcc", "-g", "-O1", "-fPIC", "-fno-omit-frame-pointer"]
    compiler += [f"-I{sysconfig.get_path('include')}"]
    linked = []
    if source:
        linked = [package / "other.o", *filter(None, [library])]
        source_path = Path(__file__).with_name(source)
        subprocess.run([*compiler, "-c", source_path, "-o", linked[0]], check=True)
    for twin in ("_proto", "_exchange"):
        made, pyx = package / f"{twin}.c", ROOT / "faktory" / f"{twin}.pyx"
        subprocess.run([sys.executable, "-m", "cython", "-3", pyx, "-o", made], check=True)
        extension = package / f"{twin}{sysconfig.get_config_var('EXT_SUFFIX')}"
        subprocess.run([*compiler, "-shared", *flags, made, *linked, "-o", extension], check=True)


def run(name: str, arguments: list[str], **environment: str) -> None:
    """Run this file again with the package that build() made."""
    environment |= {"PYTHONPATH": str(BUILD / name), "FAKTORY_FUZZ": name}
    command = [sys.executable, __file__, *arguments]
    code = subprocess.run(command, env=os.environ | environment).returncode
    if code:
        sys.exit(f"fuzz_core.py: the {name} run failed with exit code {code}")


def seeds() -> Iterator[bytes]:
    job = {"jid": "0123456789abcdef01234567", "jobtype": "Send", "args": [1, -2.5, "é\n", None]}
    for text in (json.dumps(job), json.dumps(job, ensure_ascii=False, indent=1), "[[]," * 300):
        data = text.encode()
        yield b"j" + data
        yield b"r\x00\x00$%d\r\n%b\r\n+OK\r\n-ERR x\r\n:5\r\n$-1\r\n" % (len(data), data)
        yield b"r\x13\x0f$%d\r\n%b\r\n$0\r\n\r\n" % (len(data), data)
    for how in range(32):
        yield b"x" + bytes([how]) + b"+OK\r\n"
        yield b"x" + bytes([how]) + b"$2\r\n{}\r\n"
    yield b"v" + bytes(range(256))
    yield (
        b"vU\x05hello"
        + b"I"
        + bytes(8)
        + b"R"
        + struct.pack("<d", 0.1)
        + b"NTFL\x04caf\xe9\x07\x16"
    )


def show(function: Callable[..., object], *args: object) -> tuple[str, str, str]:
    from faktory.exceptions import FaktoryJSONError, FaktoryPayloadError, FaktoryProtocolError

    try:
        value = function(*args)
    except (FaktoryJSONError, FaktoryPayloadError, FaktoryProtocolError) as error:
        return ("error", type(error).__name__, str(error))
    return ("value", type(value).__name__, repr(value))


def same(first: object, second: object) -> None:
    if first != second:
        raise AssertionError(f"the twins differ:\npython   {first}\ncompiled {second}")


def check_json(twins: list[Any], data: bytes) -> None:
    python, compiled = (show(core.load_json, data) for core in twins)
    same(python, compiled)
    if python[0] == "value":
        expected = json.loads(data)
        same(repr(expected), python[2])
        check_value(twins, expected)


def check_value(twins: list[Any], value: object) -> None:
    python, compiled = (show(core.dump_json, value) for core in twins)
    same(python, compiled)
    if python[0] == "value":
        written = twins[1].dump_json(value)
        same(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), written)
        same(repr(json.loads(written)), repr(twins[1].load_json(written)))
    for name, argument in (("encode_push", value), ("encode_push_bulk", [value, value])):
        python, compiled = (show(getattr(core, name), argument) for core in twins)
        same(python, compiled)


def build_value(data: bytes) -> object:
    """Interpret bytes as instructions that push values onto a stack; return the top value."""
    stack: list[tuple[object, int]] = []  # values with their sizes; shared parts count each time
    pos = 0

    def read(size: int) -> bytes:
        nonlocal pos
        pos += size
        return data[pos - size : pos].ljust(size, b"\0")

    while pos < len(data):
        code = read(1)[0]
        made: object = None
        size = 1
        match chr(code):
            case "N":
                pass
            case "T" | "F":
                made = code == ord("T")
            case "I":
                made = struct.unpack("<q", read(8))[0]
            case "i":
                made = read(1)[0] - 128
            case "R":
                made = struct.unpack("<d", read(8))[0]
            case "r":
                made = struct.unpack("<h", read(2))[0] / 100
            case "B":
                made = b"bytes"
            case "L" | "U" | "V" | "W":
                piece = read(read(1)[0])
                encoding = {"L": "latin-1", "U": "utf-8", "V": "utf-16-le", "W": "utf-32-le"}
                made = piece.decode(encoding[chr(code)], "ignore")
            case "S":
                made = chr(0xD000 + read(1)[0] * 16) * 3
            case "X":
                made = read(4).decode("latin-1") * (read(1)[0] * 4)
            case "n":  # deep
                depth = read(1)[0] * 3
                made, size = stack.pop() if stack else (1, 1)
                for _ in range(depth):
                    made = [made]
                size += depth
            case "p":  # wide
                times = read(1)[0]
                parts = stack[-2:]
                size = 1 + times * sum(part[1] for part in parts)
                if size > 5_000:
                    continue
                made = [part[0] for part in parts] * times
            case _:
                count = min(code % 8, len(stack))
                parts = stack[len(stack) - count :]
                del stack[len(stack) - count :]
                size += sum(part[1] for part in parts)
                made = [part[0] for part in parts]
                if code % 3 == 0:
                    made = tuple(made)
                elif code % 3 == 1:
                    keys = [part[0] if isinstance(part[0], str) else "k" for part in parts]
                    made = dict(zip(keys, (part[0] for part in parts), strict=True))
        stack.append((made, size))
    return stack[-1][0] if stack else None


def check_replies(twins: list[Any], how: int, size: int, stream: bytes) -> None:
    limits = [(), (), (30, 10), (100_000, 50)][how & 3]
    parsers = [core.ReplyParser(*limits) for core in twins]
    by_view, calls = how & 4, ["next_json", "next"] if how & 8 else ["next"]
    size = size or len(stream) or 1

    def feed(parser: Any, piece: bytes) -> int:
        if not by_view:
            parser.feed(piece)
            return 0
        view = parser.get_buffer(len(piece))
        view[: len(piece)] = piece
        parser.buffer_updated(len(piece))
        return len(view)

    for start in range(0, len(stream), size):
        piece = stream[start : start + size]
        same(*(show(feed, parser, piece) for parser in parsers))
        for call in calls * (1 + (how >> 4)):
            python, compiled = (show(getattr(parser, call)) for parser in parsers)
            same(python, compiled)
            if "NEED_DATA" in python[2] or python[1] == "FaktoryProtocolError":
                break


PEER = ThreadPoolExecutor(1)


def check_exchange(how: int, reply: bytes) -> None:
    """Exchange a command with a peer that does what the bits of `how` say, and sends `reply`."""
    from faktory import _exchange, _exchange_py
    from faktory.proto import ReplyParser
    from faktory.wire import commands

    command = commands.info() if how & 1 else commands.ack("12345678")
    seen = []
    for twin in (_exchange_py, _exchange):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            looks = select.poll()
            looks.register(ours, select.POLLIN)
            parser = ReplyParser()
            exchange = twin.Exchange(ours, lambda looks=looks: looks.poll(0), parser)
            if how & 2:
                theirs.sendall(reply or b"+")  # before it was asked for
            if how & 4:
                parser.feed(b"+")
            asked = select.poll()
            asked.register(theirs, select.POLLIN)

            def act(theirs: socket.socket = theirs, asked: select.poll = asked) -> None:
                if not asked.poll(0 if how & 6 else 5000):
                    return
                if not how & 8:  # closed with the command unread: a reset
                    theirs.recv(100)
                if reply and not how & 8:
                    theirs.sendall(reply)
                if how & 24 or not reply:
                    theirs.close()

            peer = PEER.submit(act)
            try:
                result: object = exchange.run([command] * (2 if how & 32 else 1))
            except OSError as error:
                result = f"raised {error!r}"
            if how & 32 and not how & 6:
                ours.shutdown(socket.SHUT_WR)  # nothing was sent
            peer.result()
            rest = [show(parser.next) for _ in range(3)]
            seen.append((repr(result), len(parser), rest))
    same(*seen)


def check(twins: list[Any], data: bytes) -> None:
    match data[:1]:
        case b"v":
            check_value(twins, build_value(data[1:]))
        case b"r" if len(data) > 3:
            check_replies(twins, data[1], data[2], data[3:])
        case b"x" if len(data) > 1:
            check_exchange(data[1], data[2:])
        case _:
            check_json(twins, data[1:])


def search() -> None:
    import atheris

    with atheris.instrument_imports(include=["faktory"]):
        from faktory import _proto_py
    from faktory import _proto

    atheris.Setup(sys.argv, lambda data: check([_proto_py, _proto], data))
    atheris.Fuzz()


def replay(paths: list[str]) -> None:
    from faktory import _proto, _proto_py

    for path in paths:
        try:
            check([_proto_py, _proto], Path(path).read_bytes())
        except Exception as error:
            error.add_note(f"found in {path}")
            raise
    print(f"{len(paths)} inputs passed under the sanitizers")


if __name__ == "__main__":
    match os.environ.get("FAKTORY_FUZZ"):
        case "coverage":
            search()
        case "sanitized":
            replay(sys.argv[1:])
        case _:
            main()
