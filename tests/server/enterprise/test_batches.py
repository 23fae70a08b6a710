import pytest

from faktory.server.enterprise.batches import COMMITTED_FOR, UNCOMMITTED_FOR, Batches
from faktory.server.enterprise.options import read_options
from faktory.server.go.time import SECOND
from faktory.server.store import CommandError


@pytest.fixture
def called():
    """The callbacks that came, in order."""
    return []


@pytest.fixture
def batches(called):
    return Batches(called.append)


@pytest.fixture
def begin(batches, new_job):
    """`begin(complete="job-0001", success=..., parent=bid, now=0)`: a new batch's bid."""

    def new(complete=None, success=None, parent="", now=0):
        jobs = [None if jid is None else new_job(jid) for jid in (complete, success)]
        return batches.new(parent, "", *jobs, now)

    return new


def jids(called):
    return [job.jid for job in called]


def join(batches, bid, *jids):
    for jid in jids:
        batches.add_member(batches.require_open(bid), jid)


def states(batches, bid):
    status = batches.status(bid)
    return status["complete_st"], status["success_st"]


def counts(batches, bid):
    status = batches.status(bid)
    return status["total"], status["pending"], status["failed"]


# Counting.


def test_the_status_of_a_new_batch_has_no_empty_options(batches, begin):
    bid = begin(success="s")
    assert bid.startswith("b-")
    assert batches.status(bid) == {
        "bid": bid,
        "created_at": "1970-01-01T00:00:00Z",
        "total": 0,
        "pending": 0,
        "failed": 0,
        "complete_st": "",
        "success_st": "",
    }


def test_the_status_has_the_parent_and_the_description(batches, begin, new_job):
    parent = begin(success="s")
    child = batches.new(parent, "resize all", None, new_job("c"), 0)
    assert batches.status(child)["parent_bid"] == parent
    assert batches.status(child)["description"] == "resize all"
    assert counts(batches, parent) == (0, 0, 0)


def test_a_member_that_fails_is_pending_and_counts_once_until_it_succeeds(batches, begin):
    bid = begin(success="s")
    join(batches, bid, "a", "b")
    assert counts(batches, bid) == (2, 2, 0)
    batches.on_failure(bid, "a")
    batches.on_failure(bid, "a")
    assert counts(batches, bid) == (2, 2, 1)
    batches.on_success(bid, "b")
    assert counts(batches, bid) == (2, 1, 1)
    batches.on_success(bid, "a")
    assert counts(batches, bid) == (2, 0, 0)


def test_a_job_that_is_pushed_or_acknowledged_twice_counts_once(batches, begin):
    bid = begin(success="s")
    join(batches, bid, "a", "a", "b")
    batches.on_success(bid, "a")
    batches.on_success(bid, "a")
    assert counts(batches, bid) == (2, 1, 0)


def test_jobs_of_forgotten_batches_are_ignored(batches):
    batches.on_success("b-0", "a")
    batches.on_failure("b-0", "a")
    batches.on_callback("b-0", "a")


@pytest.mark.parametrize("use", ["find", "require_open", "status"])
def test_an_unknown_batch_is_rejected(batches, use):
    with pytest.raises(CommandError, match=r"^No such batch b-0$"):
        getattr(batches, use)("b-0")


def test_an_unknown_parent_is_rejected(begin):
    with pytest.raises(CommandError, match=r"^No such batch b-0$"):
        begin(success="s", parent="b-0")


# Callbacks.


def test_no_callback_is_enqueued_before_the_commit(batches, begin, called):
    bid = begin(complete="c")
    join(batches, bid, "a")
    batches.on_success(bid, "a")
    assert called == []
    batches.commit(bid, 0)
    assert jids(called) == ["c"]
    assert states(batches, bid) == ("1", "")


def test_the_callback_of_an_empty_batch_is_enqueued_at_once(batches, begin, called):
    bid = begin(success="s")
    batches.commit(bid, 0)
    assert jids(called) == ["s"]


def test_success_is_enqueued_after_complete_was_acknowledged(batches, begin, called):
    bid = begin(complete="c", success="s")
    batches.commit(bid, 0)
    assert (jids(called), states(batches, bid)) == (["c"], ("1", ""))
    batches.on_callback(bid, "c")
    assert (jids(called), states(batches, bid)) == (["c", "s"], ("2", "1"))
    batches.on_callback(bid, "s")
    assert (jids(called), states(batches, bid)) == (["c", "s"], ("2", "2"))


def test_two_callbacks_may_have_the_same_jid(batches, begin, called):
    bid = begin(complete="x", success="x")
    batches.commit(bid, 0)
    batches.on_callback(bid, "x")
    assert states(batches, bid) == ("2", "1")
    batches.on_callback(bid, "x")
    assert states(batches, bid) == ("2", "2")


def test_a_stage_ends_with_its_own_callback_only(batches, begin):
    bid = begin(complete="c", success="s")
    batches.on_callback(bid, "c")
    batches.commit(bid, 0)
    batches.on_callback(bid, "s")
    batches.on_callback(bid, "other")
    assert states(batches, bid) == ("1", "")


def test_complete_needs_all_members_executed_and_success_all_acknowledged(batches, begin, called):
    bid = begin(complete="c", success="s")
    join(batches, bid, "a", "b")
    batches.commit(bid, 0)
    batches.on_failure(bid, "a")
    assert called == []
    batches.on_success(bid, "b")
    assert jids(called) == ["c"]
    batches.on_callback(bid, "c")
    assert jids(called) == ["c"]
    batches.on_success(bid, "a")
    assert jids(called) == ["c", "s"]


def test_each_callback_is_enqueued_once(batches, begin, called):
    bid = begin(complete="c", success="s")
    join(batches, bid, "a")
    batches.commit(bid, 0)
    batches.on_failure(bid, "a")
    join(batches, bid, "b")
    batches.on_success(bid, "b")
    batches.commit(bid, 0)
    assert jids(called) == ["c"]
    batches.on_callback(bid, "c")
    batches.on_success(bid, "a")
    batches.commit(bid, 0)
    assert jids(called) == ["c", "s"]


def test_a_callback_names_its_batch_and_the_parent_and_is_not_a_member(batches, new_job):
    parent = batches.new("", "", None, new_job("p", custom={"bid": "b-0", "locale": "en"}), 0)
    child = batches.new(parent, "", new_job("c"), new_job("s"), 0)
    of_parent = batches.find(parent).stages[1].callback
    complete, success = (stage.callback for stage in batches.find(child).stages)
    assert of_parent.custom == f'{{"_bid":"{parent}","_cb":"success","locale":"en"}}'
    assert complete.custom == f'{{"_bid":"{child}","_cb":"complete","_pbid":"{parent}"}}'
    assert success.custom == f'{{"_bid":"{child}","_cb":"success","_pbid":"{parent}"}}'
    assert (read_options(complete.custom).bid, read_options(complete.custom).callback_of) == (
        None,
        child,
    )


# Nesting.


def test_a_stage_waits_for_the_callbacks_of_the_same_stage_of_its_children(batches, begin, called):
    parent = begin(complete="pc", success="ps")
    child = begin(complete="cc", success="cs", parent=parent)
    batches.commit(parent, 0)
    assert called == []
    batches.commit(child, 0)
    assert jids(called) == ["cc"]
    batches.on_callback(child, "cc")
    assert jids(called) == ["cc", "cs", "pc"]
    batches.on_callback(parent, "pc")
    assert jids(called) == ["cc", "cs", "pc"]
    batches.on_callback(child, "cs")
    assert jids(called) == ["cc", "cs", "pc", "ps"]


def test_a_child_without_a_callback_for_a_stage_delays_it_by_its_jobs_only(batches, begin, called):
    parent = begin(success="ps")
    child = begin(complete="cc", parent=parent)
    join(batches, child, "a")
    batches.commit(child, 0)
    batches.commit(parent, 0)
    batches.on_failure(child, "a")
    batches.on_callback(child, "cc")
    assert jids(called) == ["cc"]
    batches.on_success(child, "a")
    assert jids(called) == ["cc", "ps"]


def test_a_child_that_is_never_committed_keeps_its_parent_from_ending(batches, begin, called):
    parent = begin(complete="pc")
    begin(complete="cc", parent=parent)
    batches.commit(parent, 0)
    batches.sweep(UNCOMMITTED_FOR * SECOND)
    assert called == []
    assert states(batches, parent) == ("", "")


def test_a_child_can_end_after_its_parent_is_forgotten(batches, begin, called):
    parent = begin(success="ps")
    child = begin(success="cs", parent=parent, now=1)
    batches.commit(child, 1)
    batches.sweep(UNCOMMITTED_FOR * SECOND)
    batches.on_callback(child, "cs")
    assert states(batches, child) == ("", "2")


def test_deeply_nested_batches_end_innermost_first(batches, begin, called):
    depth = 3000
    bids = [begin(complete="0")]
    for level in range(1, depth):
        bids.append(begin(success=str(level), parent=bids[-1]))
    for bid in bids:
        batches.commit(bid, 0)
    # None but the first has a callback for complete, so that this has gone all the way up.
    assert jids(called) == [str(depth - 1), "0"]
    for level in reversed(range(1, depth)):
        batches.on_callback(bids[level], str(level))
    assert jids(called) == [str(depth - 1), "0", *map(str, reversed(range(1, depth - 1)))]


# Adding.


def test_jobs_can_be_added_before_the_last_callback_committed_or_not(batches, begin, called):
    bid = begin(complete="c", success="s")
    assert batches.require_open(bid).bid == bid
    batches.commit(bid, 0)
    join(batches, bid, "late")
    batches.on_callback(bid, "c")
    assert jids(called) == ["c"]
    batches.on_success(bid, "late")
    assert jids(called) == ["c", "s"]


@pytest.mark.parametrize("stage", ["complete", "success"])
def test_nothing_can_be_added_after_the_last_callback_was_enqueued(batches, begin, stage):
    bid = begin(**{stage: "x"})
    batches.commit(bid, 0)
    with pytest.raises(CommandError, match=f"^Batch {bid} has enqueued its last callback"):
        batches.require_open(bid)
    with pytest.raises(CommandError, match=f"^Batch {bid} has enqueued its last callback"):
        begin(success="y", parent=bid)


# Time.


def test_a_batch_that_is_not_committed_is_forgotten_after_half_an_hour(batches, begin):
    bid = begin(success="s", now=5)
    assert batches.first() == 5 + UNCOMMITTED_FOR * SECOND
    batches.sweep(4 + UNCOMMITTED_FOR * SECOND)
    assert batches.find(bid)
    batches.sweep(5 + UNCOMMITTED_FOR * SECOND)
    with pytest.raises(CommandError, match="No such batch"):
        batches.find(bid)
    assert batches.first() is None


def test_a_batch_is_forgotten_30_days_after_its_last_commit(batches, begin):
    bid = begin(complete="c", success="s")
    batches.commit(bid, 7)
    batches.commit(bid, 9)
    assert batches.first() == 9 + COMMITTED_FOR * SECOND
    batches.sweep(9 + COMMITTED_FOR * SECOND)
    assert len(batches.table) == 0
