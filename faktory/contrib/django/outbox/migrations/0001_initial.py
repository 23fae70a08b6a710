"""Create the table."""

import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    """The table, the same as `faktory.outbox.Outbox` creates."""

    initial = True

    dependencies = ()

    operations = (
        migrations.CreateModel(
            name="OutboxJob",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("jid", models.CharField(max_length=255, verbose_name="job id")),
                ("payload", models.TextField(help_text="The job, as JSON.")),
                (
                    "created",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
                (
                    "refused",
                    models.TextField(
                        blank=True,
                        help_text="Why the server refused the job; it is not sent again.",
                        null=True,
                    ),
                ),
            ],
            options={
                "verbose_name": "job in the outbox",
                "verbose_name_plural": "jobs in the outbox",
                "db_table": "faktory_outbox",
                "ordering": ("id",),
            },
        ),
    )
