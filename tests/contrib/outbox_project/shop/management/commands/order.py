"""manage.py order JID...: writes jobs in one transaction; with --fail it is rolled back."""

from django.core.management.base import BaseCommand
from django.db import transaction

from faktory.contrib.django.outbox import add


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("jids", nargs="+")
        parser.add_argument("--using")
        parser.add_argument("--fail", action="store_true")

    def handle(self, *, jids, using, fail, **options):
        with transaction.atomic(using=using):
            for jid in jids:
                add({"jobtype": "order", "args": [], "jid": jid}, using=using)
            if fail:
                transaction.set_rollback(True, using=using)
