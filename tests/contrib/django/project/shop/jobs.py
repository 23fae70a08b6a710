"""Jobs of this package, beside Django's tasks."""

import faktory

from . import models


@faktory.job(queue="stock")
def count(text: str) -> None:
    models.Note.objects.create(text=f"counted {text}")


@faktory.job
async def acount(text: str) -> None:
    await models.Note.objects.acreate(text=f"counted {text} on the loop")


class Recount(faktory.Job):
    def perform(self, text):
        models.Note.objects.create(text=f"recounted {text}")
