from __future__ import annotations

import json
import re
from threading import Event

import pytest

from faktory import Client
from faktory.cli.tools import admin, output, waiting

from .support import call, call_on_terminal


def fill(client, **queues):
    for queue, many in queues.items():
        for _ in range(many):
            client.push({"jobtype": "work", "args": [], "queue": queue})


def bury(client, *jobtypes):
    for jobtype in jobtypes:
        client.push({"jobtype": jobtype, "args": [], "queue": "graves", "retry": -1})
        client.fail(client.fetch("graves")["jid"], errtype="Oops", message="no")


def sizes(client):
    faktory = client.info()["faktory"]
    return {**faktory["queues"], **faktory["sets"]}


def test_info_shows_the_state_of_the_server_with_and_without_a_terminal(server, client):
    fill(client, mail=2, images=1)
    bury(client, "work")
    plain, shown = call("info", url=server.url), call_on_terminal("info", url=server.url)
    for done in (plain, shown):
        assert done.code == 0
        assert "server       Faktory 1.10.0\n" in done.stdout
        assert "enqueued     3 in 3 queues\n" in done.stdout
        assert "dead         1\n" in done.stdout
    assert plain.stderr == ""


def test_info_as_json_is_the_answer_of_the_server_and_nothing_else(server, client):
    fill(client, mail=2, images=1)
    answer = client.command("INFO")
    for done in (
        call("info", "--json", url=server.url),
        call_on_terminal("info", "--json", url=server.url),
    ):
        assert done.code == 0
        assert done.stdout.count("\n") == 1
        # Identical, except for times and counters.
        assert re.sub(r"\d+", "0", done.stdout) == re.sub(r"\d+", "0", answer.decode()) + "\n"
        assert json.loads(done.stdout)["faktory"]["queues"] == {"images": 1, "mail": 2}


def test_queues_shows_sizes_and_how_long_the_oldest_job_has_waited(server, client):
    fill(client, mail=2)
    server.travel(3605)
    fill(client, images=1, empty=1)
    client.fetch("empty")
    plain, shown = call("queues", url=server.url), call_on_terminal("queues", url=server.url)
    for done in (plain, shown):
        assert done.code == 0
        lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
        assert lines[0] == ["queue", "jobs", "oldest waits"]
        assert [line[:2] for line in lines[1:]] == [["empty", "0"], ["images", "1"], ["mail", "2"]]
        assert lines[1][2] == "-"
        assert lines[2][2].endswith(" s")
        assert lines[3][2] == "1 h"
    assert len({len(line) for line in plain.stdout.splitlines()}) == 1


def test_queues_as_json_is_a_list_of_objects(server, client):
    fill(client, mail=2, images=1)
    server.travel(100)
    done = call("queues", "--json", url=server.url)
    images, mail = json.loads(done.stdout)
    assert (images["name"], images["size"]) == ("images", 1)
    assert (mail["name"], mail["size"]) == ("mail", 2)
    assert 100 <= mail["latency"] < 130
    assert call_on_terminal("queues", "--json", "mail", url=server.url).stdout.startswith("[{")


def test_a_queue_whose_job_has_no_date_does_not_hide_the_others(server, client):
    client.push({"jobtype": "work", "args": [], "queue": "undated", "at": "2100-01-01T00:00:00Z"})
    client.requeue("scheduled")  # it was never enqueued, so it has no date
    fill(client, mail=1)
    assert client.command("INFO")
    done = call("queues", "--json", url=server.url)
    mail, undated = json.loads(done.stdout)
    assert mail["latency"] < 30
    assert undated == {"name": "undated", "size": 1, "latency": None}
    assert "undated     1             ?\n" in call("queues", url=server.url).stdout


def test_a_server_without_queues_is_reported(server):
    assert call("queues", url=server.url).stdout == "The server has no queues.\n"
    assert call("queues", "--json", url=server.url).stdout == "[]\n"


@pytest.mark.parametrize("names", [("mail",), ("--all",)])
def test_the_server_hands_out_no_jobs_of_a_paused_queue_until_it_is_resumed(server, client, names):
    fill(client, mail=1)
    assert call("pause", *names, url=server.url) == (0, "paused: mail\n", "")
    assert client.fetch("mail") is None
    assert call_on_terminal("resume", *names, url=server.url) == (0, "resumed: mail\n", "")
    assert client.fetch("mail") is not None


@pytest.mark.parametrize("tool", ["queues", "pause", "resume", "remove"])
def test_an_unknown_queue_is_an_error(server, client, tool):
    fill(client, images=1)
    done = call(tool, "image", url=server.url)
    assert done == (
        1,
        "",
        f"python -m faktory {tool}: the server has no queue 'image': the first job makes it. "
        "Did you mean 'images'?\n",
    )


@pytest.mark.parametrize("tool", ["pause", "resume", "remove"])
@pytest.mark.parametrize("names", [(), ("mail", "--all")])
def test_queues_are_either_named_or_chosen_by_all(server, tool, names):
    done = call(tool, *names, url=server.url)
    assert done == (
        2,
        "",
        f"python -m faktory {tool}: name the queues, or choose all of them by --all.\n",
    )


def test_remove_asks_on_a_terminal(server, client):
    fill(client, mail=2, images=1)
    question = f"Delete queue mail of {server.url} with 2 jobs? [y/N] "
    done = call_on_terminal("remove", "mail", url=server.url, typed="n\n")
    assert done.code == 10
    assert question in done.stdout
    assert done.stdout.endswith("python -m faktory remove: nothing was changed.\n")
    assert sizes(client)["mail"] == 2
    done = call_on_terminal("remove", "mail", url=server.url, typed="y\n")
    assert done.code == 0
    assert done.stdout.endswith("removed: mail\n")
    assert "mail" not in sizes(client)
    assert sizes(client)["images"] == 1


def test_remove_without_a_terminal_needs_yes(server, client):
    fill(client, mail=2, images=1)
    done = call("remove", "--all", url=server.url, stdin="y\n")
    assert done.code == 10
    assert done.stdout == ""
    assert "Delete queue images, mail of" in done.stderr
    assert "nothing was changed; --yes goes on without asking.\n" in done.stderr
    assert sizes(client)["mail"] == 2
    assert call("remove", "--all", "--yes", url=server.url) == (0, "removed: images, mail\n", "")
    assert not client.info()["faktory"]["queues"]


@pytest.mark.parametrize("operation", ["clear", "discard", "kill"])
def test_mutate_asks_before_it_deletes_or_kills_jobs(server, client, operation):
    client.push({"jobtype": "work", "args": [], "at": "2100-01-01T00:00:00Z"})
    verb = operation.capitalize()
    question = f"{verb} all of the 1 job in the set scheduled of {server.url}?"
    done = call("mutate", operation, "scheduled", url=server.url)
    assert done.code == 10
    assert question in done.stderr
    assert sizes(client)["scheduled"] == 1
    done = call_on_terminal("mutate", operation, "scheduled", url=server.url, typed="n\n")
    assert done.code == 10
    assert question in done.stdout
    assert sizes(client)["scheduled"] == 1
    done = call_on_terminal("mutate", operation, "scheduled", url=server.url, typed="yes\n")
    assert done.code == 0
    assert done.stdout.endswith("scheduled: 1 job before, 0 after\n")
    assert sizes(client)["scheduled"] == 0
    assert sizes(client)["dead"] == (operation == "kill")


def test_mutate_requeues_the_chosen_jobs_without_asking(server, client):
    bury(client, "work", "work", "other")
    done = call("mutate", "requeue", "dead", "--jobtype", "work", url=server.url)
    assert done == (0, "dead: 3 jobs before, 1 after\n", "")
    done = call("mutate", "requeue", "dead", "--matching", '*"oth*', "--json", url=server.url)
    assert json.loads(done.stdout) == {"target": "dead", "before": 1, "after": 0}
    assert sizes(client)["graves"] == 3


def test_mutate_by_ids_names_them_in_its_question(server, client):
    jids = ["abcdefgh1", "abcdefgh2", "abcdefgh3"]
    for jid in jids:
        client.push({"jobtype": "w", "args": [], "jid": jid, "at": "2100-01-01T00:00:00Z"})
    flags = ["--jid", jids[0], "--jid", jids[2]]
    done = call("mutate", "discard", "scheduled", *flags, url=server.url)
    assert done.code == 10
    assert "Discard those with jid abcdefgh1, abcdefgh3 of the 3 jobs in the set" in done.stderr
    done = call("mutate", "discard", "scheduled", *flags, "--yes", url=server.url)
    assert done == (0, "scheduled: 3 jobs before, 1 after\n", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["clear", "dead", "--jobtype", "x"], "clear deletes all jobs of a set; use discard"),
        (["kill", "dead", "--jobtype", "x", "--jid", "y"], "the server looks at jids alone"),
        (["kill", "dead", "--jobtype", ""], "jobtype is empty"),
        (["kill", "dead", "--jobtype", "a*"], "which the server takes as wildcards"),
        (["kill", "graves"], "argument SET: invalid choice: 'graves'"),
        (["bury", "dead"], "invalid choice: 'bury'"),
    ],
)
def test_an_invalid_filter_is_wrong_usage(server, client, flags, message):
    bury(client, "x")
    done = call("mutate", *flags, "--yes", url=server.url)
    assert done.code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sizes(client)["dead"] == 1


def test_flush_shows_what_it_deletes_and_asks(server, client):
    fill(client, mail=2)
    bury(client, "work")
    lost = "(2 enqueued, 1 dead, 0 retries, 0 scheduled, 0 working)"
    done = call("flush", url=server.url, stdin="y\n")
    assert done.code == 10
    assert f"Delete every job of {server.url} {lost}? " in done.stderr
    done = call_on_terminal("flush", url=server.url, typed="\n")
    assert done.code == 10
    assert f"{lost}? [y/N] " in done.stdout
    assert sizes(client)["mail"] == 2
    done = call_on_terminal("flush", url=server.url, typed="y\n")
    assert done.code == 0
    assert done.stdout.endswith(f"flushed {server.url}\n")
    assert sizes(client)["dead"] == 0


def test_flush_without_a_terminal_needs_yes(server, client):
    fill(client, mail=2)
    assert call("flush", "-y", url=server.url) == (0, f"flushed {server.url}\n", "")
    assert sizes(client).get("mail", 0) == 0


def test_what_is_left_of_a_long_command_is_shown_on_a_terminal(server, client, monkeypatch):
    monkeypatch.setattr(waiting, "INTERVAL", 0.01)
    monkeypatch.setattr(output, "REDRAW_INTERVAL", 0.0)
    for _ in range(10):
        client.push({"jobtype": "work", "args": [], "queue": "mail"})
    asked = Event()
    sizes = iter([7, 4])

    def left(client):
        size = next(sizes, 0)
        if not size:
            asked.set()
        return size

    monkeypatch.setattr(admin, "_waiting_in", lambda names: left)
    monkeypatch.setattr(Client, "remove_queues", lambda client, *names: asked.wait(20))
    env = {"NO_COLOR": ""}
    done = call_on_terminal("remove", "mail", "--yes", url=server.url, env=env)
    assert done.code == 0
    assert [found[1] for found in re.finditer(r"removing: (\d+) jobs?, .*?, (\d+)%", done.stdout)][
        :2
    ] == ["3", "6"]
    assert done.stdout.endswith("\r\x1b[Kremoved: mail\n")


@pytest.mark.parametrize("command", [("remove", "mail"), ("mutate", "discard", "dead")])
def test_a_short_command_shows_nothing_of_that(server, client, command):
    client.push({"jobtype": "work", "args": [], "queue": "mail"})
    done = call_on_terminal(*command, "--yes", url=server.url, env={"NO_COLOR": ""})
    assert done.code == 0
    assert "\x1b" not in done.stdout


def test_failures_have_a_colour_on_a_terminal(server, client):
    pytest.importorskip("rich")
    jid = client.push({"jobtype": "work", "args": [], "retry": 0})
    client.fetch("default")
    client.fail(jid)
    done = call_on_terminal("info", url=server.url, env={"NO_COLOR": ""})
    assert "\x1b[33mfailed       1\x1b[0m\n" in done.stdout
    assert "\ndead         0\n" in done.stdout


def test_mutate_says_what_to_do_where_the_server_takes_too_long(server, client):
    client.push({"jobtype": "work", "args": [], "at": "2999-01-02T03:04:05Z"})
    server.answer_error("MUTATE", "context deadline exceeded")
    assert call("mutate", "kill", "scheduled", "-y", url=server.url) == (
        1,
        "",
        "python -m faktory mutate: the server has stopped in the middle, as it has 5 s for a "
        "command (context deadline exceeded); scheduled: 1 job before, 1 after. The same "
        "command again goes on.\n",
    )


def test_mutate_that_is_interrupted_says_where_to_look(server, client, monkeypatch):
    client.push({"jobtype": "work", "args": [], "at": "2999-01-02T03:04:05Z"})

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(waiting, "shown", interrupted)
    assert call("mutate", "kill", "scheduled", "-y", url=server.url) == (
        130,
        "",
        "python -m faktory mutate: interrupted; the server may go on with it. Its sets: "
        "faktory-worker info\n",
    )
