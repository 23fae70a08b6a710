"""A report: how many primes there are below a number."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models


class Report(models.Model):
    """Waits until a worker has built it; `percent` says how far that is."""

    class State(models.TextChoices):
        WAITING = "waiting"
        RUNNING = "running"
        DONE = "done"

    limit = models.PositiveIntegerField(
        "count primes below",
        default=20_000_000,
        validators=[MinValueValidator(10), MaxValueValidator(100_000_000)],
    )
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    percent = models.PositiveSmallIntegerField(default=0)
    primes = models.PositiveIntegerField(null=True)
    task = models.CharField("id of the last task", max_length=100, blank=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self):
        return f"Primes below {self.limit:,}"
