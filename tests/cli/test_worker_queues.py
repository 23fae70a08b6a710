"""Which queues `faktory-worker` fetches from, and what its first lines say about them."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from faktory.cli.exits import Exit
from faktory.cli.worker import config, queues
from faktory.server import EmbeddedServer
from faktory.worker.queues import Queue, Queues

from .support import WORKER, Process, Run, WaitUntil, push

SHOP = """
import faktory

faktory.default_job_options["queue"] = "shop"
faktory.external("Convert", queue="ruby")

@faktory.job(queue="mail")
def send(path):
    open(path, "w").close()

@faktory.job
def order():
    pass

@faktory.job(queue=None)
def plain():
    pass

class Image(faktory.Job):
    faktory_options = {"queue": "images"}

class Resize(Image):
    def perform(self):
        pass
"""
"""Its queues are default, images, mail and shop."""

DECLARED = ("default", "images", "mail", "shop")


def chosen(*flags: str, declared: tuple[str, ...] = ("mail", "images", "mail")) -> str:
    return str(Queues(queues.choose(flags, declared)))


# -q


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["a", "b"], "a, b"),
        (["a", "b", "a"], "a, b"),
        (["critical,3", "low"], "critical (weight 3), low (weight 1)"),
        (["low", "critical,3"], "low (weight 1), critical (weight 3)"),
        (["a,1", "b"], "a, b, with equal weights"),
        (["a", "api,limit=2"], "a, api (limit 2)"),
        (["api,3,limit=2", "a"], "api (weight 3, limit 2), a (weight 1)"),
        (["api,limit=2,3", "a"], "api (weight 3, limit 2), a (weight 1)"),
        (["api,limit=2,weight=3", "a"], "api (weight 3, limit 2), a (weight 1)"),
        (["api,1000000,limit=1000000000000"], "api (limit 1000000000000)"),
    ],
)
def test_a_flag_has_a_name_a_weight_and_a_limit(flags: list[str], expected: str) -> None:
    assert chosen(*flags) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "default, images, mail, with equal weights"),
        (["*"], "default, images, mail, with equal weights"),
        (["*,4"], "default, images, mail, with equal weights"),
        (
            ["critical,5", "*"],
            "critical (weight 5), default (weight 1), images (weight 1), mail (weight 1)",
        ),
        (
            ["*,2", "mail,limit=2"],
            "default (weight 2), images (weight 2), mail (weight 1, limit 2)",
        ),
        (
            ["critical", "*", "mail"],
            "critical; then default, images, with equal weights; then mail",
        ),
        (
            ["*,limit=2", "mail"],
            "default (limit 2), images (limit 2), with equal weights; then mail",
        ),
        (["mail", "images", "default", "*"], "mail, images, default"),
        (["mail", "images", "*"], "mail, images, default"),
    ],
)
def test_a_star_stands_for_default_and_what_the_jobs_declare(
    flags: list[str], expected: str
) -> None:
    assert chosen(*flags) == expected


def test_without_declared_queues_there_is_default() -> None:
    assert chosen(declared=()) == chosen("*", declared=()) == "default"


def test_what_a_star_stands_for_comes_in_every_order_at_its_place() -> None:
    found = Queues(queues.choose(["first", "*", "last"], ["a"]))
    orders = {tuple(found.order()) for _ in range(200)}
    assert orders == {("first", "a", "default", "last"), ("first", "default", "a", "last")}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("a,0", "-q a,0: the weight '0' is not a whole number of 1 or more. Write it like -q mail"),
        ("a,b", "-q a,b: the weight 'b' is not a whole number of 1 or more"),
        ("a,", "-q a,: the weight '' is not"),
        ("a, 3", "-q a, 3: the weight ' 3' is not"),
        ("a,-1", "the weight '-1' is not"),
        ("a,٣", "the weight '٣' is not"),
        ("a,limit=0", "the limit '0' is not a whole number of 1 or more"),
        ("a,limit=", "the limit '' is not"),
        ("a,limit", "the weight 'limit' is not"),
        ("a,limits=2", "'limits=2' is neither a weight nor a limit. Write it like"),
        ("a,1,2", "-q a,1,2: it has two weights"),
        ("a,limit=1,limit=1", "it has two limits"),
        ("a,1000001", "-q a,1000001: the weight of a queue is 1000001: use 1 to 1,000,000"),
        ("a," + "9" * 5000, "is not a whole number of 1 or more"),
    ],
)
def test_a_flag_that_cannot_be_is_an_error_with_the_remedy(flag: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        queues.parse([flag])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["a,3", "a"], "-q a is given twice, with different weights: give it once"),
        (["a,limit=3", "a"], "-q a is given twice, with different limits: give it once"),
        (["*,2", "*"], "-q * is given twice, with different weights"),
    ],
)
def test_a_queue_that_is_given_twice_differently_is_an_error(
    flags: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        queues.parse(flags)


@pytest.mark.parametrize("name", ["a=2", "a b", "", "**", "api;limit"])
def test_a_name_that_no_queue_can_have_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="a queue's name has letters, digits"):
        Queues(queues.choose([name], ()))


# The file and the variable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("queue = { api = { weight = 1, limit = 2 }, low = 3 }", ["api,1,limit=2", "low,3"]),
        ("queue = { api = { limit = 2 } }", ["api,1,limit=2"]),
        ("queue = { api = {}, '*' = 2 }", ["api,1", "*,2"]),
        ("[queue.api]\nlimit = 2\nweight = 3", ["api,3,limit=2"]),
        ("queue = ['a', 'api,limit=2', '*']", ["a", "api,limit=2", "*"]),
        ("queue = '*'", ["*"]),
        ("queue = []", []),
        ("queue = ['a', { api = { limit = 2 } }]", ["a", ["api,1,limit=2"]]),
        ("queue = [{ a = 2, b = 1 }, {}, 'c']", [["a,2", "b,1"], "c"]),
        ("queue = ['a,2', 'b']", ["a,2", "b"]),
        ("queue = {}", []),
    ],
)
def test_the_file_has_weights_and_limits(tmp_path: Path, text: str, expected: list[str]) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(text)
    assert config.load(["-C", str(file)], {}).queue == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queue = { api = { limit = 0 } }", "is not a table of weights: each must be a whole"),
        ("queue = { api = { limit = true } }", "is not a table of weights"),
        ("queue = { api = { limits = 2 } }", "or a table like { weight = 3, limit = 2 }"),
        ("queue = { api = { weight = 0 } }", "is not a table of weights"),
        ("queue = { api = [2] }", "is not a table of weights"),
        ("queue = ['a', { api = { limit = 0 } }]", "is not a table of weights"),
        ("queue = ['a', {}, 3]", "is neither a string nor a list of strings and tables"),
        ("queue = ['a', 3]", "is neither a string nor a list of strings"),
        ("queue = { 'a,limit=2' = 3 }", "has the name 'a,limit=2': no queue's name has a comma"),
    ],
)
def test_a_table_of_queues_that_cannot_be_is_an_error(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(text)
    with pytest.raises(config.ConfigError, match=re.escape(message)):
        config.load(["-C", str(file)], {})


def test_a_table_is_by_weight_and_a_list_is_strict() -> None:
    assert queues.choose(["a,1", "b,1,limit=2"], ()) == {"a": Queue(1), "b": Queue(1, 2)}
    assert queues.choose(["a", "b,limit=2"], ()) == [{"a": Queue()}, {"b": Queue(limit=2)}]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["a", ["api,1,limit=2"]], "a, api (limit 2)"),
        (
            ["a", ["mail,2", "b,1"], "c,limit=2"],
            "a; then mail (weight 2), b (weight 1); then c (limit 2)",
        ),
        ([["a,3", "*,1"], "z"], "a (weight 3), default (weight 1), images (weight 1), mail"),
        (["*", ["a,1"]], "default, images, mail, with equal weights; then a"),
    ],
)
def test_a_table_in_a_list_has_its_place_there(flags: list[str | list[str]], expected: str) -> None:
    found = Queues(queues.choose(flags, ["images", "mail"]))
    assert str(found).startswith(expected)
    assert queues.left_out(flags, ["a"]) == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["a,3", ["b,1"]], "a,3 has a weight, and a list with a table has a strict order"),
        (["a", ["a,1"]], "-q a is given twice, with different weights"),
        ([["a,1", "b,1"], ["b,1"]], "-q b is given twice: give it once"),
        ([["a,1", "b,1"], ["b,1", "c,1"]], "-q b is given twice: give it once"),
    ],
)
def test_a_table_in_a_list_that_cannot_be_is_an_error(
    flags: list[str | list[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        queues.choose(flags, ())


@pytest.mark.parametrize("flag", ["-q", "--queue"])
def test_an_unquoted_star_has_its_remedy(flag: str) -> None:
    files = [f"file{number}.py" for number in range(100)]
    with pytest.raises(config.ConfigError) as caught:
        config.load(["-r", "jobs", flag, *files], {})
    assert str(caught.value) == (
        "unrecognized arguments: file1.py file2.py file3.py file4.py file5.py .... "
        "Each queue has its own flag: -q file1.py. If it was -q *, which the shell replaces by "
        "the names of files, quote it: -q '*'"
    )


def test_the_variable_has_limits_and_a_star() -> None:
    environ = {"FAKTORY_WORKER_QUEUE": "critical,3 api,limit=2 *"}
    assert config.load([], environ).queue == ["critical,3", "api,limit=2", "*"]


# What is left out


@pytest.mark.parametrize("flags", [[], ["*"], ["other", "*"], [*DECLARED], [*DECLARED, "more"]])
def test_a_worker_of_all_declared_queues_has_no_warning(flags: list[str]) -> None:
    assert queues.left_out(flags, DECLARED) == ""


def test_declared_queues_that_are_left_out_are_named_with_their_flags() -> None:
    assert queues.left_out(["mail,3", "default"], DECLARED) == (
        "jobs declare queues that this worker does not fetch: images, shop. "
        "To fetch them: -q images -q shop, or -q '*' for all"
    )


def test_a_near_miss_gets_its_hint() -> None:
    flags = ["mial,2", "default,limit=3", "unheard", "imagse"]
    text = queues.left_out(flags, DECLARED)
    assert text.endswith(". -q mial: did you mean mail? -q imagse: did you mean images?")
    assert "unheard" not in text
    assert queues.left_out(["Q2"], ["q2"]).endswith(". -q Q2: did you mean q2?")
    assert queues.left_out(["q2"], ["Q2"]).endswith(". -q q2: did you mean Q2?")
    assert "did you mean" not in queues.left_out(["mail", "mial"], ["mail", "other"])


def test_of_many_queues_that_are_left_out_the_first_are_named() -> None:
    names = [f"queue{number:03}" for number in range(200)]
    text = queues.left_out(["default"], names)
    assert "queue009 and 190 more. To fetch them: -q '*'" in text
    assert "queue010" not in text
    misspelt = queues.left_out([name.replace("ue", "eu") for name in names], names)
    assert misspelt.count("did you mean") == queues.MOST_LISTED


# The command


def start(run: Run, folder: Path, server: EmbeddedServer, *flags: str) -> Process:
    (folder / "shop.py").write_text(SHOP)
    return run(WORKER, "-r", "shop", "-c", "1", *flags, url=server.url)


def first_lines(worker: Process, wait_until: WaitUntil) -> str:
    """Return its first ten lines, that of its job types included."""
    wait_until(lambda: " at a time: " in worker.said)
    return "".join(worker.said.splitlines(keepends=True)[:10])


def fetched(server: EmbeddedServer) -> set[str]:
    return {name for verb, text in server.commands if verb == "FETCH" for name in text.split()}


def test_without_flags_it_fetches_from_the_queues_that_its_jobs_declare(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    worker = start(run, folder, server)
    push(server, "send", str(folder / "sent"), queue="mail")
    wait_until((folder / "sent").exists)
    lines = first_lines(worker, wait_until)
    queues = "Queues: default, images, mail, shop, with equal weights"
    assert f"{queues} (no -q: default and every queue that the jobs declare)" in lines
    assert fetched(server) == {*DECLARED}
    worker.send(signal.SIGTERM)
    assert worker.wait() == Exit.STOPPED
    assert " WARNING " not in worker.said
    assert "ruby" not in worker.said


def test_a_star_beside_others_is_the_rest(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    worker = start(run, folder, server, "-q", "mail,5,limit=1", "-q", "*")
    lines = first_lines(worker, wait_until)
    assert "Queues: mail (weight 5, limit 1), default (weight 1), images (weight 1), shop" in lines
    assert "no -q" not in lines
    assert " WARNING " not in lines


def test_queues_that_are_left_out_are_one_warning(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    worker = start(run, folder, server, "-q", "mial", "-q", "default", "-q", "images")
    wait_until(lambda: "mial" in fetched(server))  # it is fetched all the same
    (line,) = [line for line in first_lines(worker, wait_until).splitlines() if "WARNING" in line]
    assert line.endswith(
        "jobs declare queues that this worker does not fetch: mail, shop. To fetch them: "
        "-q mail -q shop, or -q '*' for all. -q mial: did you mean mail?"
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            [],
            "default, images, mail, shop, with equal weights "
            "(no -q: default and every queue that the jobs declare)",
        ),
        (["-q", "mail", "-q", "shop,limit=3"], "mail, shop (limit 3) (from -q)"),
    ],
)
def test_the_first_worker_of_a_supervisor_says_what_all_of_them_fetch(
    server: EmbeddedServer,
    run: Run,
    folder: Path,
    wait_until: WaitUntil,
    flags: list[str],
    expected: str,
) -> None:
    supervisor = start(run, folder, server, "--processes", "2", *flags)
    wait_until(lambda: supervisor.said.count(": connected to") == 2)
    wait_until(lambda: " each for " in supervisor.said and " job types" in supervisor.said)
    (line,) = [line for line in supervisor.said.splitlines() if "Queues: " in line]
    assert line.endswith(f"Queues: {expected}")


def test_a_worker_that_is_replaced_fetches_from_the_queues_of_its_new_jobs(
    server: EmbeddedServer, run: Run, folder: Path, wait_until: WaitUntil
) -> None:
    supervisor = start(run, folder, server, "--processes", "1")
    wait_until(lambda: "mail" in fetched(server))
    (folder / "shop.py").write_text(SHOP.replace("images", "pictures"))
    supervisor.send(signal.SIGHUP)
    wait_until(lambda: "pictures" in fetched(server))
    queues = "Queues: default, mail, pictures, shop, with equal weights"
    wait_until(lambda: queues in supervisor.said)
