"""Django's own tests of the project: manage.py test."""

import os
from datetime import timedelta
from io import StringIO
from unittest import mock

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

import faktory
import faktory.testing
from faktory.contrib.django.outbox import add
from faktory.contrib.django.outbox.models import OutboxJob
from faktory.server import EmbeddedServer

ALIAS = "second" if os.environ.get("SHOP_ROUTER") else "default"
ALIASES = ["second"] if os.environ.get("SHOP_ROUTER") else ["default", "second"]


@faktory.job
def order(number: int) -> None: ...


class Adding(TestCase):
    databases = frozenset({"default", "second"})

    def test_a_row_is_written_in_the_database_of_the_router(self):
        add({"jobtype": "order", "args": [1], "jid": "jid-number-1"})
        row = OutboxJob.objects.using(ALIAS).get()
        assert (row.jid, row.jobtype, row.refused) == ("jid-number-1", "order", None)
        assert str(row) == "order jid-number-1"
        assert abs(timezone.now() - row.created) < timedelta(minutes=5)

    def test_a_row_is_rolled_back_with_its_transaction(self):
        with transaction.atomic(using=ALIAS):
            add({"jobtype": "order", "args": [1]})
            transaction.set_rollback(True, using=ALIAS)
        assert not OutboxJob.objects.using(ALIAS).exists()

    def test_messages_and_chains_are_written_too(self):
        add(order.message(1))
        add(faktory.chain(order.message(2), order.message(3)))
        assert OutboxJob.objects.using(ALIAS).count() == 2

    def test_a_job_that_could_not_be_sent_is_an_error(self):
        with pytest.raises(faktory.FaktoryPayloadError, match="has no 'args'"):
            add({"jobtype": "order"})

    def test_a_row_that_is_not_a_job_has_no_type(self):
        assert OutboxJob(payload="[").jobtype == ""


class Named(TestCase):
    databases = frozenset({"default", "second"})

    def test_another_database_can_be_named(self):
        if os.environ.get("SHOP_ROUTER"):
            self.skipTest("the outbox is in one database")
        add({"jobtype": "order", "args": []}, using="second")
        assert OutboxJob.objects.using("second").count() == 1
        assert OutboxJob.objects.using("default").count() == 0


class Admin(TestCase):
    databases = frozenset({"default", "second"})

    def setUp(self):
        User.objects.create_superuser("ada", password="x")
        self.client.login(username="ada", password="x")
        add({"jobtype": "order", "args": [1], "jid": "jid-waiting"})
        add({"jobtype": "order", "args": [2], "jid": "jid-refused"})
        OutboxJob.objects.using(ALIAS).filter(jid="jid-refused").update(refused="no such tenant")

    def test_the_page_shows_rows_and_reasons(self):
        page = self.client.get("/admin/faktory_outbox/outboxjob/")
        self.assertContains(page, "jid-waiting")
        self.assertContains(page, "no such tenant")
        refused = self.client.get("/admin/faktory_outbox/outboxjob/?state=refused")
        self.assertNotContains(refused, "jid-waiting")
        self.assertContains(refused, "jid-refused")
        waiting = self.client.get("/admin/faktory_outbox/outboxjob/?state=waiting")
        self.assertNotContains(waiting, "jid-refused")
        assert self.client.get("/admin/faktory_outbox/outboxjob/add/").status_code == 403
        row = OutboxJob.objects.using(ALIAS).first()
        page = self.client.get(f"/admin/faktory_outbox/outboxjob/{row.pk}/change/")
        self.assertContains(page, "jid-waiting")

    def test_the_action_sends_refused_jobs_again(self):
        ids = list(OutboxJob.objects.using(ALIAS).values_list("pk", flat=True))
        page = self.client.post(
            "/admin/faktory_outbox/outboxjob/",
            {"action": "send_again", "_selected_action": ids},
            follow=True,
        )
        self.assertContains(page, "1 job is sent again.")
        assert not OutboxJob.objects.using(ALIAS).filter(refused__isnull=False).exists()


class Relaying(TransactionTestCase):
    databases = frozenset({"default", "second"})

    def setUp(self):
        self.server = self.enterContext(EmbeddedServer())
        self.enterContext(mock.patch.dict(os.environ, FAKTORY_URL=self.server.url))

    def jids(self):
        return [job["jid"] for job in self.server.queues.get("default", [])]

    def once(self, *words):
        """Run the command with --once; return what it writes, or its error."""
        output = StringIO()
        try:
            call_command("faktory_outbox", "--once", *words, stdout=output)
        except CommandError as error:
            return str(error)
        return output.getvalue()

    def add(self, *jids, using=None):
        with transaction.atomic(using=using or ALIAS):
            for jid in jids:
                add({"jobtype": "order", "args": [], "jid": jid}, using=using)

    def test_once_pushes_what_is_there(self):
        self.add("jid-number-1", "jid-number-2", "jid-number-3")
        assert self.once("--batch", "2", "--database", ALIAS) == f"{ALIAS}: 3 jobs are pushed.\n"
        assert self.jids() == ["jid-number-1", "jid-number-2", "jid-number-3"]
        expected = {f"{alias}: 0 jobs are pushed.\n" for alias in ALIASES}
        assert self.once() == "".join(sorted(expected))

    def test_a_database_that_is_named_is_the_only_one(self):
        if os.environ.get("SHOP_ROUTER"):
            self.skipTest("the outbox is in one database")
        self.add("jid-number-1")
        self.add("jid-number-2", using="second")
        assert self.once("--database", "second") == "second: 1 jobs are pushed.\n"
        assert self.jids() == ["jid-number-2"]

    def test_what_is_wrong_is_said(self):
        for words, complaint in {
            ("--database", "third"): "--database third is not in DATABASES: default, second.",
            ("--batch", "0"): "batch is 0: it is the rows of a round, 1 to 10000.",
        }.items():
            assert complaint in self.once(*words)
        self.server.stop()
        assert "nothing listens on" in self.once()
        with mock.patch.object(OutboxJob._meta, "db_table", "no_such_table"):
            complaint = "no database has the table of the outbox: run manage.py migrate."
            assert self.once() == complaint

    def test_jobs_go_to_the_server_of_the_backend(self):
        def backend(url):
            return {"BACKEND": "x", "OPTIONS": {"url": url, "enqueue_on_commit": "outbox"}}

        self.add("jid-number-1")
        url = self.server.url
        os.environ["FAKTORY_URL"] = "tcp://127.0.0.1:1"
        with override_settings(TASKS={"default": backend("tcp://127.0.0.1:1"), "b": backend(url)}):
            complaint = "the backends default, b in TASKS enqueue by the outbox and have different"
            assert complaint in self.once()
        with override_settings(TASKS={"default": {"BACKEND": "x"}, "b": backend(url)}):
            self.once()
        assert self.jids() == ["jid-number-1"]

    def test_in_fake_mode_jobs_go_to_the_fake(self):
        with faktory.testing.fake():
            add(order.message(7))
            self.once()
            assert [job["args"] for job in order.jobs] == [[7]]
        assert not OutboxJob.objects.using(ALIAS).exists()

    def test_the_migration_makes_the_table_of_the_model(self):
        output = StringIO()
        call_command("makemigrations", "--check", "--dry-run", stdout=output)
        assert output.getvalue() == "No changes detected\n"
        call_command("sqlmigrate", "faktory_outbox", "0001", database=ALIAS, stdout=output)
        assert 'CREATE TABLE "faktory_outbox"' in output.getvalue()
