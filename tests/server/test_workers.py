import pytest

from faktory.server.workers import ClientRecord, Workers, read_hello


def worker(wid, **hello):
    return ClientRecord({"wid": wid, **hello})


@pytest.fixture
def workers():
    return Workers()


def test_the_first_hello_of_a_wid_is_kept(workers, clock):
    workers.join(worker("w", hostname="first"), "a", clock())
    workers.join(worker("w", hostname="second"), "b", clock())
    assert workers.table["w"].hostname == "first"
    assert workers.table["w"].peers == {"a", "b"}


def test_a_client_without_a_wid_is_not_a_worker(workers, clock):
    workers.join(worker(""), "a", clock())
    assert workers.table == {}


def test_a_worker_is_removed_with_its_last_connection(workers, clock):
    first = worker("w")
    workers.join(first, "a", clock())
    workers.join(worker("w"), "b", clock())
    first.signal("quiet")
    workers.leave(first, "a")
    assert workers.table["w"].state == "quiet"
    workers.leave(worker("w"), "b")
    workers.leave(worker("w"), "b")
    assert workers.table == {}


def test_a_worker_is_reaped_after_a_minute_of_silence(workers, clock):
    for wid in ("silent", "alive"):
        workers.join(worker(wid), wid, clock())
    clock.forward(30)
    assert workers.beat("alive", "", 0, clock()) is not None
    assert workers.next_due() == clock() + 30 * 10**9
    clock.forward(29.9)
    assert workers.reap(clock()) == []
    clock.forward(0.1)
    assert workers.reap(clock()) == ["silent"]
    assert workers.beat("silent", "", 0, clock()) is None
    assert workers.reaped == 1


@pytest.mark.parametrize(
    ("signals", "state"),
    [
        (["quiet"], "quiet"),
        (["quiet", "terminate"], "terminate"),
        (["terminate", "quiet", "", "running"], "terminate"),
        (["", "running", "Quiet"], ""),
    ],
)
def test_a_worker_does_not_return_to_an_earlier_state(signals, state):
    one = worker("w")
    for signal in signals:
        one.signal(signal)
    assert one.state == state


def test_a_beat_without_memory_sets_it_to_zero(workers, clock):
    workers.join(worker("w"), "a", clock())
    workers.beat("w", "", 5000, clock())
    assert workers.table["w"].rss_kb == 5000
    workers.beat("w", "", 0, clock())
    assert workers.table["w"].rss_kb == 0


def test_hello_is_read():
    one = read_hello(b'HELLO {"wid":"w","Hostname":"h","pid":7,"labels":["a"],"v":2,"x":[]}')
    assert one is not None
    assert (one.wid, one.hostname, one.pid, one.labels, one.version) == ("w", "h", 7, ["a"], 2)


@pytest.mark.parametrize(
    "line", [b"", b"HELLO", b"HELLO []", b'HELLO {"v":2.0}', b"HELLO {x", b" HELLO {}", b"\xff"]
)
def test_an_invalid_hello_is_none(line):
    assert read_hello(line) is None
