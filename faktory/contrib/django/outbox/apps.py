"""The app."""

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    """`faktory.contrib.django.outbox` in INSTALLED_APPS."""

    name = "faktory.contrib.django.outbox"
    label = "faktory_outbox"
    verbose_name = "Faktory outbox"
    default_auto_field = "django.db.models.BigAutoField"
