"""manage.py prepare: migrates all databases."""

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connections


class Command(BaseCommand):
    def handle(self, **options):
        for alias in connections:
            call_command("migrate", database=alias, verbosity=0)
