"""Imported when a job names a task of it."""

from shop.framework import task
from shop.models import Note


@task(queue_name="mail")
def send(to):
    Note.objects.create(text=f"sent to {to}")
