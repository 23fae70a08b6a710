"""Run by Django's own test runner: `manage.py test`."""

import asyncio
import json
import pickle
import threading
from datetime import timedelta
from io import StringIO
from unittest import mock, skipUnless

from asgiref.sync import async_to_sync, sync_to_async
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured, SuspiciousOperation
from django.core.management import call_command
from django.db import connection, transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings
from django.utils import timezone

import faktory
import faktory.testing
from faktory import FaktoryPayloadError
from faktory.contrib.django import FaktoryBackend, FaktoryTask
from faktory.jobs import registry
from faktory.jobs.runner import JobRunner
from faktory.testing.embedded import served

from . import jobs, tasks
from .framework import (
    InvalidTask,
    task,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)
from .models import Note


def notes():
    return sorted(Note.objects.values_list("text", flat=True))


def high_only():
    """Return the queues of tasks where priorities above 0 only have one."""
    backend = FaktoryBackend("high", {"OPTIONS": {"priority_queues": {100: "critical"}}})
    return [backend.queue_of(tasks.ranked.using(priority=n)) for n in (-1, 0, 100)]


class InFake:
    """Keeps jobs in memory for each test."""

    def run(self, result=None):
        with faktory.testing.fake():
            return super().run(result)

    @property
    def job(self):
        (job,) = faktory.testing.jobs
        return job

    @property
    def payloads(self):
        return list(faktory.testing.jobs)


class EnqueueTests(InFake, SimpleTestCase):
    def test_a_task_is_a_job_under_its_module_path(self):
        result = tasks.note.enqueue("hi", 2)
        self.assertEqual(self.job["jobtype"], "shop.tasks.note")
        self.assertEqual(self.job["args"], ["hi", 2])
        self.assertEqual(self.job["jid"], result.id)
        self.assertEqual(self.job["queue"], "default")
        self.assertEqual(self.job["retry"], 25)
        self.assertEqual(self.job["reserve_for"], 1800)
        self.assertNotIn("custom", self.job)
        self.assertEqual(result.status, "READY")
        self.assertIsNotNone(result.enqueued_at)
        self.assertEqual(result.backend, "default")

    def test_keywords_become_positions_and_the_rest_goes_to_custom(self):
        tasks.note.enqueue(times=3, text="hi", suffix="!")
        self.assertEqual(self.job["args"], ["hi", 3])
        self.assertEqual(self.job["custom"], {"kwargs": {"suffix": "!"}})

    def test_a_keyword_behind_a_gap_stays_a_keyword(self):
        tasks.letter.enqueue("ada", "bob", sent="now")
        self.assertEqual(self.job["args"], ["ada", "bob"])
        self.assertEqual(self.job["custom"], {"kwargs": {"sent": "now"}})

    def test_the_context_is_not_an_argument(self):
        tasks.attempt.enqueue(text="hi")
        self.assertEqual(self.job["args"], ["hi"])

    def test_arguments_that_the_task_does_not_take_are_refused(self):
        with self.assertRaisesRegex(TypeError, "shop.tasks.note: missing a required argument"):
            tasks.note.enqueue()
        with self.assertRaisesRegex(TypeError, "unexpected keyword argument 'color'"):
            tasks.note.enqueue("hi", color="red")
        with self.assertRaises(TypeError):
            tasks.attempt.enqueue("hi", context=1)
        self.assertEqual(self.payloads, [])

    def test_arguments_that_are_not_json_are_refused(self):
        with self.assertRaises(TypeError):
            tasks.note.enqueue(object())
        with self.assertRaises(FaktoryPayloadError):
            tasks.note.enqueue(2**60)
        self.assertEqual(self.payloads, [])

    def test_run_after_is_the_time_of_the_job(self):
        when = timezone.now() + timedelta(hours=1)
        tasks.note.using(run_after=when).enqueue("later")
        self.assertEqual(
            self.job["at"], when.astimezone(timezone.timezone.utc).isoformat()[:-6] + "Z"
        )

    def test_run_after_without_a_zone_is_in_that_of_the_settings(self):
        with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
            when = timezone.datetime(2030, 1, 2, 12)
            tasks.note.using(run_after=when).enqueue("later")
        self.assertEqual(self.job["at"], "2030-01-02T03:00:00Z")

    def test_queues_are_those_of_the_settings(self):
        tasks.letter.enqueue("ada")
        self.assertEqual(self.job["queue"], "mail")
        with self.assertRaisesRegex(InvalidTask, "Queue 'nowhere' is not valid"):
            tasks.note.using(queue_name="nowhere").enqueue("hi")

    def test_a_task_has_options_of_its_own(self):
        changed = tasks.note.using(retry=3, reserve_for=60, backtrace=5, queue_name="mail")
        changed.enqueue("hi")
        sent = {name: self.job[name] for name in ("retry", "reserve_for", "backtrace", "queue")}
        self.assertEqual(sent, {"retry": 3, "reserve_for": 60, "backtrace": 5, "queue": "mail"})
        self.assertIsInstance(changed, FaktoryTask)
        self.assertIsNone(tasks.note.retry)
        with self.assertRaisesRegex(InvalidTask, "retry is 'no'"):
            tasks.note.using(retry="no")
        with self.assertRaises(TypeError):
            tasks.note.using(colour="red")

    def test_options_are_the_defaults_of_all_tasks(self):
        backend = {"BACKEND": "faktory.contrib.django.FaktoryBackend"}
        options = {"retry": 2, "reserve_for": 90, "backtrace": 7}
        with override_settings(TASKS={"default": {**backend, "OPTIONS": options}}):
            tasks.note.enqueue("hi")
            tasks.note.using(retry=0).enqueue("hi")
        self.assertEqual([job["retry"] for job in self.payloads], [2, 0])
        self.assertEqual(self.payloads[0]["reserve_for"], 90)
        self.assertEqual(self.payloads[0]["backtrace"], 7)

    def test_a_queue_for_each_range_of_priorities(self):
        backend = task_backends["priority"]
        self.assertTrue(backend.supports_priority)
        self.assertFalse(task_backends["default"].supports_priority)
        found = {n: backend.queue_of(tasks.ranked.using(priority=n)) for n in (100, 99, 0, -1, -99)}
        expected = {100: "critical", 99: "default", 0: "default", -1: "low", -99: "low"}
        self.assertEqual(found, expected)
        tasks.ranked.using(priority=100).enqueue()
        self.assertEqual(self.job["queue"], "critical")
        self.assertEqual(high_only(), ["default", "default", "critical"])
        with self.assertRaisesRegex(InvalidTask, "both say where the task waits"):
            tasks.ranked.using(priority=100, queue_name="mail")
        with self.assertRaisesRegex(InvalidTask, "does not support setting priority"):
            tasks.note.using(priority=1)

    def test_the_contract_of_the_backend(self):
        backend = task_backends["default"]
        self.assertIsInstance(backend, FaktoryBackend)
        self.assertTrue(backend.supports_defer)
        self.assertTrue(backend.supports_async_task)
        self.assertFalse(backend.supports_get_result)
        with self.assertRaises(NotImplementedError):
            backend.get_result("1")
        with self.assertRaises(NotImplementedError):
            async_to_sync(backend.aget_result)("1")

    def test_a_middleware_sees_the_job(self):
        seen = []

        def middleware(payload, call_next):
            payload["custom"] = {**payload.get("custom", {}), "trace": "1"}
            seen.append(payload["jobtype"])
            return call_next()

        faktory.client_middleware.add(middleware)
        self.addCleanup(faktory.client_middleware.remove, middleware)
        tasks.note.enqueue("hi", suffix="!")
        async_to_sync(tasks.note.aenqueue)("hi")
        self.assertEqual(seen, ["shop.tasks.note"] * 2)
        self.assertEqual(self.payloads[0]["custom"], {"kwargs": {"suffix": "!"}, "trace": "1"})

    def test_a_signal_for_each_task_that_is_enqueued(self):
        seen = []

        def receiver(sender, task_result, **_):
            seen.append((sender, task_result.id, task_result.enqueued_at is not None))
            raise RuntimeError("a receiver's error changes nothing")

        async def areceiver(sender, task_result, **_):
            seen.append("async")

        task_enqueued.connect(receiver)
        self.addCleanup(task_enqueued.disconnect, receiver)
        with self.assertLogs("django.dispatch", "ERROR"):
            result = tasks.note.enqueue("hi")
        self.assertEqual(seen, [(FaktoryBackend, result.id, True)])
        task_enqueued.connect(areceiver)
        self.addCleanup(task_enqueued.disconnect, areceiver)
        with self.assertLogs("django.dispatch", "ERROR"):
            async_to_sync(tasks.note.aenqueue)("hi")
        self.assertEqual(len(seen), 3)

    def test_a_task_survives_pickle(self):
        with mock.patch.dict(vars(tasks), {"_note": tasks.note.func}):
            job = registry.find("shop.tasks.note")
            self.assertIs(pickle.loads(pickle.dumps(job)).task.func, tasks.note.func)


class AsyncTests(InFake, SimpleTestCase):
    async def test_aenqueue_pushes_the_same_job(self):
        result = await tasks.note.aenqueue("hi", suffix="!")
        self.assertEqual(self.job["jid"], result.id)
        self.assertEqual(self.job["custom"], {"kwargs": {"suffix": "!"}})
        self.assertIsNotNone(result.enqueued_at)

    def test_aenqueue_does_not_wait_for_the_shared_thread(self):
        leave = threading.Event()

        async def main():
            blocked = asyncio.create_task(sync_to_async(leave.wait)(30))
            await asyncio.sleep(0)
            result = await asyncio.wait_for(tasks.note.aenqueue("hi"), 20)
            leave.set()
            await blocked
            return result

        result = asyncio.run(main())
        self.assertEqual(self.job["jid"], result.id)


class RunTests(InFake, TestCase):
    databases = {"default", "archive"}

    def test_tasks_run_in_the_transaction_of_the_test(self):
        tasks.note.enqueue("a", suffix="!")
        tasks.letter.enqueue("ada", "bob", subject="hi")
        tasks.renamed.enqueue("c")
        tasks.anote.enqueue("in a test")
        self.assertEqual(faktory.testing.drain_all(), 4)
        expected = ["a!", "in a test", "renamed c", "to ada ['bob'] {'subject': 'hi'}"]
        self.assertEqual(notes(), expected)
        self.assertTrue(connection.in_atomic_block)

    def test_tasks_run_at_once_in_inline_mode(self):
        with faktory.testing.inline():
            tasks.note.enqueue("a")
            tasks.anote.enqueue("in a test")
            jobs.count.perform_async("b")
        self.assertEqual(notes(), ["a", "counted b", "in a test"])

    def test_the_draining_worker_leaves_the_connection_alone(self):
        with served() as server:
            tasks.note.enqueue("a")
            jobs.count.perform_async("b")
            self.assertEqual(server.drain(), 2)
        self.assertEqual(server.worker.errors, [])
        self.assertEqual(notes(), ["a", "counted b"])

    def test_middleware_leaves_the_connection_of_a_test_alone(self):
        with faktory.testing.fake(middleware=True):
            tasks.note.enqueue("a")
            faktory.testing.drain_all()
        self.assertEqual(notes(), ["a"])

    def test_a_task_that_gets_its_context(self):
        result = tasks.attempt.enqueue("hi")
        with self.assertRaisesRegex(ValueError, "the first attempt"):
            faktory.testing.drain_all()
        self.assertEqual(notes(), [f"hi 1 {result.id} RUNNING"])

    def test_signals_around_a_run(self):
        seen = []

        def receiver(sender, signal, task_result, **_):
            seen.append((task_result.id, task_result.status, task_result.is_finished))
            self.assertIs(sender, FaktoryBackend)
            if task_result.errors:
                seen.append(task_result.errors[0].exception_class)
                self.assertIn("the first attempt", task_result.errors[0].traceback)

        for signal in (task_started, task_finished):
            signal.connect(receiver)
            self.addCleanup(signal.disconnect, receiver)
        done, failed = tasks.note.enqueue("a"), tasks.attempt.enqueue("b")
        with self.assertLogs(level="INFO"), self.assertRaises(ValueError):
            faktory.testing.drain_all()
        self.assertEqual(
            seen,
            [
                (done.id, "RUNNING", False),
                (done.id, "SUCCESSFUL", True),
                (failed.id, "RUNNING", False),
                (failed.id, "FAILED", True),
                ValueError,
            ],
        )

    def test_a_task_of_another_backend_is_run_too(self):
        tasks.elsewhere.using(backend="default").enqueue("a")
        faktory.testing.drain_all()
        self.assertEqual(notes(), ["a"])


class CommitTests(InFake, TestCase):
    databases = {"default", "archive"}

    def test_a_push_waits_for_the_commit(self):
        with self.captureOnCommitCallbacks() as callbacks:
            result = tasks.committed.enqueue("a")
            self.assertEqual(self.payloads, [])
        self.assertIsNone(result.enqueued_at)
        self.assertEqual(len(callbacks), 1)
        callbacks[0]()
        self.assertEqual(self.job["jid"], result.id)
        self.assertIsNotNone(result.enqueued_at)

    def test_callbacks_that_are_executed_push(self):
        with self.captureOnCommitCallbacks(execute=True):
            tasks.committed.enqueue("a")
            tasks.note.enqueue("b")
            self.assertEqual([job["args"] for job in self.payloads], [["b"]])
        self.assertEqual([job["args"] for job in self.payloads], [["b"], ["a"]])

    def test_the_commit_is_that_of_the_alias(self):
        with self.captureOnCommitCallbacks(using="default") as callbacks:
            tasks.archived.enqueue("a")
        self.assertEqual(callbacks, [])
        with self.captureOnCommitCallbacks(using="archive", execute=True):
            tasks.archived.enqueue("b")
        self.assertEqual(self.job["args"], ["b"])

    def test_what_no_job_can_hold_is_refused_before_the_commit(self):
        with self.captureOnCommitCallbacks() as callbacks, self.assertRaises(FaktoryPayloadError):
            tasks.committed.enqueue(2**60)
        self.assertEqual(callbacks, [])

    def test_aenqueue_in_a_transaction_waits_for_it_too(self):
        with self.captureOnCommitCallbacks(execute=True):
            result = async_to_sync(tasks.committed.aenqueue)("a")
            self.assertEqual(self.payloads, [])
        self.assertEqual(self.job["jid"], result.id)

    def test_without_its_app_the_outbox_is_refused_with_the_remedy(self):
        backend = {"BACKEND": "faktory.contrib.django.FaktoryBackend"}
        with override_settings(
            TASKS={"default": {**backend, "OPTIONS": {"enqueue_on_commit": "outbox"}}}
        ):
            with self.assertRaisesRegex(ImproperlyConfigured, "INSTALLED_APPS"):
                tasks.note.enqueue("a")
            with self.assertRaisesRegex(ImproperlyConfigured, "INSTALLED_APPS"):
                async_to_sync(tasks.note.aenqueue)("a")
        self.assertEqual(self.payloads, [])


class RollbackTests(InFake, TransactionTestCase):
    databases = {"default", "archive"}

    def test_a_transaction_that_is_rolled_back_pushes_nothing(self):
        with transaction.atomic():
            tasks.committed.enqueue("kept")
            self.assertEqual(self.payloads, [])
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            tasks.committed.enqueue("dropped")
            tasks.note.enqueue("at once")
            raise ZeroDivisionError
        self.assertEqual([job["args"] for job in self.payloads], [["kept"], ["at once"]])

    def test_a_transaction_without_a_hook_for_its_commit_is_refused(self):
        transaction.set_autocommit(False)
        try:
            with self.assertRaises(transaction.TransactionManagementError):
                tasks.committed.enqueue("too early")
            tasks.note.enqueue("at once")
        finally:
            transaction.rollback()
            transaction.set_autocommit(True)
        self.assertEqual(self.job["args"], ["at once"])

    def test_without_a_transaction_a_push_waits_for_nothing(self):
        result = tasks.committed.enqueue("a")
        self.assertEqual(self.job["jid"], result.id)
        self.assertIsNotNone(result.enqueued_at)
        aresult = async_to_sync(tasks.committed.aenqueue)("b")
        self.assertEqual(self.payloads[1]["jid"], aresult.id)


@skipUnless(apps.is_installed("faktory.contrib.django.outbox"), "the app is not installed")
@override_settings(
    TASKS={
        "default": {
            "BACKEND": "faktory.contrib.django.FaktoryBackend",
            "OPTIONS": {"enqueue_on_commit": "outbox", "retry": 4},
        }
    }
)
class OutboxTests(InFake, TransactionTestCase):
    def rows(self):
        from faktory.contrib.django.outbox.models import OutboxJob

        return [json.loads(row.payload) for row in OutboxJob.objects.order_by("id")]

    def test_a_row_in_the_transaction_of_the_task(self):
        with transaction.atomic():
            result = tasks.note.enqueue("kept", suffix="!")
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            tasks.note.enqueue("dropped")
            raise ZeroDivisionError
        aresult = async_to_sync(tasks.note.aenqueue)("by aenqueue")
        first, second = self.rows()
        self.assertEqual(first["jid"], result.id)
        self.assertEqual((first["args"], first["custom"]), (["kept"], {"kwargs": {"suffix": "!"}}))
        self.assertEqual((first["jobtype"], first["retry"]), ("shop.tasks.note", 4))
        self.assertEqual(second["jid"], aresult.id)
        self.assertIsNotNone(result.enqueued_at)
        self.assertEqual(self.payloads, [])

    def test_the_relay_pushes_what_the_task_has_written(self):
        when = timezone.now() + timedelta(hours=1)
        result = tasks.note.using(run_after=when).enqueue("later")
        call_command("faktory_outbox", database=["default"], once=True, stdout=StringIO())
        self.assertEqual(self.job["jid"], result.id)
        self.assertIn("at", self.job)
        self.assertEqual(self.rows(), [])

    def test_what_no_job_can_hold_is_refused_at_once(self):
        with self.assertRaises(FaktoryPayloadError):
            tasks.note.enqueue(2**60)
        self.assertEqual(self.rows(), [])


class FindTests(SimpleTestCase):
    def test_tasks_and_jobs_of_the_apps_are_found(self):
        names = registry.names()
        for name in ("shop.tasks.note", "shop.tasks.anote", "count", "acount", "Recount"):
            self.assertIn(name, names)
        self.assertEqual(registry.queues()["shop.tasks.letter"], "mail")
        self.assertEqual(registry.queues()["shop.tasks.anywhere"], "its-own")
        expected = {"default", "mail", "bulk", "stock", "critical", "low", "its-own", "variant"}
        self.assertEqual(registry.fetched_queues(), expected)

    def test_a_task_of_a_module_that_is_not_imported_yet(self):
        self.assertEqual(JobRunner().find("mail.tasks.letters.send").queue, "mail")

    def test_what_is_not_a_task_is_refused(self):
        for name in (
            "os.system",
            "os.path.join",
            "shop.tasks.plain",
            "shop.tasks.sneaky",
            "shop.tasks.models",
            "shop.tasks.note.func",
            "shop.tasks.note.enqueue",
            "mail.tasks.letters.send.func",
            "shop.models.Note",
            "shop.trap.spring",
            "shop.trap",
            "mail.tasksnot.there.x",
            "django.core.management.call_command",
            "wsgiref.simple_server.demo_app",
            "..",
            ".",
            "mail.tasks.",
            "mail.tasks..x",
            "x." * 1000 + "y",
            "é.b",
            "a b.c",
        ):
            with self.subTest(name):
                found = registry.find(name)
                if name in (
                    "mail.tasks.",
                    "mail.tasks..x",
                ):  # where tasks are declared, it is unknown
                    self.assertIsNone(found)
                    continue
                self.assertEqual(found.policy.retry_on, ())
                with self.assertRaisesRegex(SuspiciousOperation, "is not a task"):
                    found.run(None)

    def test_a_name_that_is_missing_where_tasks_are_is_unknown(self):
        for name in ("mail.tasks.letters.gone", "mail.tasks.gone.send", "shop.jobs.gone"):
            self.assertIsNone(registry.find(name))
        self.assertIsNone(registry.find("NobodyKnows"))

    def test_a_module_that_cannot_be_imported_fails_its_jobs_as_they_are(self):
        found = registry.find("mail.tasks.broken.send")
        self.assertIsNone(found.policy)
        with self.assertRaisesRegex(RuntimeError, "cannot be imported"):
            found.run(None)


class CheckTests(SimpleTestCase):
    def found(self, **params):
        backend = FaktoryBackend("default", params)
        return [(each.id, each.msg) for each in backend.check()]

    def test_nothing_is_wrong(self):
        self.assertEqual(self.found(QUEUES=["default"]), [])
        self.assertEqual(self.found(OPTIONS={"enqueue_on_commit": "archive", "retry": -1}), [])

    def test_queues_that_cannot_be(self):
        (id, text), (other, _) = self.found(
            QUEUES=["default", "my mail"], OPTIONS={"priority_queues": {0: "no/"}}
        )
        self.assertEqual((id, other), ("faktory.E001", "faktory.E001"))
        self.assertIn("'my mail'", text)

    def test_an_address_that_cannot_be_read(self):
        for url in ("http://x", "tcp://:secret@host:port", 7419):
            with self.subTest(url):
                ((id, text),) = self.found(OPTIONS={"url": url})
                self.assertEqual(id, "faktory.E002")
                self.assertNotIn("secret", text)
        with mock.patch.dict("os.environ", {"FAKTORY_PROVIDER": "NOT_THERE"}):
            self.assertEqual(self.found()[0][0], "faktory.E002")

    def test_options_that_do_not_exist_or_cannot_be(self):
        ((id, text),) = self.found(OPTIONS={"retries": 3})
        self.assertEqual(id, "faktory.E003")
        self.assertIn("'retries'", text)
        for options in ({"retry": "3"}, {"priority_queues": {"high": "x"}}, {"reserve_for": -1}):
            with self.subTest(options):
                self.assertEqual(self.found(OPTIONS=options)[0][0], "faktory.E003")

    def test_an_outbox_that_is_not_there_and_an_unknown_alias(self):
        self.assertEqual(self.found(OPTIONS={"enqueue_on_commit": "outbox"})[0][0], "faktory.E004")
        self.assertEqual(self.found(OPTIONS={"enqueue_on_commit": "other"})[0][0], "faktory.E005")
        self.assertEqual(self.found(OPTIONS={"enqueue_on_commit": True})[0][0], "faktory.E005")


class DeclaredTests(InFake, SimpleTestCase):
    def test_task_takes_options_of_this_backend_from_6_1_on(self):
        try:
            declared = task(queue_name="mail", retry=3)(tasks.plain)
        except TypeError as error:
            self.assertIn("retry", str(error))
            self.skipTest("Django before 6.1 has the four standard options only")
        declared.enqueue()
        self.assertEqual((self.job["queue"], self.job["retry"]), ("mail", 3))
        self.assertEqual(json.loads(json.dumps(self.job))["args"], [])
