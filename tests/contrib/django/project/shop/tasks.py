"""Tasks of Django."""

from asgiref.sync import SyncToAsync
from django.db import connection

from . import models
from .framework import task


@task
def note(text, times=1, *, suffix=""):
    for _ in range(times):
        models.Note.objects.create(text=text + suffix)


@task(queue_name="mail")
def letter(to, *copies, **headers):
    models.Note.objects.create(text=f"to {to} {list(copies)} {headers}")


@task
async def anote(text):
    assert SyncToAsync.thread_sensitive_context.get(None) is not None or text == "in a test"
    await models.Note.objects.acreate(text=text)


@task(takes_context=True)
def attempt(context, text):
    result = context.task_result
    models.Note.objects.create(text=f"{text} {context.attempt} {result.id} {result.status}")
    if context.attempt == 1:
        raise ValueError("the first attempt")


@task(backend="commit")
def committed(text):
    models.Note.objects.create(text=text)


@task(backend="archive")
def archived(text):
    models.Note.objects.create(text=text)


@task(backend="priority")
def ranked():
    pass


@task(backend="open", queue_name="its-own")
def anywhere():
    pass


elsewhere_too = anywhere.using(queue_name="variant")


@task(backend="dummy")
def elsewhere(text):
    models.Note.objects.create(text=text)


def _renamed(text):
    models.Note.objects.create(text=f"renamed {text}")


renamed = task(_renamed)


@task
async def alook(number):
    """Read from the database, in the thread of this task."""
    await models.Note.objects.acount()
    assert await models.Note.objects.filter(text=str(number)).acount() == 0


@task
def which_connection():
    """Note the process of the server at the other end: of PostgreSQL."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        models.Note.objects.create(text=f"served by {cursor.fetchone()[0]}")


def plain():
    """Importable, and not a task."""
    models.Note.objects.create(text="a plain function was called")


class Sneaky:
    """Says that it is a task, if it is asked."""

    @property
    def __class__(self):
        return type(note)

    module_path = "shop.tasks.sneaky"


sneaky = Sneaky()
