"""The table, the same as `faktory.outbox.Outbox` creates."""

from __future__ import annotations

import json

from django.db import models
from django.db.models.functions import Now

from . import TABLE


class OutboxJob(models.Model):
    """A job that waits to be pushed, or that the server refused."""

    id = models.BigAutoField(primary_key=True)
    jid = models.CharField("job id", max_length=255)
    payload = models.TextField(help_text="The job, as JSON.")
    created = models.DateTimeField(db_default=Now())
    refused = models.TextField(
        null=True, blank=True, help_text="Why the server refused the job; it is not sent again."
    )

    class Meta:
        db_table = TABLE
        ordering = ("id",)
        verbose_name = "job in the outbox"
        verbose_name_plural = "jobs in the outbox"

    def __str__(self) -> str:
        return f"{self.jobtype} {self.jid}"

    @property
    def jobtype(self) -> str:
        """The type of the job; empty where the payload is not a job."""
        try:
            return str(json.loads(self.payload)["jobtype"])
        except (ValueError, TypeError, KeyError):
            return ""
